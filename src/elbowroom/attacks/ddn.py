"""DDN: the direction from the gradient, the norm from success."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.guides import first_order_distance, guides
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.norms import L2, per_sample
from elbowroom.optimise import Best, cosine_decay
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """Decoupled direction and norm: walk on spheres that shrink on success and grow on failure.

    Rony et al. 2019, Algorithm 1 (without its quantisation). Fast and strong on ordinary
    networks; on networks trained to be robust it overestimates distances. L2 only.

    steps:    gradient steps per start.
    gamma:    relative change of the sphere's radius in a step.
    start:    first radius, in the input's units; by default a first-order estimate of the
              distance to the boundary, which fits inputs of any scale (the paper: 1).
    runner_ups: 0 for the untargeted attack; k to run towards each of the k strongest other
              classes of the sample and keep the nearest success.
    loss:     what is descended: "margin" (difference of logits) or "cross-entropy" (the paper).
    """

    steps: int = 100
    gamma: float = 0.05
    start: float | None = None
    runner_ups: int = 0
    loss: Literal["margin", "cross-entropy"] = "margin"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != L2:
            raise ValueError(f"DDN works in L2, not {self.norm}")
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must lie between 0 and 1, not {self.gamma}")

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        best = Best(x, self.norm)
        for guide in guides(clf, x, goal, self.runner_ups):
            self._walk(clf, x, goal, guide, best)
        return best.point

    def _walk(self, clf: Classifier, x: Tensor, goal: Goal, guide: Goal, best: Best) -> None:
        """One run down `guide`'s loss; whatever meets `goal` on the way is offered to `best`."""
        descended = guide.margin if self.loss == "margin" else guide.loss
        delta = torch.zeros_like(x)
        radius = scale = x.new_ones(len(x))
        for step in range(self.steps):
            logits, gradient = clf.gradient(x + delta, descended)
            if step == 0:
                radius = scale = self._first_radius(logits, gradient, guide)
            met = best.offer(x + delta, logits, goal)
            # Step lengths follow a cosine from the first radius down to a hundredth of it.
            size = cosine_decay(step, self.steps) * scale
            delta = delta - per_sample(size, x) * L2.steepest(gradient)
            radius = torch.where(met, (1 - self.gamma) * radius, (1 + self.gamma) * radius)
            length = L2.length(delta).to(x.dtype).clamp(min=torch.finfo(x.dtype).tiny)
            delta = clf.clamp(x + per_sample(radius / length, x) * delta) - x
        best.offer(x + delta, clf.logits(x + delta), goal)

    def _first_radius(self, logits: Tensor, gradient: Tensor, guide: Goal) -> Tensor:
        if self.start is not None:
            return torch.full_like(logits[:, 0], self.start)
        gap = guide.margin(logits) if self.loss == "margin" else guide.loss(logits)
        return first_order_distance(gap, gradient, L2)
