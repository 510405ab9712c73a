"""What `invert` says of its inversions: in words, as values, on a page and in a file."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from elbowroom.cli.pairs import AIMS, Pairs
from elbowroom.cli.single import cost_text, save_arrays
from elbowroom.invariance import Inversion
from elbowroom.norms import L2, Linf
from elbowroom.papers.inversion_pages import Inverted
from elbowroom.papers.page import About
from elbowroom.perception.statistics import MedianInterval, median_interval
from elbowroom.report.figures import number, percent
from elbowroom.results import InversionResult

MOST_MISSES = 10  # told one by one
# What a result has of each inversion.
ROWS = ("example", "distance", "distance_linf", "moved", "feature_mse", "success", "nearer")


@dataclass(frozen=True)
class Done:
    """What came out.

    wanted, nearby, reached: logits `(M, K)`: those wanted, or None where they are not known; at
             what the inversions went towards; at the examples.
    misses:  rows without success. shifted: of these, the inversions up to a common shift, and the
             largest differences of a probability from those wanted; None where not looked for.
    """

    pairs: Pairs
    method: Inversion
    found: InversionResult
    wanted: Tensor | None
    nearby: Tensor
    reached: Tensor
    misses: list[int]
    shifted: tuple[InversionResult, Tensor] | None

    @property
    def between(self) -> Tensor | None:
        """`(M,)`, L2, of start and toward, where there is a start."""
        if self.pairs.start is None:
            return None
        return L2.length(self.pairs.start.double() - self.pairs.toward.double())


def told(done: Done, method: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The result for programs, and for people. Distances of misses are infinite: they count."""
    found, pairs = done.found, done.pairs
    success, nearer = (float(each.double().mean()) for each in (found.success, found.nearer))
    medians = {"L2": median_interval(found.distance), "Linf": median_interval(found.distance_linf)}
    largest = float(found.feature_mse[found.success].max()) if bool(found.success.any()) else None
    lines = [
        ("inversions", f"{len(pairs)} by {method}: {features_text(done.method)}"),
        ("success", f"{percent(success)} have the wanted features"),
        *_nearer_line(done, nearer),
        *((f"median {norm}", _interval(median)) for norm, median in medians.items()),
    ]
    values: dict[str, Any] = {
        "method": method,
        "layer": done.method.layer,
        "up_to_shift": done.method.up_to_shift,
        "pairs": len(pairs),
        "starts": pairs.starts if pairs.start is not None else None,
        "towards": pairs.aim or pairs.towards,
        "success_rate": success,
        "median_distance": _interval_values(medians["L2"]),
        "median_distance_linf": _interval_values(medians["Linf"]),
        "largest_feature_mse": largest,
        "tolerance": done.method.tolerance,
        "distances": [_finite(d) for d in found.distance.tolist()],
    }
    if done.between is not None:
        values["nearer_rate"] = nearer
        values["median_between"] = median_interval(done.between).median
    mse = f"{number(largest)} (up to {number(done.method.tolerance)} counts as the same)"
    lines.append(("largest feature MSE", mse if largest is not None else "no success"))
    values["misses"] = [_miss(done, place) for place in range(len(done.misses))]
    lines += [
        (f"inversion {miss['inversion']} missed", _miss_text(miss))
        for miss in values["misses"][:MOST_MISSES]
    ]
    if len(done.misses) > MOST_MISSES:
        more = len(done.misses) - MOST_MISSES
        lines.append(("missed", f"and {more} more, which --json lists"))
    lines.append(("cost", cost_text(found.cost, len(pairs))))
    values["cost"] = asdict(found.cost)
    return values, lines


def _nearer_line(done: Done, rate: float) -> list[tuple[str, str]]:
    """A start has the wanted features, so that success says nothing of the search."""
    if done.between is None:
        return []
    apart = number(median_interval(done.between).median)
    return [
        ("nearer", f"{percent(rate)} are nearer than the start, which is {apart} L2 away (median)")
    ]


def _miss(done: Done, place: int) -> dict[str, Any]:
    row = done.misses[place]
    miss: dict[str, Any] = {
        "inversion": row,
        "feature_mse": float(done.found.feature_mse[row]),
        "moved": float(done.found.moved[row]),
        "largest_probability_gap": None,
        "up_to_shift": None,
    }
    if done.wanted is not None:
        gap = probability_gap(done.reached[row : row + 1], done.wanted[row : row + 1])
        miss["largest_probability_gap"] = float(gap)
    if done.shifted is not None:
        found, gaps = done.shifted
        miss["up_to_shift"] = {
            "success": bool(found.success[place]),
            "feature_mse": float(found.feature_mse[place]),
            "moved": float(found.moved[place]),
            "largest_probability_gap": float(gaps[place]),
        }
    return miss


def probability_gap(reached: Tensor, wanted: Tensor) -> Tensor:
    """`(N,)`: the largest difference of a softmax probability, of logits `(N, K)`."""
    return (reached.double().softmax(dim=1) - wanted.double().softmax(dim=1)).abs().amax(dim=1)


def _miss_text(miss: dict[str, Any]) -> str:
    """A sentence without an end."""
    text = f"the closest feature MSE is {_closest(miss)}"
    shifted = miss["up_to_shift"]
    if shifted is None:
        return text
    if shifted["success"]:
        return f"{text}; up to a common shift they are reached {number(shifted['moved'])} L2 away"
    return f"{text}; up to a common shift it is {_closest(shifted)}"


def _closest(miss: dict[str, Any]) -> str:
    text = f"{number(miss['feature_mse'])}, {number(miss['moved'])} L2 away"
    gap = miss["largest_probability_gap"]
    return text if gap is None else f"{text}, with probabilities off by up to {number(gap)}"


def features_text(method: Inversion) -> str:
    """What a method compares."""
    what = "the logits" if method.layer is None else f"the output of {method.layer}"
    return f"{what}, up to a common shift," if method.up_to_shift else what


def _interval(found: MedianInterval) -> str:
    text = number(found.median)
    if math.isinf(found.lower):
        return f"{text} (too few for an interval)"
    within = f"{number(found.lower)} to {number(found.upper)}"
    return f"{text} ({percent(found.confidence)} interval {within})"


def _interval_values(found: MedianInterval) -> dict[str, float | None]:
    return {name: _finite(value) for name, value in asdict(found).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def shown_inversions(done: Done, about: About, y: Tensor) -> list[Inverted]:
    """What a page shows of each inversion. y: labels `(N,)` of all samples."""
    found, pairs = done.found, done.pairs
    # Of misses, too: `distance_linf` is infinite there.
    linf = Linf.length(found.example.double() - pairs.toward.double())

    def name(sample: int) -> str:
        return f"sample {sample} ({about.label(int(y[sample]))})"

    def outcome(row: int) -> str:
        if row in notes:
            return "not reached: the closest"
        return "result" if found.nearer[row] else "nothing nearer found"

    notes = {row: _miss_text(_miss(done, place)) for place, row in enumerate(done.misses)}
    return [
        Inverted(
            start=None if pairs.start is None else pairs.start[row],
            toward=pairs.toward[row],
            example=found.example[row],
            names=(
                None if pairs.start is None else name(pairs.starts[row]),
                AIMS[pairs.aim] if pairs.aim else name(pairs.towards[row]),
            ),
            scores=(
                None if done.wanted is None else done.wanted[row],
                done.nearby[row],
                done.reached[row],
            ),
            distance=float(found.moved[row]),
            distance_linf=float(linf[row]),
            feature_mse=float(found.feature_mse[row]),
            outcome=outcome(row),
            notes=[f"Not reached: {notes[row]}."] if row in notes else [],
        )
        for row in range(len(pairs))
    ]


def save_inversions(out: str | None, lines: list[tuple[str, str]], done: Done) -> None:
    """Everything of every inversion, to the .npz file `out`, if there is one."""
    if out is None:
        return
    found, pairs = done.found, done.pairs
    arrays = {name: getattr(found, name) for name in ROWS}
    arrays |= {"toward": pairs.toward, "logits": done.reached}
    arrays |= {"start_number": torch.tensor(pairs.starts)}
    arrays |= {"toward_number": torch.tensor(pairs.towards)}
    optional = {"start": pairs.start, "wanted_logits": done.wanted, "path": found.path}
    arrays |= {name: array for name, array in optional.items() if array is not None}
    save_arrays(out, lines, **arrays)
