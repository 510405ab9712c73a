"""What a perceptual distance is, and the simplest ones: norms of the difference, and PSNR.

A distance is computed in two steps, so that a set of images is worked through once and not once a
pair: `describe` turns images into what they are compared by, `between` compares descriptions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.norms import L2, Norm

VALUES = 2**22  # at once, where descriptions have to be copied for each pair


class PerceptualDistance(ABC):
    """How different images look: a frozen dataclass that compares them row by row.

    `distance(x, y)` is a number at least 0, and 0 for equal images; not always a metric
    (Invariance thesis, 2.2). It is differentiable in both images, unless it says otherwise. A
    subclass has `name`, `describe` and `between`.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """For reports."""

    @abstractmethod
    def describe(self, x: Tensor) -> Tensor:
        """What images `x` `(N, *shape)` are compared by: `(N, ...)`, one row an image."""

    @abstractmethod
    def between(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances `(N,)`, float64, of descriptions, row by row."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances `(N,)`, float64, of the images `x[i]` and `y[i]`, both `(N, *shape)`.

        Raises `ValueError` for images that are not two batches of one shape.
        """
        require_images(x)
        require_images(y)
        if x.shape != y.shape:
            raise ValueError(
                f"images are compared row by row and must have one shape, got {tuple(x.shape)} "
                f"and {tuple(y.shape)}; for all pairs of two sets see elbowroom.perception.across"
            )
        return self.between(self.describe(x), self.describe(y))

    def across(self, a: Tensor, b: Tensor) -> Tensor:
        """Distances `(N, M)`, float64, of all pairs of N descriptions and M others."""
        rows = torch.arange(len(a), device=a.device).repeat_interleave(len(b))
        columns = torch.arange(len(b), device=a.device).repeat(len(a))
        return self.pairs(a, b, rows, columns).view(len(a), len(b))

    def pairs(self, a: Tensor, b: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Distances `(P,)` of the descriptions `a[rows[p]]` and `b[columns[p]]`."""
        block = max(1, VALUES // a[0].numel())
        blocks = zip(torch.split(rows, block), torch.split(columns, block), strict=True)
        return torch.cat([self.between(a[row], b[column]) for row, column in blocks])


class VectorDistance(PerceptualDistance):
    """A distance that is a function of the length, in `norm`, of a difference of vectors.

    `describe` gives the vectors `(N, D)`.
    """

    norm: Norm

    def from_length(self, length: Tensor) -> Tensor:
        """The distance, from the length of the difference; an increasing function."""
        return length

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        return self.from_length(self.norm.length(a.double() - b.double()))

    def across(self, a: Tensor, b: Tensor) -> Tensor:
        # Differences, not |a|^2 + |b|^2 - 2 <a, b>: that would lose small distances.
        mode = "donot_use_mm_for_euclid_dist"
        return self.from_length(torch.cdist(a.double(), b.double(), self.norm.p, mode))


@dataclass(frozen=True)
class Lp(VectorDistance):
    """The length of the difference in `norm`, in the input's own units."""

    norm: Norm = L2

    @property
    def name(self) -> str:
        return str(self.norm)

    def describe(self, x: Tensor) -> Tensor:
        require_images(x)
        return x.flatten(1)


@dataclass(frozen=True)
class L0(PerceptualDistance):
    """How many values differ. Without a gradient."""

    @property
    def name(self) -> str:
        return "L0"

    def describe(self, x: Tensor) -> Tensor:
        require_images(x)
        return x.flatten(1)

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        return (a != b).sum(dim=1).double()

    def across(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a.double(), b.double(), 0.0)


def psnr(x: Tensor, y: Tensor, bounds: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Peak signal-to-noise ratio `(N,)` of images `(N, *shape)`, in decibels, float64.

    `10 log10((upper - lower)^2 / mean squared difference)`; infinite for equal images. Not a
    `PerceptualDistance`: it grows with likeness, and orders pairs just as the L2 norm does.
    """
    require_range(bounds)
    peak, features = bounds[1] - bounds[0], x[0].numel()
    return 10 * torch.log10(peak**2 * features / Lp(L2)(x, y).square())


def require_images(x: Tensor) -> None:
    """Raise `ValueError` (or `TypeError`) unless `x` is a batch `(N, *shape)` of real numbers."""
    if not isinstance(x, Tensor):
        raise TypeError(f"images must be a torch.Tensor, not {type(x).__name__}")
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(
            f"images must be a non-empty batch (N, *shape), got shape {tuple(x.shape)}; for a "
            "single image pass x[None]"
        )
    if not x.dtype.is_floating_point:
        raise ValueError(f"images must be floating point, got {x.dtype}; divide by 255 first")


def require_range(bounds: tuple[float, float]) -> None:
    """Raise `ValueError` unless `bounds` are a finite smallest and a larger largest value."""
    if not -torch.inf < bounds[0] < bounds[1] < torch.inf:
        raise ValueError(f"bounds must be finite with lower < upper, not {bounds}")
