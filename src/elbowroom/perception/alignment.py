"""Does a distance agree with labels? (Invariance thesis, 2.2 and 2.3.5)

A distance is aligned with an oracle if every image is closer to all images of its class than to
any other (Tramer et al. 2020). Perfect alignment is as hard as perfect classification; how far a
distance is from it can be estimated on a labelled set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.perception.distance import PerceptualDistance, require_images
from elbowroom.sampling import SampleRng

CHUNK = 256  # images described, and rows of pairs compared, at once


@dataclass(frozen=True)
class Histogram:
    """Normalised histograms over the same bins: each integrates to one.

    edges: `(B + 1,)`. intra, inter: `(B,)`, densities of the pairs of one class and of two.
    """

    edges: Tensor
    intra: Tensor
    inter: Tensor

    @property
    def overlap(self) -> float:
        """The area under both: 1 for equal histograms, 0 for separate ones."""
        return float((torch.minimum(self.intra, self.inter) * self.edges.diff()).sum())


@dataclass(frozen=True)
class ClassDistances:
    """Distances of all pairs of a labelled set, in increasing order, float64.

    intra: `(P,)`, of two images of the same class. inter: `(Q,)`, of two classes.
    """

    intra: Tensor
    inter: Tensor

    @property
    def separation(self) -> float:
        """Probability that a random pair of one class is closer than one of two classes.

        Ties count one half; 1 for separate distributions, 1/2 for equal ones.
        """
        below = torch.searchsorted(self.inter, self.intra).double()
        up_to = torch.searchsorted(self.inter, self.intra, right=True).double()
        return float(1 - (below + up_to).mean() / (2 * len(self.inter)))

    def histogram(self, bins: int = 100) -> Histogram:
        """Both distributions from 0 to the largest distance (Fig. 2.2 and 2.3)."""
        largest = max(float(self.intra[-1]), float(self.inter[-1]))
        edges = torch.linspace(0, largest or 1.0, bins + 1, dtype=torch.float64).to(self.inter)

        def density(distances: Tensor) -> Tensor:
            up_to = torch.searchsorted(distances, edges)
            up_to[-1] = len(distances)  # the last bin includes its upper edge
            return up_to.diff() / (len(distances) * edges.diff())

        return Histogram(edges, density(self.intra), density(self.inter))

    def closer_than(self, eps: Tensor) -> Tensor:
        """How many pairs of different classes `(E,)` are closer than each of `eps` `(E,)`.

        Fig. 2.7 to 2.9; divide by `len(inter)` for the share.
        """
        return torch.searchsorted(self.inter, eps.to(self.inter).contiguous())


def class_distances(
    distance: PerceptualDistance, x: Tensor, y: Tensor, *, chunk: int = CHUNK
) -> ClassDistances:
    """Distances of all pairs of images `x` `(N, *shape)` with labels `y` `(N,)`.

    It keeps N (N - 1) / 2 numbers of 8 bytes: 400 MB for MNIST's test set. The result does not
    depend on `chunk`. Raises `ValueError` where all labels are equal, or all differ.
    """
    _require_labels(x, y)
    y = y.to(x.device)
    intra, inter = [], []
    for rows, table in _strips(distance, x, chunk, symmetric=True):
        numbers = torch.arange(len(x), device=x.device)
        once = numbers[rows.start :] > numbers[rows, None]
        same = y[rows, None] == y[rows.start :]
        intra.append(table[once & same])
        inter.append(table[once & ~same])
    found = ClassDistances(torch.cat(intra).sort().values, torch.cat(inter).sort().values)
    for values, what in ((found.intra, "one class"), (found.inter, "different classes")):
        if len(values) == 0:
            raise ValueError(f"no two images are of {what}; give more images")
    return found


@dataclass(frozen=True)
class Triples:
    """How many triples (anchor, same class, other class) a distance gets wrong.

    violated: share with d(anchor, same) > d(anchor, other), of all triples of the set.
    tied:     share where the two are equal; strict alignment allows neither.
    by_anchor: `(N,)`, the violated share of each image's triples; NaN where it has none.
    compared: triples looked at.
    exact:    whether these were all; otherwise the shares are unbiased estimates.
    """

    violated: float
    tied: float
    by_anchor: Tensor
    compared: int
    exact: bool


def violated_triples(
    distance: PerceptualDistance,
    x: Tensor,
    y: Tensor,
    *,
    sampled: int | None = None,
    seed: int = 0,
    chunk: int = CHUNK,
) -> Triples:
    """Test the alignment of a distance on images `x` `(N, *shape)` with labels `y` `(N,)`.

    sampled: triples drawn for each anchor, with replacement. By default all triples are compared,
             for which N^2 distances are computed.

    Raises `ValueError` where no triple exists.
    """
    _require_labels(x, y)
    y = y.to(x.device)
    _, label, size = torch.unique(y, return_inverse=True, return_counts=True)
    alike = size[label].double()
    weights = (alike - 1) * (len(y) - alike)  # triples of each anchor
    if not bool(weights.any()):
        raise ValueError("there are no triples: they need two images of a class and one of another")
    if sampled is None:
        violated, tied = _all_triples(distance, x, y, chunk)
        count = weights
    else:
        if sampled < 1:
            raise ValueError(f"sampled must be at least 1, not {sampled}")
        violated, tied = _some_triples(distance, x, y, sampled, seed, chunk)
        count = torch.where(weights > 0, float(sampled), 0.0)
    by_anchor = violated / count  # 0 / 0 is NaN
    total = weights.sum()
    return Triples(
        violated=float((by_anchor * weights).nansum() / total),
        tied=float((tied / count * weights).nansum() / total),
        by_anchor=by_anchor,
        compared=int(count.sum()),
        exact=sampled is None,
    )


def _all_triples(
    distance: PerceptualDistance, x: Tensor, y: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Violated and tied triples of each anchor, both `(N,)`, by sorting its other classes."""
    violated, tied = [], []
    for rows, table in _strips(distance, x, chunk):
        same = y[rows, None] == y
        others = torch.where(same, torch.inf, table).sort(dim=1).values
        below = torch.searchsorted(others, table)
        up_to = torch.searchsorted(others, table, right=True)
        numbers = torch.arange(len(x), device=x.device)
        same &= numbers != numbers[rows, None]
        violated.append((below * same).sum(dim=1))
        tied.append(((up_to - below) * same).sum(dim=1))
    return torch.cat(violated).double(), torch.cat(tied).double()


def _some_triples(
    distance: PerceptualDistance, x: Tensor, y: Tensor, sampled: int, seed: int, chunk: int
) -> tuple[Tensor, Tensor]:
    order = y.argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(y), device=y.device)
    first = torch.searchsorted(y[order], y)
    count = torch.searchsorted(y[order], y, right=True) - first
    drawn = SampleRng(seed, range(len(y))).uniform(
        torch.empty(len(y), 2, sampled, dtype=torch.float64, device=y.device)
    )
    # Places in the order of labels: the class without the anchor, and everything but the class.
    same = first[:, None] + (drawn[:, 0] * (count - 1)[:, None]).long()
    same = same + (same >= place[:, None]).long()
    other = (drawn[:, 1] * (len(y) - count)[:, None]).long()
    other = other + torch.where(other >= first[:, None], count[:, None], 0)
    # Anchors without a triple point nowhere; they are compared with themselves and weigh nothing.
    alone = ((count == 1) | (count == len(y)))[:, None]
    anchor = torch.arange(len(y), device=y.device)[:, None].expand_as(same)
    same = torch.where(alone, anchor, order[same.clamp(max=len(y) - 1)])
    other = torch.where(alone, anchor, order[other.clamp(max=len(y) - 1)])
    seen = describe(distance, x, chunk)
    with torch.no_grad():
        to_same = distance.pairs(seen, seen, anchor.flatten(), same.flatten()).view_as(drawn[:, 0])
        to_other = distance.pairs(seen, seen, anchor.flatten(), other.flatten()).view_as(to_same)
    _require_finite(distance, to_same)
    _require_finite(distance, to_other)
    tied = torch.where(alone, 0.0, (to_same == to_other).double()).sum(dim=1)
    return (to_same > to_other).sum(dim=1).double(), tied


@dataclass(frozen=True)
class Recall:
    """How well a distance finds partners.

    rank: `(N,)` int64: the place of `right[i]` among all right images by distance to `left[i]`,
          from 1. Ties count against it, so that a constant distance recalls nothing.
    """

    rank: Tensor

    def at(self, k: int = 1) -> float:
        """The share of images whose partner is among the `k` nearest (Fig. 2.10)."""
        return float((self.rank <= k).double().mean())


def recall(
    distance: PerceptualDistance, left: Tensor, right: Tensor, *, chunk: int = CHUNK
) -> Recall:
    """Look for the partner `right[i]` of each `left[i]`, both `(N, *shape)`, among all of `right`.

    The task of the Totally-Looks-Like data (Invariance thesis, 2.3.5).
    """
    if len(left) != len(right):
        raise ValueError(f"images come in pairs, got {len(left)} left and {len(right)} right ones")
    ranks = []
    for rows, table in _strips(distance, left, chunk, others=right):
        own = table.diagonal(rows.start)[:, None]
        ranks.append((table <= own).sum(dim=1))
    return Recall(torch.cat(ranks))


def across(
    distance: PerceptualDistance, x: Tensor, others: Tensor, *, chunk: int = CHUNK
) -> Tensor:
    """Distances `(N, M)`, float64, of all pairs of images `x` and `others`."""
    return torch.cat([table for _, table in _strips(distance, x, chunk, others=others)])


def describe(distance: PerceptualDistance, x: Tensor, chunk: int = CHUNK) -> Tensor:
    """`distance.describe(x)`, computed for `chunk` images at a time, without a gradient."""
    require_images(x)
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, not {chunk}")
    with torch.no_grad():
        return torch.cat([distance.describe(part) for part in torch.split(x, chunk)])


def _strips(
    distance: PerceptualDistance,
    x: Tensor,
    chunk: int,
    *,
    others: Tensor | None = None,
    symmetric: bool = False,
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the table of distances `(N, M)`, `chunk` at a time, with their place.

    others:    the images of the columns; those of the rows if None.
    symmetric: leave out the columns before the first row of the strip.
    """
    a = describe(distance, x, chunk)
    b = a if others is None else describe(distance, others, chunk)
    for start in range(0, len(a), chunk):
        rows = slice(start, min(start + chunk, len(a)))
        with torch.no_grad():
            table = distance.across(a[rows], b[start:] if symmetric else b)
        _require_finite(distance, table)
        yield rows, table


def _require_finite(distance: PerceptualDistance, values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise ValueError(f"{distance.name} gives NaN or infinite distances on these images")


def _require_labels(x: Tensor, y: Tensor) -> None:
    require_images(x)
    if y.shape != (len(x),) or y.dtype.is_floating_point or y.dtype == torch.bool:
        raise ValueError(
            f"labels must be {len(x)} integers, got shape {tuple(y.shape)} of {y.dtype}"
        )
