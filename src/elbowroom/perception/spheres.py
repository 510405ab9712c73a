"""Adversarial spheres: a problem where sensitivity and invariance have closed forms.

Two classes of points, on concentric spheres (Gilmer et al. 2018). Only the radius matters, so a
classifier that ignores some coordinates is too sensitive and too invariant at once (Invariance
thesis, 2.3.4, eq. 2.29 and 2.30, Fig. 2.5; after Jacobsen et al. 2020). All points here move on
the two spheres: the examples are on the data manifold.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import beta
from torch import Tensor, nn

from elbowroom.norms import L2, per_sample
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class Spheres:
    """Uniform distributions on two spheres around 0; class 0 is the inner one.

    dimension: of the space, at least 2. inner, outer: radii; the defaults are Gilmer et al.'s.
    """

    dimension: int = 500
    inner: float = 1.0
    outer: float = 1.3

    def __post_init__(self) -> None:
        if self.dimension < 2:
            raise ValueError(f"dimension must be at least 2, not {self.dimension}")
        if not 0 < self.inner < self.outer < float("inf"):
            raise ValueError(f"radii must be 0 < inner < outer, not {self.inner}, {self.outer}")

    def sample(
        self, count: int, *, seed: int = 0, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Points `(count, dimension)` and labels `(count,)`: the two classes in turn.

        Point i depends on (seed, i) alone.
        """
        y = torch.arange(count) % 2
        like = torch.empty(count, self.dimension, dtype=torch.float64)
        direction = SampleRng(seed, range(count)).normal(like)
        radius = torch.where(y == 1, self.outer, self.inner).double()
        length = L2.length(direction)
        return (direction * (radius / length)[:, None]).to(dtype), y

    def max_margin(self) -> RadialClassifier:
        """The robust classifier without error: `sgn(|x| - (inner + outer) / 2)`, eq. 2.29."""
        return RadialClassifier(self.dimension, (self.inner + self.outer) / 2)

    def errors(self, classifier: RadialClassifier) -> tuple[float, float]:
        """Probability that a point of the inner, and of the outer sphere is misclassified.

        Exact: the share of a uniform point's squared length that `k` of `d` coordinates hold has
        the distribution Beta(k / 2, (d - k) / 2).
        """
        seen, unseen = classifier.seen, self.dimension - classifier.seen
        b = classifier.threshold
        if unseen < 0:
            raise ValueError(f"the classifier looks at {seen} of {self.dimension} coordinates")
        if unseen == 0:
            return float(self.inner > b), float(self.outer <= b)
        law = beta(seen / 2, unseen / 2)
        share = [min(1.0, (b / radius) ** 2) for radius in (self.inner, self.outer)]
        return float(law.sf(share[0])), float(law.cdf(share[1]))


class RadialClassifier(nn.Module):
    """Class 1 where the first `seen` coordinates are longer than `threshold` (eq. 2.30).

    Logits `(N, 2)` for points `(N, d)`: minus and plus half of `|x[:seen]| - threshold`.
    """

    def __init__(self, seen: int, threshold: float) -> None:
        super().__init__()
        if seen < 1 or not threshold > 0:
            raise ValueError(f"seen and threshold must be positive, not {seen} and {threshold}")
        self.seen, self.threshold = seen, float(threshold)

    @classmethod
    def fit(cls, x: Tensor, y: Tensor, *, seen: int) -> RadialClassifier:
        """The threshold with the fewest errors on points `x` `(N, d)` with labels `y` `(N,)`.

        Of several, the middle of the widest gap between training points.
        """
        if not 1 <= seen <= x.shape[1]:
            raise ValueError(f"seen must lie in 1..{x.shape[1]}, not {seen}")
        if not bool((y == 0).any() & (y == 1).any() & ((y == 0) | (y == 1)).all()):
            raise ValueError("labels must be 0 and 1, and both occur")
        radius, order = L2.length(x[:, :seen]).sort()
        inner = (y[order] == 0).long()
        # A threshold after i + 1 points calls these inner: it errs on the outer ones among them,
        # and on the inner ones beyond.
        errors = (1 - inner).cumsum(dim=0)[:-1] + inner.sum() - inner.cumsum(dim=0)[:-1]
        gap = radius.diff()
        errors = torch.where(gap > 0, errors, len(x))
        best = errors == errors.amin()
        chosen = int(torch.where(best, gap, -1.0).argmax())
        return cls(seen, float(radius[chosen] + radius[chosen + 1]) / 2)

    def radius(self, x: Tensor) -> Tensor:
        """The length `(N,)`, float64, of the coordinates that the classifier looks at."""
        return L2.length(x[:, : self.seen])

    def forward(self, x: Tensor) -> Tensor:
        above = torch.linalg.vector_norm(x[:, : self.seen], dim=1) - self.threshold
        return torch.stack([-above, above], dim=1) / 2


@dataclass(frozen=True)
class Moved:
    """Where points of a sphere go.

    point:    `(N, d)`, in the input's dtype; the original where there is no such point.
    distance: `(N,)`, float64, L2 to the original; `inf` there.
    """

    point: Tensor
    distance: Tensor


def sensitivity_examples(classifier: RadialClassifier, x: Tensor) -> Moved:
    """The nearest points of the same sphere on the decision boundary.

    Beyond them the decision changes while the true class does not. Seen and unseen coordinates
    each keep their direction, and only the length between them is shared otherwise. There is none
    on spheres that the boundary does not meet, and none if all coordinates are seen.
    """
    radius, seen = L2.length(x), torch.full((len(x),), classifier.threshold).double().to(x.device)
    possible = (seen <= radius) & (x.shape[1] > classifier.seen)
    return _move(classifier, x, seen, (radius.square() - seen.square()).clamp(min=0), possible)


def invariance_examples(classifier: RadialClassifier, x: Tensor, radius: float) -> Moved:
    """The nearest points of the sphere of `radius` with the same logits.

    Only unseen coordinates move, so the classifier's output is the same, before its sign is taken,
    while the true class changes. There is none where the seen coordinates alone are longer than
    `radius`, or all are seen.
    """
    seen = classifier.radius(x)
    unseen = radius**2 - seen.square()
    possible = (unseen >= 0) & (x.shape[1] > classifier.seen)
    return _move(classifier, x, seen, unseen.clamp(min=0), possible)


def _move(
    classifier: RadialClassifier, x: Tensor, seen: Tensor, unseen_square: Tensor, possible: Tensor
) -> Moved:
    """Seen coordinates stretched to length `seen`, the others to the root of `unseen_square`."""
    precise = x.double()
    k = classifier.seen
    parts = [
        _stretched(precise[:, :k], seen),
        _stretched(precise[:, k:], unseen_square.sqrt()),
    ]
    moved = torch.where(per_sample(possible, x), torch.cat(parts, dim=1), precise)
    distance = torch.where(possible, L2.length(moved - precise), torch.inf)
    return Moved(moved.to(x.dtype), distance)


def _stretched(v: Tensor, length: Tensor) -> Tensor:
    """`v` `(N, k)` brought to `length` `(N,)`; the first axis stands in for a zero vector."""
    if v.shape[1] == 0:
        return v
    axis = torch.zeros_like(v)
    axis[:, 0] = 1
    own = L2.length(v)[:, None]
    direction = torch.where(own > 0, v / own.clamp(min=torch.finfo(v.dtype).tiny), axis)
    return direction * length[:, None]
