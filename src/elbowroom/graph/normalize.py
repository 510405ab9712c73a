"""Input normalisation as a layer that traces."""

from __future__ import annotations

from torch import Tensor, nn


class Normalize(nn.Module):
    """`(x - mean) / std`, per channel (the first dimension of a sample) or for all alike."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, x: Tensor) -> Tensor:
        if self.mean.ndim == 0:
            return (x - self.mean) / self.std
        shape = (-1, *[1] * (x.ndim - 2))
        return (x - self.mean.reshape(shape)) / self.std.reshape(shape)
