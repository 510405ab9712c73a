"""Structural similarity: luminance, contrast and structure, compared in local windows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.perception.distance import PerceptualDistance, require_images, require_range

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class SSIM(PerceptualDistance):
    """1 - SSIM, in [0, 2] (Wang et al. 2004, eq. 13, with the paper's constants).

    Windows of 11x11 pixels weighted by a Gaussian of standard deviation 1.5 pixels, each wholly
    inside the image; the mean over windows, then over channels. Images `(N, C, H, W)` with sides
    of at least 11 pixels. Meant for distortions of one image: it says little about two different
    images (Invariance thesis, 2.2).

    bounds: smallest and largest value a pixel can have.
    """

    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        require_range(self.bounds)

    @property
    def name(self) -> str:
        return "SSIM"

    def describe(self, x: Tensor) -> Tensor:
        require_images(x)
        if x.ndim != 4 or min(x.shape[2:]) < WINDOW:
            raise ValueError(
                f"SSIM compares images (N, C, H, W) of at least {WINDOW}x{WINDOW} pixels, got "
                f"{tuple(x.shape)}"
            )
        # Shifted to the lower bound, where SSIM's luminance term has its zero.
        shifted = x.double() - self.bounds[0]
        mean = _blur(shifted)
        variance = _blur(shifted.square()) - mean.square()
        room = (0, WINDOW - 1, 0, WINDOW - 1)
        return torch.stack([shifted, F.pad(mean, room), F.pad(variance, room)], dim=1)

    def between(self, a: Tensor, b: Tensor) -> Tensor:
        span = self.bounds[1] - self.bounds[0]
        c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
        (x, mean_x, var_x), (y, mean_y, var_y) = (_parts(description) for description in (a, b))
        means = mean_x * mean_y
        covariance = _blur(x * y) - means
        luminance = (2 * means + c1) / (mean_x.square() + mean_y.square() + c1)
        structure = (2 * covariance + c2) / (var_x + var_y + c2)
        return 1 - (luminance * structure).flatten(1).mean(dim=1)


def _parts(description: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Images `(N, C, H, W)`, and the means and variances of their windows."""
    image, mean, variance = description.unbind(dim=1)
    inside = (..., slice(1 - WINDOW), slice(1 - WINDOW))
    return image, mean[inside], variance[inside]


def _blur(x: Tensor) -> Tensor:
    """Gaussian means of all windows of `x` `(N, C, H, W)`, one dimension after the other."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = (-offsets.square() / (2 * SIGMA**2)).exp()
    weights = weights / weights.sum()
    # Shifted sums: PyTorch's convolutions of one channel in float64 are far slower.
    for dim in (2, 3):
        size = x.shape[dim] - WINDOW + 1
        parts = (weight * x.narrow(dim, k, size) for k, weight in enumerate(weights.tolist()))
        x = sum(parts, start=torch.zeros((), dtype=x.dtype, device=x.device))
    return x
