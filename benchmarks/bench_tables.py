"""From distances to tables: pure functions on arrays, and markdown.

A distance is `inf` where an attack found nothing. Arrays of one model are over the same samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Distances = NDArray[np.float64]


def lower_envelope(distances: Iterable[Distances]) -> Distances:
    """The nearest that any attack got, for each sample."""
    return np.min(np.stack(list(distances)), axis=0)


def optimality(distance: Distances, best: Distances) -> float:
    """AttackBench's (local) optimality: 1 for the lower envelope itself, towards 0 for nothing.

    Cina et al. 2024, "AttackBench". With rho(eps) the share of samples that an attack
    leaves unbroken within eps, rho* that of the lower envelope of all attacks, and eps0 the
    smallest eps at which rho* is 0,

        xi = (rho(0) eps0 - integral of rho) / (rho(0) eps0 - integral of rho*),  over [0, eps0].

    Both curves are staircases, so the integral of rho is exactly mean(min(distance, eps0)). (The
    released code joins the corners of the stairs by straight lines.) Samples that no attack
    broke are left out of eps0, which would be infinite. NaN if all of the envelope lies at eps0,
    or no attack broke anything.
    """
    broken = best[np.isfinite(best)]
    if not len(broken):
        return float("nan")
    eps0 = broken.max()
    clean = np.mean(best > 0)
    full = clean * eps0 - np.minimum(best, eps0).mean()
    if full <= 0:
        return float("nan")
    return float((clean * eps0 - np.minimum(distance, eps0).mean()) / full)


def mean_gap(distance: Distances, best: Distances) -> float:
    """How much farther than the best, on average over what was found: mean(d - best) / mean(best).

    NaN if nothing was found.
    """
    found = np.isfinite(distance)
    if not found.any():
        return float("nan")
    return float((distance[found] - best[found]).mean() / best[found].mean())


def mean_found(distance: Distances) -> float:
    """Mean over the samples on which something was found; NaN if there are none."""
    found = distance[np.isfinite(distance)]
    return float(found.mean()) if len(found) else float("nan")


def robust_accuracy(distance: Distances, radius: float, images: int) -> float:
    """Share of `images` still classified correctly under perturbations up to `radius`.

    distance: of the correctly classified ones among these images.
    """
    return float(np.count_nonzero(distance > radius) / images)


Accuracies = Mapping[str, Mapping[str, Mapping[float, float]]]
"""Model -> attack -> radius -> robust accuracy."""


def differences_to_best(accuracies: Accuracies) -> dict[str, tuple[float, float, int]]:
    """Attack -> mean and maximum, over models and radii, of its robust accuracy above the lowest
    of all attacks (Croce, Rauber and Hein 2020, Table 1), and the number of models it ran on."""
    gaps: dict[str, list[float]] = {}
    models: dict[str, int] = {}
    for attacks in accuracies.values():
        for attack, curve in attacks.items():
            lowest = {radius: min(other[radius] for other in attacks.values()) for radius in curve}
            gaps.setdefault(attack, []).extend(curve[r] - lowest[r] for r in curve)
            models[attack] = models.get(attack, 0) + 1
    return {name: (float(np.mean(g)), max(g), models[name]) for name, g in gaps.items()}


@dataclass(frozen=True)
class Point:
    """An attack on the plot. mean: over all samples, `inf` if one was not broken."""

    name: str
    seconds: float
    mean: float


def dominating(
    ours: Sequence[Point], others: Sequence[Point], from_seconds: float
) -> list[tuple[Point, Point]]:
    """Pairs (other, budget): `other` is at least as fast as this budget of ours, and closer.

    Only budgets that take at least `from_seconds` count. For each other attack the cheapest such
    budget is given.
    """
    pairs = []
    for other in others:
        for budget in sorted(ours, key=lambda point: point.seconds):
            in_range = budget.seconds >= from_seconds
            if in_range and other.seconds <= budget.seconds and other.mean < budget.mean:
                pairs.append((other, budget))
                break
    return pairs


@dataclass(frozen=True)
class Comparison:
    """A second attack against a first, on the same samples.

    worst_excess: the largest relative excess of the second's distance. over_one_percent: number
    of samples on which the excess is more than 1 %. A sample on which only the first found
    something has an infinite excess; one on which neither did is left out.
    """

    mean_first: float
    mean_second: float
    worst_excess: float
    over_one_percent: int


def compare(first: Distances, second: Distances) -> Comparison:
    either = np.isfinite(first) | np.isfinite(second)
    a, b = first[either], second[either]
    with np.errstate(invalid="ignore"):
        excess = np.where(np.isinf(a), -np.inf, (b - a) / a)
    return Comparison(
        mean_found(first),
        mean_found(second),
        float(excess.max(initial=-np.inf)),
        int(np.count_nonzero(excess > 0.01)),
    )


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns line up; the first is text, the others are figures."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = [("-" * width) if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([line(cells[0]), line(rule), *(line(row) for row in cells[1:])])
