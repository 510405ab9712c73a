"""Paths of inputs with the same logits, from one sample towards others: `path`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.cli.inversion_results import features_text
from elbowroom.cli.invert import (
    LayerOption,
    ListOption,
    ShiftOption,
    compared,
    list_layers_of,
)
from elbowroom.cli.options import Output, SeedOption, checked_samples, command, settings
from elbowroom.cli.pairs import ExactSubject, drawn, partners, sample_numbers
from elbowroom.cli.papers import facts
from elbowroom.cli.single import (
    SetOption,
    arrays_file,
    build_method,
    cost_text,
    save_arrays,
)
from elbowroom.features import features_of
from elbowroom.files import write_atomically
from elbowroom.invariance import PreimageDescent, chain, check_path
from elbowroom.invariance.preimage_descent import PATH_ALONE
from elbowroom.norms import L2
from elbowroom.papers.page import About, grey_scale
from elbowroom.papers.path_pages import STAYS, Leg, path_page
from elbowroom.report.figures import number
from elbowroom.results import Cost

# The walk is all that is wanted: of the search for the nearest point as little as can be.
STILL = 1e-9  # of the way to go: what is no step


@command
def path(
    subject: ExactSubject,
    output: Output,
    start: Annotated[
        int | None, typer.Option(help="The number of the sample whose logits all points have.")
    ] = None,
    toward: Annotated[
        int | None, typer.Option(help="The number of the sample to go towards.")
    ] = None,
    through: Annotated[
        str | None,
        typer.Option(
            help="Numbers of several samples, with commas: from the first one towards the second, "
            "on towards the third, ..., always with the logits of the first."
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(min=2, help="How many images of each part the page shows.")
    ] = 9,
    between: Annotated[
        int,
        typer.Option(min=0, help="Points checked on the line between two neighbours; 0: none are."),
    ] = 9,
    layer: LayerOption = None,
    list_layers: ListOption = False,
    up_to_shift: ShiftOption = False,
    set_: SetOption = None,
    seed: SeedOption = 0,
    out: Annotated[
        str | None,
        typer.Option(
            help="Also save all points of the path to this .npz file.", callback=arrays_file
        ),
    ] = None,
    page: Annotated[Path, typer.Option(help="The page to write.")] = Path("path.html"),
) -> None:
    """Walk from one sample towards another without any change of the logits.

    The options of --set are those of preimage-descent; path_steps is the length of each walk.

    [bold]Examples[/bold]

      elbowroom path --start 3 --toward 17 --page path.html --out points.npz

      elbowroom path --through 3,17,42 --set path_steps=100
    """
    data = subject.load_data(output)
    clf = subject.load_classifier(data)
    if list_layers:
        list_layers_of(clf, data, output)
        return
    x, y = checked_samples(clf, data)
    numbers = _stops(y, start, toward, through, seed)
    options = {**PATH_ALONE, "block": 1, **settings(set_), **compared(layer, up_to_shift)}
    method = build_method("invariance", "preimage-descent", {**options, "seed": seed})
    assert isinstance(method, PreimageDescent)
    about = About(
        clf.name, f"{data.name}/{data.split}", data.classes,
        [*facts(clf, data, seed), ("method", str(method))],
    )  # fmt: skip
    names = [f"sample {n} ({about.label(int(y[n]))})" for n in numbers]
    legs, cost = _walk(clf, method, x[numbers], numbers, names, between, output)
    scale = grey_scale(clf, torch.cat([leg.path for leg in legs]))
    text = path_page(
        legs, about, start=names[0], features=features_text(method), images=images, scale=scale
    )
    write_atomically(page, text.encode())
    lines = _lines(legs, names, features_text(method), cost)
    values = {
        "images": numbers,
        "layer": layer,
        "up_to_shift": method.up_to_shift,
        "length": sum(leg.length for leg in legs),
        "legs": [{"toward": n, **_values(leg)} for n, leg in zip(numbers[1:], legs, strict=True)],
        "cost": asdict(cost),
        "page": str(page),
    }
    lines.append(("page", str(page)))
    save_arrays(out, lines, **_arrays(legs, numbers))
    output.result(values, lines)


def _stops(
    y: Tensor, start: int | None, toward: int | None, through: str | None, seed: int
) -> list[int]:
    """Numbers of the samples on the way, two at least."""
    total = len(y)
    if through is not None:
        if start is not None or toward is not None:
            raise ValueError("give either --through, or --start and --toward")
        numbers = sample_numbers("--through", through, total)
        if len(numbers) < 2:
            raise ValueError(f"--through needs two samples at least, not {through!r}")
    elif start is None and toward is not None:
        raise ValueError("--toward needs a --start")
    else:
        begin = drawn(total, 1, seed)[0] if start is None else start
        sample_numbers("--start", str(begin), total)
        end = partners(y, [begin], seed)[0] if toward is None else toward
        numbers = [begin, *sample_numbers("--toward", str(end), total)]
    for before, after in pairwise(numbers):
        if before == after:
            raise ValueError(f"from sample {before} to itself there is no way to go")
    return numbers


def _walk(
    clf: Classifier,
    method: PreimageDescent,
    stops: Tensor,
    numbers: Sequence[int],
    names: Sequence[str],
    between: int,
    output: Output,
) -> tuple[list[Leg], Cost]:
    """A leg to each of `stops` after the first, from where the one before ended."""
    part = features_of(clf, stops.shape[1:], layer=method.layer)
    with clf.session():
        wanted = part.logits(stops[:1])
    with output.progress() as bar:
        task = bar.add_task("walks", total=len(stops) - 1)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        found = chain(method, clf, stops[:, None], indices=numbers[:1], advance=advance)
    parts = [found.path[a : b + 1, 0] for a, b in pairwise([0, *found.ends])]
    legs = [
        _leg(clf, method, _moving(points, toward), toward, name, wanted, between)
        for points, toward, name in zip(parts, stops[1:], names[1:], strict=True)
    ]
    return legs, sum((leg.cost for leg in found.legs), Cost())


def _moving(points: Tensor, toward: Tensor) -> Tensor:
    """Without the points at which a walk stayed, but for rounding: they say nothing."""
    whole = L2.length((toward - points[0])[None])
    moved = L2.length(points[1:] - points[:-1]) > STILL * whole
    return torch.cat([points[:1], points[1:][moved]])


def _leg(
    clf: Classifier,
    method: PreimageDescent,
    points: Tensor,
    toward: Tensor,
    name: str,
    wanted: Tensor,
    between: int,
) -> Leg:
    def check(some: Tensor, inner: int) -> Any:
        return check_path(
            clf, some[:, None], wanted, toward=toward[None], between=inner,
            layer=method.layer, up_to_shift=method.up_to_shift,
        )  # fmt: skip

    segments = None
    if between:
        pieces = [points[k : k + 2] for k in range(len(points) - 1)]
        segments = torch.tensor(
            [float(check(piece, between).largest_between[0]) for piece in pieces],
            dtype=torch.float64,
        )
    return Leg(
        path=points,
        toward=toward,
        name=name,
        check=check(points, 0),
        between=segments,
        apart=float(check(toward[None], 0).feature_mse[0, 0]),
    )


def _values(leg: Leg) -> dict[str, Any]:
    check = leg.check
    return {
        "points": len(leg.path),
        "length": leg.length,
        "distance_start": float(leg.distance[0]),
        "distance": float(leg.distance[-1]),
        "distance_linf": float((leg.path[-1] - leg.toward).abs().max()),
        "feature_mse_of_toward": leg.apart,
        "largest_feature_mse": float(check.feature_mse.max()),
        "largest_feature_mse_between": _worst_between(leg),
        "least_confidence": float(check.confidence.min()),
        "same_decision": bool((check.decision == check.decision[0]).all()),
    }


def _worst_between(leg: Leg) -> float | None:
    """None if it was not checked, or there is nothing between."""
    return None if leg.between is None or not len(leg.between) else float(leg.between.max())


def _lines(
    legs: Sequence[Leg], names: Sequence[str], features: str, cost: Cost
) -> list[tuple[str, str]]:
    lines = [("path", f"from {names[0]}, with its features: {features}")]
    for leg in legs:
        told = _values(leg)
        lines += [
            ("towards", leg.name),
            ("  distance", f"{number(told['distance_start'])} L2 to {number(told['distance'])} L2"),
            ("  length", f"{number(leg.length)} L2, {len(leg.path)} points"),
            ("  feature MSE", f"{number(told['largest_feature_mse'])} at most at the points, "
             f"{_between_text(leg)}; of {leg.name} itself {number(leg.apart)}"),
        ]  # fmt: skip
        if not leg.length:
            lines.append(("  note", STAYS))
    lines.append(("cost", cost_text(cost, len(legs))))
    return lines


def _between_text(leg: Leg) -> str:
    if leg.between is None:
        return "not checked between them"
    worst = _worst_between(leg)
    return "with nothing between them" if worst is None else f"{number(worst)} between them"


def _arrays(legs: Sequence[Leg], numbers: Sequence[int]) -> dict[str, Tensor]:
    """All points; `leg` says which part they are of: the end of one is the start of the next."""
    return {
        "path": torch.cat([leg.path for leg in legs]),
        "leg": torch.cat([torch.full((len(leg.path),), k) for k, leg in enumerate(legs)]),
        "feature_mse": torch.cat([leg.check.feature_mse[:, 0] for leg in legs]),
        "arc_length": torch.cat([leg.check.arc_length[:, 0] for leg in legs]),
        "distance": torch.cat([leg.distance for leg in legs]),
        "toward": torch.stack([leg.toward for leg in legs]),
        "numbers": torch.tensor(numbers),
    }
