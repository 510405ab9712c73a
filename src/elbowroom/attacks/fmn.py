"""FMN: steps on the logits' margin inside of a ball whose radius follows the boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.guides import first_order_distance, guides, within_box
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.norms import L2, Linf, Norm, per_sample
from elbowroom.optimise import Best, cosine_decay
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    """Fast minimum-norm attack: descend the margin, projected onto a ball that is fitted to it.

    Pintor et al. 2021, Algorithm 1, for the norms L1, L2 and Linf. Until the first success, the
    ball is as large as the linearised margin asks for; afterwards it shrinks on success and grows
    on failure. As fast as DDN, and not bound to L2.

    steps:      gradient steps per start.
    gamma:      relative change of the ball's radius in the first step; it falls along half a
                cosine to a hundredth.
    step_size:  L2 length of the first step, in the input's units; it falls likewise to a
                hundredth. By default the L2 length of the perturbation that a first-order estimate
                asks for, which fits inputs of any scale (the paper: 1 in L2, 10 in Linf).
    runner_ups: 0 for the untargeted attack; k to run towards each of the k strongest other
                classes of the sample and keep the nearest success.
    """

    norm: Norm = L2
    steps: int = 100
    gamma: float = 0.05
    step_size: float | None = None
    runner_ups: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must lie between 0 and 1, not {self.gamma}")
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, not {self.step_size}")

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        best = Best(x, self.norm)
        for guide in guides(clf, x, goal, self.runner_ups):
            self.walk(clf, x, goal, guide, best, x)
        return best.point

    def walk(
        self, clf: Classifier, x: Tensor, goal: Goal, guide: Goal, best: Best, start: Tensor
    ) -> None:
        """One run from `start` down `guide`'s margin; what meets `goal` is offered to `best`."""
        point = start
        first_size = radius = x.new_zeros(len(x))
        nearest = torch.full_like(radius, torch.inf)  # success of this run
        for step in range(self.steps):
            logits, gradient = clf.gradient(point, guide.margin)
            gradient = within_box(clf, point, gradient)
            margin = guide.margin(logits)
            if step == 0:
                first_size = self._first_size(margin, gradient)
            met = best.offer(point, logits, goal)
            length = self.norm.length(point - x).to(x.dtype)
            nearest = torch.where(met, torch.minimum(nearest, length), nearest)
            decay = cosine_decay(step, self.steps)
            linear = length + first_order_distance(margin, gradient, self.norm)
            grown = (1 + self.gamma * decay) * radius
            shrunk = (1 - self.gamma * decay) * torch.minimum(radius, nearest)
            known = nearest.isfinite()
            radius = torch.where(met, shrunk, torch.where(known, grown, linear.maximum(grown)))
            size = decay * first_size
            # On the way to the boundary, steps are as long as the linearised margin asks for.
            size = torch.where(known, size, size.maximum(self._first_size(margin, gradient)))
            delta = point - per_sample(size, x) * L2.steepest(gradient) - x
            point = clf.clamp(x + self.norm.project(delta, radius))
        best.offer(point, clf.logits(point), goal)

    def _first_size(self, margin: Tensor, gradient: Tensor) -> Tensor:
        if self.step_size is not None:
            return torch.full_like(margin, self.step_size)
        distance = first_order_distance(margin, gradient, self.norm if self.norm == Linf else L2)
        return distance * self.norm.largest_l2(gradient[0].numel())
