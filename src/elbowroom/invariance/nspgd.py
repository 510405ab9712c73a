"""NSPGD: from one image to another along a path on which the confidence stays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from elbowroom.attacks.halfspace import onto_plane
from elbowroom.classifier import Classifier, as_classifier
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.invariance.confidence import confidence, log_odds, rounding
from elbowroom.norms import L2, Linf, per_sample
from elbowroom.results import NullSpaceResult


@runtime_checkable
class PairDistance(Protocol):
    """How different two batches `(N, *shape)` look: `(N,)`, float64."""

    @property
    def name(self) -> str:
        """For reports."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """`(N,)`, one value per pair."""


@dataclass(frozen=True, kw_only=True)
class NSPGD:
    """Null space projected gradient descent: walk to `toward` across the confidence's gradient.

    NSPGD, section 5.1 and Algorithm 1. Each step goes along the difference to `toward`, without
    its component along the gradient of the confidence in the decision at `start`, and is taken
    only if that confidence stays within `confidence_drop` of what it was; the first step that
    would not ends the walk. Corrected where the algorithm is printed wrong: `u = diff - c |diff|
    g/|g|`; every point is in the input box when its confidence is checked; the last step is as
    short as what is left. The gradient is that of the log-odds: the same direction,
    also where softmax saturates (`elbowroom.invariance.confidence`). Where it is zero, the step
    goes straight ahead.

    step:      length of a step, L2, in the input's units.
    steps:     at most so many.
    confidence_drop: how far the confidence may fall below that at `start`.
    two_sided: whether the gradient's component is removed always (the text of section 5.1), or
               only where following it would lower the confidence (Algorithm 1).
    box:       how a step keeps to the input box. "project": it aims at the nearest point to
               `toward` in the box that the gradient allows, so that features at their bounds
               take part only as far as they can, and the confidence stays to first order.
               "clamp": as if there were no box, and back into it; nearer to the paper, but
               clamping spoils the projection: on images with much black or white most walks end
               early. Without features at their bounds both are the same.
    perceptual, threshold: an example counts as a success if its `perceptual` distance to `toward`
               is below `threshold` (the paper: LPIPS, AlexNet, 0.03). Without one, nothing decides.
    path_every: keep every so many-th point of the path.
    """

    step: float = 0.01
    steps: int = 2000
    confidence_drop: float = 0.05
    two_sided: bool = False
    box: Literal["project", "clamp"] = "project"
    perceptual: PairDistance | None = None
    threshold: float = 0.03
    path_every: int | None = None

    def __post_init__(self) -> None:
        check_hyperparameters(self)
        for name in ("step", "threshold"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")
        if not 0 <= self.confidence_drop < 1:
            raise ValueError(f"confidence_drop must lie in [0, 1), not {self.confidence_drop}")

    def __call__(
        self,
        clf: Classifier | nn.Module,
        *,
        start: Tensor,
        toward: Tensor,
        begin: Tensor | None = None,
        indices: Sequence[int] | None = None,
    ) -> NullSpaceResult:
        """Walk from `start` towards `toward`, both `(N, *shape)`.

        begin:   where to set out instead, such as what `LogitSpaceAttack` found; `start` still
                 gives the class and its confidence. A sample whose confidence at `begin` has
                 dropped too far sets out from `start`.
        indices: the samples' numbers in their data set; nothing here is random, they are only
                 checked.
        Raises `ValueError` for inputs that `Classifier.validate` refuses.
        """
        clf = as_classifier(clf)
        for name, given in (("toward", toward), ("begin", begin)):
            if given is not None and given.shape != start.shape:
                raise ValueError(
                    f"start and {name} must have one shape, got {tuple(start.shape)} and "
                    f"{tuple(given.shape)}"
                )
        if indices is not None and len(indices) != len(start):
            raise ValueError(f"{len(indices)} indices for {len(start)} samples")
        start, classes = clf.validate(start)
        toward, _ = clf.validate(toward)
        begin = start if begin is None else clf.validate(begin)[0]
        with clf.metered() as spent:
            logits = clf.logits(start)
            first = confidence(logits, classes)
            least = first - self.confidence_drop
            logits = clf.logits(begin)
            usable = confidence(logits, classes) >= least + rounding(logits)
            begin = torch.where(per_sample(usable, start), begin, start)
            example, taken, path = self._walk(clf, begin, toward, classes, least)
            # As with attacks, one plain forward pass decides.
            last = confidence(clf.logits(example), classes)
            success = perceived = None
            if self.perceptual is not None:
                perceived = self._perceive(self.perceptual, example, toward)
                success = (perceived < self.threshold) & (last >= least)
            move = example.double() - toward.double()
            return NullSpaceResult(
                example=example,
                distance=L2.length(move),
                distance_linf=Linf.length(move),
                perceptual=perceived,
                confidence=last,
                confidence_start=first,
                success=success,
                steps=taken,
                path=path,
                cost=spent(),
            )

    def _walk(
        self, clf: Classifier, x: Tensor, toward: Tensor, classes: Tensor, least: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The last points, the number of steps to each `(N,)`, and the path if it is kept."""
        odds = log_odds(classes)
        walking = torch.ones_like(classes, dtype=torch.bool)
        taken = torch.zeros_like(classes)
        path = [x]
        _, gradient = clf.gradient(x, odds)
        for count in range(1, self.steps + 1):
            candidate = self._ahead(clf, x, toward, gradient)
            walking &= (candidate != x).flatten(1).any(dim=1)
            if not bool(walking.any()):
                break
            # One pass gives the confidence at the candidate and the gradient for the next step.
            logits, ahead = clf.gradient(candidate, odds)
            walking &= confidence(logits, classes) >= least + rounding(logits)
            x = torch.where(per_sample(walking, x), candidate, x)
            gradient = torch.where(per_sample(walking, x), ahead, gradient)
            taken += walking
            if self.path_every and count % self.path_every == 0:
                path.append(x)
        if not self.path_every:
            return x, taken, None
        return x, taken, torch.stack(path if torch.equal(path[-1], x) else [*path, x])

    def _ahead(self, clf: Classifier, x: Tensor, toward: Tensor, gradient: Tensor) -> Tensor:
        """The next points; where nothing is left to go, exactly `x`."""
        rest = toward - x
        normal = L2.steepest(gradient)
        along = (normal * rest).flatten(1).sum(dim=1)
        if not self.two_sided:
            along = along.clamp(max=0)
        if self.box == "project":
            move = onto_plane(toward, along, normal, clf.lower, clf.upper, L2) - x
        else:
            move = rest - per_sample(along, x) * normal
        length = L2.length(move)
        # Below that, a move is nothing but the rounding of the two images.
        tiny = torch.finfo(x.dtype).eps * (L2.length(x) + L2.length(toward))
        share = (self.step / length.clamp(min=torch.finfo(length.dtype).tiny)).clamp(max=1.0)
        share = torch.where(length > tiny, share, 0.0).to(x.dtype)
        return clf.clamp(x + per_sample(share, x) * move)

    @staticmethod
    def _perceive(perceptual: PairDistance, example: Tensor, toward: Tensor) -> Tensor:
        found = perceptual(example, toward)
        if found.shape != (len(example),):
            raise ValueError(
                f"the perceptual distance {perceptual.name} must return shape ({len(example)},), "
                f"got {tuple(found.shape)}"
            )
        return found.detach().double()
