"""Wanted logits that no image gave: between those of two images, or perhaps out of reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.features import features_of
from elbowroom.invariance.base import Inversion
from elbowroom.results import Cost, InversionResult


@dataclass(frozen=True)
class Interpolation:
    """Inversions for features on the segment between those of two images.

    weights: `(S,)`, of the second image, from 0 to 1.
    targets: `(S, N, K)`, the wanted features.
    results: one for each weight.
    """

    weights: Tensor
    targets: Tensor
    results: tuple[InversionResult, ...]


def interpolate_logits(
    inversion: Inversion,
    clf: Classifier | nn.Module,
    x_a: Tensor,
    x_b: Tensor,
    toward: Tensor,
    steps: int = 8,
    *,
    indices: Sequence[int] | None = None,
) -> Interpolation:
    """Points near `toward` with the logits `(1 - w) f(x_a) + w f(x_b)`, for `steps` weights w.

    Invariance thesis, section 4.3.4, Fig. 4.26 and 4.27. All three `(N, *shape)`. The weights are
    equally spaced and include 0 and 1; there, too, the logits are all that an inversion is told,
    so that the results can be compared. Of `inversion.layer`, where it has one.

    Raises `ValueError` for images of different shapes and for fewer than 2 steps.
    """
    clf = as_classifier(clf)
    if type(steps) is not int or steps < 2:
        raise ValueError(f"steps must be an integer of at least 2, not {steps!r}")
    if not x_a.shape == x_b.shape == toward.shape:
        shapes = ", ".join(str(tuple(x.shape)) for x in (x_a, x_b, toward))
        raise ValueError(f"x_a, x_b and toward must have one shape, got {shapes}")
    whole = features_of(clf, toward.shape[1:], layer=inversion.layer)
    with whole.metered() as spent:
        a, b = (whole.logits(clf.validate(x)[0]) for x in (x_a, x_b))
        cost = spent()
    if whole is not clf:
        clf.cost += cost
    weights = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)
    targets = torch.stack([torch.lerp(a, b, weight) for weight in weights])
    results = [inversion(clf, toward=toward, target=target, indices=indices) for target in targets]
    return Interpolation(weights, targets, tuple(results))


@dataclass(frozen=True)
class Approach:
    """How near T wanted logits are come, from N images each: misses, as near as they may be.

    example:      `(T, N, *shape)`. moved: `(T, N)`, L2 to `toward`.
    feature_mse:  `(T, N)`: mean squared difference of the features as they were compared.
    softmax_gap:  `(T, N)`: largest difference of a class probability to the softmax of the wanted
                  logits; None where a layer other than the logits is compared.
    within:       `(T, N)` bool: `feature_mse` is within the inversion's tolerance. Then the logits
                  are not out of reach, and `moved` is a distance, not that of a miss.
    """

    example: Tensor
    moved: Tensor
    feature_mse: Tensor
    softmax_gap: Tensor | None
    within: Tensor
    cost: Cost


@dataclass(frozen=True)
class Reach:
    """Approaches to wanted logits, and to these up to a common shift, which softmax ignores."""

    plain: Approach
    shifted: Approach


def reach(
    inversion: Inversion,
    clf: Classifier | nn.Module,
    toward: Tensor,
    targets: Tensor,
    *,
    indices: Sequence[int] | None = None,
) -> Reach:
    """How near the logits `targets` `(T, K)` can be approached from `toward` `(N, *shape)`.

    Invariance thesis, section 4.3.4, "Unreachable Logits": uniform logits of several magnitudes
    come out as misses, though with nearly uniform softmax. The shift that softmax ignores, which
    the thesis leaves to others, is given away in the second approach.

    Raises `ValueError` for targets of another shape.
    """
    if targets.ndim != 2 or len(targets) == 0:
        raise ValueError(f"targets must be (T, K) with T > 0, not {tuple(targets.shape)}")
    clf = as_classifier(clf)
    both = (replace(inversion, up_to_shift=shift) for shift in (False, True))
    return Reach(*(_approach(each, clf, toward, targets, indices) for each in both))


def _approach(
    inversion: Inversion,
    clf: Classifier,
    toward: Tensor,
    targets: Tensor,
    indices: Sequence[int] | None,
) -> Approach:
    found = [inversion(clf, toward=toward, target=target, indices=indices) for target in targets]
    gaps: Tensor | None = None
    if inversion.layer is None:
        with clf.session():
            reached = torch.stack([clf.logits(result.example) for result in found])
        wanted = targets.to(reached)[:, None]
        change = reached.double().softmax(dim=2) - wanted.double().softmax(dim=2)
        gaps = change.abs().amax(dim=2)
    return Approach(
        example=torch.stack([result.example for result in found]),
        moved=torch.stack([result.moved for result in found]),
        feature_mse=torch.stack([result.feature_mse for result in found]),
        softmax_gap=gaps,
        within=torch.stack([result.success for result in found]),
        cost=sum((result.cost for result in found), Cost()),
    )
