"""How wide an equi-confidence path is: confidences on spheres in its tangent planes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.invariance.confidence import confidence, log_odds
from elbowroom.norms import L2, per_sample
from elbowroom.results import Cost
from elbowroom.sampling import SampleRng

PERCENTILES = (5, 95)


@dataclass(frozen=True)
class EquiConfidenceResult:
    """Confidences around a path of P points, for each of N samples.

    radii:       `(R,)`, L2, in the input's units.
    percentiles: `(P, N, R, 2)`, float64: the 5th and the 95th of the confidences on each sphere.
    on_path:     `(P, N)`, float64: at the points themselves. classes: `(N,)`: confidence in what.
    """

    radii: Tensor
    percentiles: Tensor
    on_path: Tensor
    classes: Tensor
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class EquiConfidence:
    """Percentiles of the confidence on spheres that are orthogonal to its gradient.

    NSPGD, section 6.1 and Fig. 9. Around each point of a path lie spheres in the plane in which
    the confidence does not change to first order; where it stays high far out, the path is wide.
    Each point has directions of its own, drawn uniformly, and uses them for all radii.

    radii:   L2, in the input's units (the paper: multiples of 5).
    samples: directions for each point.
    clip:    whether what is sampled is moved into the input box. The paper does not: most of its
             points have values that no image has, and tell of the network rather than of images.
             Clipped points do, but lie nearer than the radius and not quite in the plane.
    batch:   how many points are classified at once.
    seed:    of the directions; with the sample's index and the place on the path it fixes them.
    """

    radii: Sequence[float] = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
    samples: int = 100
    clip: bool = False
    batch: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        check_hyperparameters(self)
        if not self.radii or not all(0 <= radius < math.inf for radius in self.radii):
            raise ValueError(f"radii must be finite and not negative, not {self.radii!r}")
        if self.samples < 2:
            raise ValueError(f"samples must be an integer of at least 2, not {self.samples}")

    def __call__(
        self,
        clf: Classifier | nn.Module,
        path: Tensor,
        y: Tensor | None = None,
        *,
        indices: Sequence[int] | None = None,
    ) -> EquiConfidenceResult:
        """Sample around `path` `(P, N, *shape)`, such as `NullSpaceResult.path`.

        y:       `(N,)`: confidence in these classes; in the decisions at `path[0]` by default.
        indices: the samples' numbers in their data set, which seed their randomness.
        Raises `ValueError` for inputs that `Classifier.validate` refuses.
        """
        clf = as_classifier(clf)
        if path.ndim < 3 or 0 in path.shape:
            raise ValueError(
                f"the path must be a non-empty tensor (P, N, *shape), got {tuple(path.shape)}; "
                "that of one sample is path[:, None]"
            )
        places, count = path.shape[:2]
        if math.prod(path.shape[2:]) < 2:
            raise ValueError("samples of one feature have no tangent plane")
        points, _ = clf.validate(path.flatten(0, 1))
        _, classes = clf.validate(points[:count], y)
        rng = SampleRng(self.seed, indices if indices is not None else range(count))
        if len(rng) != count:
            raise ValueError(f"{len(rng)} indices for {count} samples")
        with clf.metered() as spent:
            percentiles, on_path = [], []
            for place, at in enumerate(points.view(places, count, *path.shape[2:])):
                everyone = torch.arange(count)
                streams = rng.children(everyone, torch.full_like(everyone, place))
                centre, around = self._around(clf, at, classes, streams)
                on_path.append(centre)
                percentiles.append(around)
            return EquiConfidenceResult(
                radii=torch.tensor(list(self.radii), dtype=torch.float64),
                percentiles=torch.stack(percentiles),
                on_path=torch.stack(on_path),
                classes=classes,
                cost=spent(),
            )

    def _around(
        self, clf: Classifier, x: Tensor, classes: Tensor, rng: SampleRng
    ) -> tuple[Tensor, Tensor]:
        """Confidences at `x` `(N,)` and their percentiles `(N, R, 2)` around it."""
        logits, gradient = clf.gradient(x, log_odds(classes))
        directions = tangents(gradient, self.samples, rng)
        shape = x.shape[1:]
        per_radius = []
        for radius in self.radii:
            around = (x[:, None] + radius * directions).reshape(-1, *shape)
            labels = classes.repeat_interleave(self.samples)
            parts = zip(
                torch.split(around, self.batch), torch.split(labels, self.batch), strict=True
            )
            found = [
                confidence(clf.logits(clf.clamp(some) if self.clip else some), of)
                for some, of in parts
            ]
            per_radius.append(torch.cat(found).view(len(x), self.samples))
        levels = torch.tensor(PERCENTILES, dtype=torch.float64, device=x.device) / 100
        percentiles = torch.stack(per_radius, dim=1).quantile(levels, dim=2)
        return confidence(logits, classes), percentiles.permute(1, 2, 0)


def tangents(gradient: Tensor, samples: int, rng: SampleRng) -> Tensor:
    """Unit vectors `(N, samples, *shape)`, uniform among those orthogonal to `gradient`.

    gradient: `(N, *shape)`; where it is zero, uniform among all.
    """
    normal = L2.steepest(gradient)[:, None].expand(-1, samples, *gradient.shape[1:])
    normal = normal.reshape(-1, *gradient.shape[1:])
    noise = rng.normal(normal.reshape(len(gradient), samples, *gradient.shape[1:]))
    noise = noise.reshape(normal.shape)
    for _ in range(2):  # the second time removes what rounding left
        along = (noise * normal).flatten(1).sum(dim=1)
        noise = noise - per_sample(along, noise) * normal
    return L2.steepest(noise).reshape(len(gradient), samples, *gradient.shape[1:])
