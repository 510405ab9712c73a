"""What searches on a batch of independent problems share: Adam, a schedule, the best point."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from elbowroom.goals import Goal
from elbowroom.norms import Norm, per_sample


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


class Best:
    """The best point seen for each sample: the closest success, or else the nearest miss."""

    def __init__(self, x: Tensor, norm: Norm) -> None:
        self.origin = x
        self.norm = norm
        self.point = x.clone()
        self.met = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.distance = torch.full((len(x),), torch.inf, device=x.device, dtype=torch.float64)
        self.margin = torch.full((len(x),), torch.inf, device=x.device, dtype=x.dtype)

    def offer(
        self, point: Tensor, logits: Tensor, goal: Goal, where: Tensor | None = None
    ) -> Tensor:
        """Keep `point` `(N, *shape)` for the samples (of `where`) it is better for.

        Returns which rows of `logits` meet the goal.
        """
        met = goal.met(logits)
        distance = self.norm.length(point - self.origin)
        margin = goal.margin(logits)
        better = torch.where(met, distance < self.distance, ~self.met & (margin < self.margin))
        if where is not None:
            better &= where
        self.point = torch.where(per_sample(better, point), point, self.point)
        self.distance = torch.where(better & met, distance, self.distance)
        self.margin = torch.where(better, margin, self.margin)
        self.met |= better & met
        return met
