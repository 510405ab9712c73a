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
        for values in (self.mean, self.std):
            if values.numel() not in (1, x.shape[1]):
                raise ValueError(
                    "mean and std must be one number, or as many as the inputs have channels "
                    f"({x.shape[1]}), not {values.numel()} numbers"
                )
        return (x - per_channel(self.mean, x.ndim)) / per_channel(self.std, x.ndim)


def per_channel(values: Tensor, ndim: int) -> Tensor:
    """Scalars, or one value per channel, in a shape that fits a batch of `ndim` dimensions."""
    return values.reshape(-1, *[1] * (ndim - 2)) if values.ndim else values
