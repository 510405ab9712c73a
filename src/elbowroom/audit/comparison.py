"""What is known of several classifiers measured on the same samples: figures, rankings, proofs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from elbowroom.audit.bootstrap import Means
from elbowroom.audit.statistics import eps_grid, robust_accuracy
from elbowroom.audit.tables import Bools, Floats
from elbowroom.norms import Norm
from elbowroom.perception import median_interval
from elbowroom.results import Cost

REPEATABLE = 1e-4  # to this share of it, a distance is the same when it is measured again


@dataclass(frozen=True)
class Measured:
    """One classifier on N samples; arrays are `(N,)`, lengths in the norm of the comparison.

    right:    which samples are classified as labelled.
    radius:   certified; 0 where it is wrong.
    distance: of the example that the attack found; 0 where it is wrong, inf where it found none.
    farthest: from the sample to the farthest point of the input box; inf without bounds.
    uncertified: why no certificate covers this classifier; None where one does.
    """

    right: Bools
    radius: Floats
    distance: Floats
    farthest: Floats
    uncertified: str | None
    cost: Cost

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def failed(self) -> int:
        """On how many samples the attack found nothing."""
        return int(np.isinf(self.distance).sum())


@dataclass(frozen=True)
class Estimate:
    """A figure of all samples, and an interval for that of the population they are drawn from.

    interval: None where there are too few samples to tell, or where all agree.
    """

    value: float
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Side:
    """Certified radii, or attacked distances, of one classifier; wrong samples count as 0.

    mean:   nothing counts as farther than the input box allows; inf where that has no bounds and
            the attack failed. Its interval is of the bootstrap.
    median: failures of the attack count as infinite. Its interval is exact.
    """

    mean: Estimate
    median: Estimate


@dataclass(frozen=True)
class Difference:
    """By how much the mean of `first` exceeds that of `second` on the same samples.

    A sample on which they differ by less than `REPEATABLE` counts as equal: a difference of the
    rounding of two networks is always of the same sign, so that any test would find it.

    low, high: the differences of all pairs of a ranking lie in their intervals together.
    enough:    about how many samples would separate the two, if mean and spread of the difference
               are those observed; inf where that cannot be told.
    """

    first: str
    second: str
    mean: float
    low: float
    high: float
    enough: float

    @property
    def separated(self) -> bool:
        """Whether the samples tell which of the two has the larger mean."""
        return self.low > 0


@dataclass(frozen=True)
class Ranking:
    """Classifiers from the largest mean to the smallest.

    ranks:  the best and the worst rank that each can have, all at once at the level of the
            comparison: one plus the number of classifiers that are told to be better, and of those
            that are not told to be worse (Mogstad, Romano, Shaikh and Wilhelm 2024).
    groups: of `order`: every classifier of a group is told to be better than all of later groups.
    differences: of every two.
    """

    order: tuple[str, ...]
    ranks: Mapping[str, tuple[int, int]]
    groups: tuple[tuple[str, ...], ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True)
class Proved:
    """Shares of the samples on which an order is proved: a radius beyond the other's distance."""

    first: str
    second: str
    first_farther: float
    second_farther: float


@dataclass(frozen=True)
class Comparison:
    """Classifiers compared on the same samples.

    certified, attacked: rankings of those classifiers that have finite means; None of fewer than
              two. Each has intervals of its own that hold together.
    eps:      `(E,)`. curves: of each classifier, `(2, E)`: robust accuracy at eps as certified,
              and as left by the attack.
    """

    norm: Norm
    samples: int
    level: float
    resamples: int
    seed: int
    attack: str
    certificate: str
    measured: Mapping[str, Measured]
    certified_sides: Mapping[str, Side]
    attacked_sides: Mapping[str, Side]
    certified: Ranking | None
    attacked: Ranking | None
    proved: tuple[Proved, ...]
    eps: Floats
    curves: Mapping[str, Floats]


def compare_measured(
    measured: Mapping[str, Measured],
    *,
    norm: Norm,
    attack: str,
    certificate: str,
    resamples: int,
    level: float,
    seed: int,
) -> Comparison:
    """The comparison of classifiers that were measured on the same samples.

    Raises `ValueError` where an example lies in a ball that was certified.
    """
    for name, found in measured.items():
        _check(name, found)
    certified = {n: found.radius for n, found in measured.items() if not found.uncertified}
    attacked = {name: found.distance for name, found in measured.items()}
    farthest = np.stack([found.farthest for found in measured.values()]).min(axis=0)
    draws = (resamples, seed)
    eps = np.unique(
        np.concatenate([eps_grid(m.right, m.distance, m.radius) for m in measured.values()])
    )
    return Comparison(
        norm=norm,
        samples=len(farthest),
        level=level,
        resamples=resamples,
        seed=seed,
        attack=attack,
        certificate=certificate,
        measured=measured,
        certified_sides=_sides(certified, farthest, level, *draws),
        attacked_sides=_sides(attacked, farthest, level, *draws),
        certified=_ranking(certified, farthest, level, *draws),
        attacked=_ranking(attacked, farthest, level, *draws),
        proved=tuple(_proved(*pair) for pair in combinations(measured.items(), 2)),
        eps=eps,
        curves={
            name: np.stack(robust_accuracy(m.right, m.distance, m.radius, eps))
            for name, m in measured.items()
        },
    )


def _check(name: str, found: Measured) -> None:
    inside = np.isfinite(found.distance) & found.right & (found.radius >= found.distance)
    if inside.any():
        sample = int(inside.argmax())
        raise ValueError(
            f"{name}, sample {sample}: an example at distance {found.distance[sample]:.6g} lies in "
            f"the certified radius {found.radius[sample]:.6g}; the certificate is wrong, or the "
            "model's outputs are not the same in every evaluation"
        )


def _sides(
    values: Mapping[str, Floats], farthest: Floats, level: float, resamples: int, seed: int
) -> dict[str, Side]:
    capped = {name: np.minimum(each, farthest) for name, each in values.items()}
    finite = [name for name, each in capped.items() if np.isfinite(each).all()]
    estimates: dict[str, Estimate] = {}
    if finite:
        means = Means.of(np.stack([capped[name] for name in finite]), resamples, seed)
        known = np.isfinite(width := means.widths(level)) & (means.error > 0)
        for name, mean, wide, told in zip(finite, means.mean, width, known, strict=True):
            interval = (max(0.0, float(mean - wide)), float(mean + wide)) if told else None
            estimates[name] = Estimate(float(mean), interval)
    return {
        name: Side(estimates.get(name, Estimate(np.inf, None)), _median(each, level))
        for name, each in values.items()
    }


def _median(values: Floats, level: float) -> Estimate:
    found = median_interval(values.tolist(), level)
    enough = found.lower > -np.inf
    return Estimate(found.median, (found.lower, found.upper) if enough else None)


def _ranking(
    values: Mapping[str, Floats], farthest: Floats, level: float, resamples: int, seed: int
) -> Ranking | None:
    capped = {name: np.minimum(each, farthest) for name, each in values.items()}
    finite = {name: each for name, each in capped.items() if np.isfinite(each).all()}
    order = tuple(sorted(finite, key=lambda name: -float(finite[name].mean())))
    if len(order) < 2:
        return None
    pairs = list(combinations(order, 2))
    less = np.stack([_less(finite[a], finite[b]) for a, b in pairs])
    # What is not repeatable is in the order, and not in the differences: they may disagree.
    turned = less.mean(axis=1) < 0
    pairs = [pair[::-1] if turn else pair for pair, turn in zip(pairs, turned, strict=True)]
    means = Means.of(np.where(turned[:, None], -less, less), resamples, seed)
    width, enough = means.simultaneous_widths(level), means.enough(level)
    differences = tuple(
        Difference(
            first=first,
            second=second,
            mean=float(mean),
            low=float(mean - wide),
            high=float(mean + wide),
            enough=float(count),
        )
        for (first, second), mean, wide, count in zip(pairs, means.mean, width, enough, strict=True)
    )
    told = {(each.first, each.second) for each in differences if each.separated}
    ranks = {
        name: (
            1 + sum((other, name) in told for other in order),
            len(order) - sum((name, other) in told for other in order),
        )
        for name in order
    }
    return Ranking(order, ranks, _groups(order, told), differences)


def _less(first: Floats, second: Floats) -> Floats:
    """`first - second`, without what another precision or size of the batch could change."""
    difference = first - second
    return np.where(np.abs(difference) <= REPEATABLE * np.maximum(first, second), 0.0, difference)


def _groups(order: tuple[str, ...], told: set[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """`order`, parted wherever all before are told from all behind."""
    ends = [
        end
        for end in range(1, len(order) + 1)
        if all((a, b) in told for a in order[:end] for b in order[end:])
    ]
    return tuple(order[a:b] for a, b in zip([0, *ends], ends, strict=False))


def _proved(first: tuple[str, Measured], second: tuple[str, Measured]) -> Proved:
    (a, one), (b, two) = first, second
    return Proved(
        first=a,
        second=b,
        first_farther=float((one.radius > two.distance).mean()),
        second_farther=float((two.radius > one.distance).mean()),
    )
