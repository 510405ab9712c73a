"""Adam on a batch of independent problems, and a schedule for step lengths."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class Adam:
    """Kingma and Ba 2015, Algorithm 1. `step(gradient)` returns the update to subtract."""

    def __init__(self, *, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> None:
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self._count = 0
        self._mean: Tensor | float = 0.0
        self._square: Tensor | float = 0.0

    def step(self, gradient: Tensor) -> Tensor:
        """The direction `m / (sqrt(v) + eps)`, to be scaled by the learning rate."""
        self._count += 1
        self._mean = self.beta1 * self._mean + (1 - self.beta1) * gradient
        self._square = self.beta2 * self._square + (1 - self.beta2) * gradient.square()
        mean = self._mean / (1 - self.beta1**self._count)
        square = self._square / (1 - self.beta2**self._count)
        return mean / (torch.sqrt(square) + self.eps)


def cosine_decay(step: int, steps: int, floor: float = 0.01) -> float:
    """From 1 at step 0 down to `floor` at the end, along half a cosine."""
    return floor + (1 - floor) * (1 + math.cos(math.pi * step / steps)) / 2
