"""Paths of inputs with the same features: how long, how constant, and several in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.features import features_of
from elbowroom.invariance.base import Inversion
from elbowroom.invariance.confidence import confidence
from elbowroom.norms import L2
from elbowroom.results import Cost, InversionResult
from elbowroom.sampling import SampleRng


def arc_length(path: Tensor) -> Tensor:
    """`(P, N)`, float64: L2 length of the polyline `path` `(P, N, *shape)` up to each point.

    Raises `ValueError` for something that is no path.
    """
    if path.ndim < 3 or len(path) == 0:
        raise ValueError(f"a path has shape (P, N, *shape) with P > 0, not {tuple(path.shape)}")
    lengths = [torch.zeros(path.shape[1], dtype=torch.float64, device=path.device)]
    for before, after in pairwise(path):
        lengths.append(lengths[-1] + L2.length(after.double() - before.double()))
    return torch.stack(lengths)


def resample(path: Tensor, count: int) -> Tensor:
    """`(count, N, *shape)`: points of the polyline `path` `(P, N, *shape)` at equal arc lengths.

    The first and the last point are among them. Those between points of the path are
    interpolated, and nothing promises that they have its features: see `check_path`.
    """
    before, share = _places(path, count)
    flat = path.flatten(2)
    after = (before + 1).clamp(max=len(path) - 1)
    rows = torch.arange(path.shape[1], device=path.device)
    low, high = flat[before, rows], flat[after, rows]
    weight = share[..., None].to(path.dtype)
    # lerp is exact at both ends, so that the points of the path themselves are kept.
    return torch.lerp(low, high, weight).view(count, *path.shape[1:])


def sparsify(path: Tensor, count: int) -> Tensor:
    """`(count, N, *shape)`: of the points of `path` those nearest, along it, to equal arc lengths.

    As `resample`, but nothing is interpolated, so points can repeat. (Invariance thesis, Fig.
    4.31-4.33, selects by hand: paths approach their ends exponentially.)
    """
    before, share = _places(path, count)
    nearest = (before + (share > 0.5)).clamp(max=len(path) - 1)
    return path[nearest, torch.arange(path.shape[1], device=path.device)]


def _places(path: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The point before each of `count` equal arc lengths, and how far on to the next it is."""
    if type(count) is not int or count < 2:
        raise ValueError(f"count must be an integer of at least 2, not {count!r}")
    length = arc_length(path)
    along = torch.linspace(0, 1, count, dtype=length.dtype, device=length.device)
    wanted = along * length[-1:].T  # (N, count)
    after = torch.searchsorted(length.T.contiguous(), wanted).clamp(1, max(len(path) - 1, 1))
    before = (after - 1).T
    after = after.T.clamp(max=len(path) - 1)
    low, high = length.gather(0, before), length.gather(0, after)
    step = high - low
    share = torch.where(step > 0, (wanted.T - low) / torch.where(step > 0, step, 1.0), 0.0)
    return before, share.clamp(0, 1)


@dataclass(frozen=True)
class PathCheck:
    """What the network makes of a path.

    feature_mse: `(P, N)`, of each point: mean squared difference to the wanted features.
    largest:     `(N,)`, of it. largest_between: `(N,)`, at the points in between and at these.
    arc_length:  `(P, N)`, L2, up to each point.
    distance:    `(P, N)`, L2, to `toward`; None without one.
    decision:    `(P, N)`. confidence: `(P, N)`, in the decision at the first point.
    """

    feature_mse: Tensor
    largest: Tensor
    largest_between: Tensor
    arc_length: Tensor
    distance: Tensor | None
    decision: Tensor
    confidence: Tensor
    cost: Cost


def check_path(
    clf: Classifier | nn.Module,
    path: Tensor,
    target: Tensor | None = None,
    *,
    toward: Tensor | None = None,
    between: int = 9,
    layer: str | None = None,
    up_to_shift: bool = False,
) -> PathCheck:
    """How constant the features are along `path` `(P, N, *shape)`, by plain forward passes.

    Invariance thesis, section 4.5 (there at the points themselves).

    target:  the wanted features `(N, K)` or `(K,)`; those of the first point by default.
    toward:  `(N, *shape)`, where the path should lead.
    between: inner points of each segment, at equal distances, that are checked as well.
    layer, up_to_shift: what is compared, as for an `Inversion`.

    Raises `ValueError` for paths, targets and `toward` of other shapes, and for points that
    `Classifier.validate` refuses.
    """
    clf = as_classifier(clf)
    length = arc_length(path)
    if type(between) is not int or between < 0:
        raise ValueError(f"between must be an integer of at least 0, not {between!r}")
    if toward is not None and toward.shape != path.shape[1:]:
        raise ValueError(
            f"toward has shape {tuple(toward.shape)}, the points of the path {tuple(path[0].shape)}"
        )
    path = clf.validate(path.flatten(0, 1))[0].view_as(path)
    part = features_of(clf, path.shape[2:], layer=layer)
    with clf.session(), part.metered() as spent:
        wanted = part.logits(path[0])
        if target is not None:
            if target.shape not in (wanted.shape, wanted.shape[1:]):
                raise ValueError(
                    f"target has shape {tuple(target.shape)}, but it must be "
                    f"{tuple(wanted.shape[1:])} or {tuple(wanted.shape)}"
                )
            wanted = target.to(wanted).expand_as(wanted)
        mse = torch.stack([_mse(part.logits(x), wanted, up_to_shift) for x in path])
        largest = largest_between = mse.amax(dim=0)
        for x in _inner(clf, path, between):
            largest_between = torch.maximum(
                largest_between, _mse(part.logits(x), wanted, up_to_shift)
            )
        cost = spent()
    with clf.metered() as spent:
        logits = [clf.logits(x) for x in path]
        if part is not clf:
            clf.cost += cost
        cost += spent()
    first = logits[0].argmax(dim=1)
    return PathCheck(
        feature_mse=mse,
        largest=largest,
        largest_between=largest_between,
        arc_length=length,
        distance=None if toward is None else torch.stack([_distance(x, toward) for x in path]),
        decision=torch.stack([z.argmax(dim=1) for z in logits]),
        confidence=torch.stack([confidence(z, first) for z in logits]),
        cost=cost,
    )


def _distance(x: Tensor, y: Tensor) -> Tensor:
    return L2.length(x.double() - y.double())


def _mse(found: Tensor, wanted: Tensor, up_to_shift: bool) -> Tensor:
    """`(N,)`, float64, as inversions measure it: up to a shift there is one coordinate fewer."""
    gap = found.double() - wanted.double()
    if not up_to_shift:
        return gap.square().mean(dim=1)
    return (gap - gap.mean(dim=1, keepdim=True)).square().sum(dim=1) / (gap.shape[1] - 1)


def _inner(clf: Classifier, path: Tensor, between: int) -> Iterator[Tensor]:
    for before, after in pairwise(path):
        for number in range(1, between + 1):
            yield clf.clamp(torch.lerp(before, after, number / (between + 1)))


@dataclass(frozen=True)
class Chain:
    """Inversions in a row.

    legs: the result of each, in order; `feature_mse` and `success` are with respect to the
          features of the first image.
    path: `(P, N, *shape)`: the first image, the points on the way, and the end of each leg: that of
          its path, or its example if the inversion gives no path.
    ends: positions in `path` of these ends.
    """

    legs: tuple[InversionResult, ...]
    path: Tensor
    ends: tuple[int, ...]


def chain(
    inversion: Inversion,
    clf: Classifier | nn.Module,
    images: Tensor,
    *,
    indices: Sequence[int] | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> Chain:
    """From the first image towards the second, then the third, ..., always with its features.

    Invariance thesis, section 4.5.1 and Fig. 4.33. Each leg sets out from where the one before
    ended; a leg that finds nothing nearer stays there. Whether the points in between share the
    features as well is for `check_path` to say, above all where the inversion gives no path.

    images:  `(L, N, *shape)`: N chains of L images each; L > 1.
    indices: numbers of the chains, which seed their randomness.
    advance: told after each leg how many there were, and how many there are.
    """
    clf = as_classifier(clf)
    if images.ndim < 3 or len(images) < 2:
        raise ValueError(f"images must be (L, N, *shape) with L > 1, not {tuple(images.shape)}")
    images = clf.validate(images.flatten(0, 1))[0].view_as(images)
    start = images[0]
    numbers = range(len(start)) if indices is None else indices
    if len(numbers) != len(start):
        raise ValueError(f"{len(numbers)} indices for {len(start)} chains")
    shape = images.shape[2:]
    part = features_of(clf, shape, layer=inversion.layer, up_to_shift=inversion.up_to_shift)
    legs: list[InversionResult] = []
    points, ends = [start[None]], []
    with clf.session(), part.metered() as whole:
        wanted = part.logits(start)
        for toward in images[1:]:
            rng = SampleRng(inversion.seed, numbers)
            with part.metered() as spent:
                leg = inversion._answer(part, start, toward, wanted, rng)
                legs.append(replace(leg, cost=spent()))
            # An example can be elsewhere than the end of the path, and nothing between the two.
            points.append(leg.example[None] if leg.path is None else leg.path)
            ends.append(sum(map(len, points)) - 1)
            start = points[-1][-1]
            if advance is not None:
                advance(len(legs), len(images) - 1)
        cost = whole()
    if part is not clf:
        clf.cost += cost
    return Chain(tuple(legs), torch.cat(points), tuple(ends))
