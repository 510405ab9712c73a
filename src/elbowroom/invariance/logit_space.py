"""The logit space attack: other logits, the same class probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.invariance.confidence import confidence
from elbowroom.norms import L2, per_sample
from elbowroom.results import LogitSpaceResult
from elbowroom.sampling import SampleRng

#: A uniform shift of the logits: a constant, or `(N, *shape)` to `(N,)`.
Shift = float | Callable[[Tensor], Tensor]


def _images(x: Tensor) -> bool:
    return x.ndim in (3, 4)


def total_variation(images: Tensor) -> Tensor:
    """`(N,)`, float64: sum of absolute differences of neighbouring pixels, all channels together.

    images: `(N, H, W)` or `(N, C, H, W)`. Anisotropic, as NSPGD, section 5.3 ("L1 norm").
    """
    if not _images(images):
        raise ValueError(
            f"total variation needs images (N, H, W) or (N, C, H, W), not {tuple(images.shape)}"
        )
    steps = [images.double().diff(dim=dim).abs().flatten(1) for dim in (-1, -2)]
    return torch.cat(steps, dim=1).sum(dim=1)


@dataclass(frozen=True, kw_only=True)
class LogitSpaceAttack:
    """Ascend the change of the logits that the softmax does not see: a begin for `NSPGD`.

    NSPGD, section 5.3 and Algorithm 2. Softmax ignores a shift of all logits by one number, so
    that networks whose confidence falls in every direction (CCAT) may still have far images with
    the probabilities of `start`. With logits `L`, softmax `S` and source `s`,

        |L(x) + h(x) - L(s)|^2 - lambda_ |S(L(x)) - S(L(s))|^2 - smoothness TV(x - s)

    is ascended by the signs of its gradient. What must grow is the first term, the logits' change:
    all of them are driven away from `L(s) - h`, so that with a positive `h` they start upwards
    together, with a negative one downwards. What must shrink are the second, the change of the
    probabilities, and the third, roughness. (The paper adds the third, which would reward
    roughness; and it adds the perturbation anew in every step, `x + delta` for `s + delta`.)
    The second is at most 2: for the probabilities to count, `lambda_` has to be of the size of
    squared logits. The point of the largest value is the answer.

    step:       of each feature, in the input's units.
    steps:      gradient steps.
    h:          the uniform shift.
    lambda_:    weight of the probabilities.
    smoothness: weight of the total variation, for images only.
    radius:     first perturbations are uniform in [-radius, radius] (the paper: 1).
    seed:       of them; with the sample's index it fixes every draw.
    """

    step: float = 0.01
    steps: int = 200
    h: Shift = 1.0
    lambda_: float = 1000.0
    smoothness: float = 0.01
    radius: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_hyperparameters(self)
        if not 0 < self.step < math.inf:
            raise ValueError(f"step must be positive and finite, not {self.step}")
        for name in ("lambda_", "smoothness", "radius"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"{name} must be finite and not negative, not {getattr(self, name)}"
                )
        if not callable(self.h) and not math.isfinite(self.h):
            raise ValueError(f"h must be a finite number or a function, not {self.h}")

    def __call__(
        self,
        clf: Classifier | nn.Module,
        *,
        start: Tensor,
        indices: Sequence[int] | None = None,
    ) -> LogitSpaceResult:
        """Find points with the probabilities of `start` `(N, *shape)` and other logits.

        indices: the samples' numbers in their data set, which seed their randomness.
        Raises `ValueError` for inputs that `Classifier.validate` refuses, and for samples that
        are not images unless `smoothness` is 0.
        """
        clf = as_classifier(clf)
        start, classes = clf.validate(start)
        if self.smoothness and not _images(start):
            raise ValueError(
                f"samples of shape {tuple(start.shape[1:])} are no images and have no total "
                "variation: use smoothness=0"
            )
        rng = SampleRng(self.seed, indices if indices is not None else range(len(start)))
        if len(rng) != len(start):
            raise ValueError(f"{len(rng)} indices for {len(start)} samples")
        with clf.metered() as spent:
            wanted = clf.logits(start)
            example = self._ascend(clf, start, wanted, rng)
            logits = clf.logits(example)
            move = example.double() - start.double()
            softmax_move = logits.double().softmax(dim=1) - wanted.double().softmax(dim=1)
            unknown = move.new_full((len(move),), torch.nan)
            return LogitSpaceResult(
                example=example,
                distance=L2.length(move),
                total_variation=total_variation(move) if _images(move) else unknown,
                confidence=confidence(logits, classes),
                confidence_start=confidence(wanted, classes),
                logit_mse=(logits.double() - wanted.double()).square().mean(dim=1),
                softmax_mse=softmax_move.square().mean(dim=1),
                cost=spent(),
            )

    def _ascend(self, clf: Classifier, start: Tensor, wanted: Tensor, rng: SampleRng) -> Tensor:
        noise = self.radius * (2 * rng.uniform(start) - 1)
        x = best = clf.clamp(start + noise)
        highest = torch.full_like(wanted[:, 0], -torch.inf, dtype=torch.float64)
        for step in range(self.steps + 1):
            value, gradient = self.objective(clf, x, start, wanted)
            better = value > highest
            best = torch.where(per_sample(better, x), x, best)
            highest = torch.where(better, value, highest)
            if step < self.steps:
                x = clf.clamp(x + self.step * gradient.sign())
        return best

    def objective(
        self, clf: Classifier, x: Tensor, start: Tensor, wanted: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is ascended, at `x` `(N, *shape)`: `(N,)` in float64, and its gradient.

        wanted: `(N, K)`, the logits at `start`.
        """
        with torch.enable_grad():
            point = x.detach().requires_grad_()
            shift = self._shift(point)
            rough = self.smoothness * total_variation(point - start) if self.smoothness else None
            found = shift.detach()[:, None]

            def of_logits(logits: Tensor) -> Tensor:
                change = (logits + found - wanted).square().sum(dim=1)
                moved = (logits.softmax(dim=1) - wanted.softmax(dim=1)).square().sum(dim=1)
                return change - self.lambda_ * moved

            logits, gradient = clf.gradient(x, of_logits)
            value = of_logits(logits).double()
            # The logits' gradient takes the shift for a constant; its own share comes on top.
            extra: Tensor | None = None
            if shift.requires_grad:
                extra = (2 * (logits + found - wanted).sum(dim=1) * shift).sum()
            if rough is not None:
                value = value - rough.detach()
                extra = -rough.sum() if extra is None else extra - rough.sum()
            if extra is not None:
                gradient = gradient + torch.autograd.grad(extra, point)[0]
        return value, gradient

    def _shift(self, x: Tensor) -> Tensor:
        if not callable(self.h):
            return x.new_full((len(x),), self.h)
        shift = self.h(x)
        if shift.shape != (len(x),):
            raise ValueError(f"h must return shape ({len(x)},), got {tuple(shift.shape)}")
        return shift


class SweepRow(NamedTuple):
    """Means over the samples for one weight of the total variation.

    confidence: in the decision at the source. softmax_mse: of the probabilities to the source's.
    total_variation, distance (L2): of the perturbation.
    """

    smoothness: float
    confidence: float
    softmax_mse: float
    total_variation: float
    distance: float


def sweep(
    attack: LogitSpaceAttack,
    clf: Classifier | nn.Module,
    *,
    start: Tensor,
    weights: Sequence[float],
    indices: Sequence[int] | None = None,
) -> list[SweepRow]:
    """One row for each weight of the total variation: what smoothness costs in confidence.

    NSPGD, section 6: smoother perturbations lower the confidences of CCAT again.
    start: `(N, *shape)`, images. All runs begin at the same points.
    """
    rows = []
    for weight in weights:
        found = replace(attack, smoothness=weight)(clf, start=start, indices=indices)
        columns = (found.confidence, found.softmax_mse, found.total_variation, found.distance)
        rows.append(SweepRow(weight, *(float(column.mean()) for column in columns)))
    return rows
