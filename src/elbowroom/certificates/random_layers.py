"""What random layers are made of: numbers from a generator, in float64."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn

M = TypeVar("M", bound=nn.Module)

POINTS = 12  # inputs of each layer


def uniform(g: Generator, low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers in float64."""
    return low + (high - low) * torch.rand(shape, generator=g, dtype=torch.float64)


def whole(g: Generator, low: int, high: int) -> int:
    """A random integer from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=g))


def spread(g: Generator, low: float, high: float, *shape: int) -> Tensor:
    """Positive numbers, uniform in their logarithms."""
    return uniform(g, math.log(low), math.log(high), *shape).exp()


def frozen(layer: M, g: Generator, low: float = -1.0, high: float = 1.0) -> M:
    """The layer in float64 with uniform parameters, in evaluation mode."""
    layer = layer.double().eval().requires_grad_(False)
    for parameter in layer.parameters():
        parameter.copy_(uniform(g, low, high, *parameter.shape))
    return layer
