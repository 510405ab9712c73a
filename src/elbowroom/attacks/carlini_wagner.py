"""Carlini and Wagner's L2 attack."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.guides import first_order_distance, guides
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.norms import L2, per_sample
from elbowroom.optimise import Adam, Best, cosine_decay
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """Minimise `|delta|^2 + c max(margin + confidence, 0)` by Adam, with a search for c.

    Carlini and Wagner 2017, section VI.A. The box is kept by the change of variables
    `x = middle + half tanh(w)` (features without finite bounds stay as they are). Reliable and
    slow. L2 only.

    steps:          Adam steps for each c (the paper: 10,000).
    search_steps:   values of c tried per sample.
    first_constant: the first c (the paper: 1e-3); multiplied by 10 until there is a success, then
                    bisected. By default twice the c that would do if the network were linear.
    learning_rate:  of Adam, in the units of w (the paper: 0.01); by default a tenth of the
                    change per feature that a first-order estimate of the distance asks for,
                    which fits inputs of any scale. It falls to a hundredth within a run, so
                    that the last steps settle on the boundary (the paper: constant).
    confidence:     margin in logits that must be exceeded.
    runner_ups:     0 for the untargeted attack; k to run towards each of the k strongest other
                    classes of the sample and keep the nearest success.
    """

    steps: int = 1000
    search_steps: int = 9
    first_constant: float | None = None
    learning_rate: float | None = None
    confidence: float = 0.0
    runner_ups: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != L2:
            raise ValueError(f"the Carlini-Wagner attack works in L2, not {self.norm}")

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        best = Best(x, L2)
        for guide in guides(clf, x, goal, self.runner_ups):
            self._search_constant(clf, x, goal, guide, best)
        return best.point

    def _search_constant(
        self, clf: Classifier, x: Tensor, goal: Goal, guide: Goal, best: Best
    ) -> None:
        box = _Box(clf, x)
        logits, gradient = clf.gradient(x, guide.margin)
        distance = first_order_distance(guide.margin(logits), gradient, L2)
        rate = self._rate(distance, box)
        c = self._first_constant(distance, gradient)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(self.search_steps):
            succeeded = self._descend(clf, x, goal, guide, box, rate, c, best)
            high = torch.where(succeeded, torch.minimum(high, c), high)
            low = torch.where(succeeded, low, torch.maximum(low, c))
            c = torch.where(high.isfinite(), (low + high) / 2, 10 * c)

    def _rate(self, distance: Tensor, box: _Box) -> Tensor:
        if self.learning_rate is not None:
            return torch.full_like(box.half, self.learning_rate)
        return 0.1 * per_sample(distance, box.half) / math.sqrt(box.half[0].numel()) / box.half

    def _first_constant(self, distance: Tensor, gradient: Tensor) -> Tensor:
        if self.first_constant is not None:
            return torch.full_like(distance, self.first_constant)
        # On a linear network the minimum has |2 delta| = c |gradient|.
        return 2 * first_order_distance(2 * distance, gradient, L2)

    def _descend(
        self,
        clf: Classifier,
        x: Tensor,
        goal: Goal,
        guide: Goal,
        box: _Box,
        rate: Tensor,
        c: Tensor,
        best: Best,
    ) -> Tensor:
        """One run for fixed `c`; which samples got where `guide` leads."""
        adam = Adam()
        w = box.inverse(x)
        succeeded = torch.zeros(len(x), dtype=torch.bool, device=x.device)

        def penalty(logits: Tensor) -> Tensor:
            return c * (guide.margin(logits) + self.confidence).clamp(min=0)

        for step in range(self.steps):
            point, slope = box.forward(w)
            logits, gradient = clf.gradient(point, penalty)
            there = guide.met(logits) & (guide.margin(logits) <= -self.confidence)
            best.offer(point, logits, goal, where=there)
            succeeded |= there
            size = cosine_decay(step, self.steps) * rate
            w = w - size * adam.step((gradient + 2 * (point - x)) * slope)
        return succeeded


class _Box:
    """The change of variables that keeps a point strictly inside its bounds."""

    def __init__(self, clf: Classifier, x: Tensor) -> None:
        bounded = clf.lower.isfinite() & clf.upper.isfinite()
        self.bounded = bounded.expand(x.shape)
        self.middle = torch.where(bounded, (clf.lower + clf.upper) / 2, 0.0)
        half = (clf.upper - clf.lower) / 2
        self.half = torch.where(bounded & (half > 0), half, 1.0).expand(x.shape)

    def inverse(self, x: Tensor) -> Tensor:
        # Slightly inside, or values on a bound would have no finite w and no gradient.
        inner = 1 - 1e-6
        share = (inner * (x - self.middle) / self.half).clamp(-inner, inner)
        return torch.where(self.bounded, torch.atanh(share), x)

    def forward(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """The point and its derivative by `w`, both `(N, *shape)`."""
        t = torch.tanh(torch.where(self.bounded, w, 0.0))
        point = torch.where(self.bounded, self.middle + self.half * t, w)
        slope = torch.where(self.bounded, self.half * (1 - t.square()), 1.0)
        return point, slope
