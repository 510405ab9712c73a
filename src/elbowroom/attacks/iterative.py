"""Fast gradient steps, repeated: until the class changes, or on and on across the boundary."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from elbowroom.attacks.base import Attack
from elbowroom.attacks.fast_gradient import FGS, FGV
from elbowroom.attacks.guides import first_order_distance
from elbowroom.classifier import Classifier, as_classifier
from elbowroom.goals import Goal
from elbowroom.norms import L2, Linf, Norm, per_sample
from elbowroom.optimise import Best
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class IterativePerturbation(Attack):
    """Small fast gradient steps until the class changes, each a little longer than the last.

    Kurakin et al. 2017 (the basic iterative method, without its ball); Bounds thesis, section 2.7.
    Growing steps make a fixed number of them suffice for inputs of any scale. `path` gives the
    thesis's strip of images, each of which is an adversarial perturbation of the one before.

    norm:      in which the result is measured.
    rule:      "sign" (fast gradient sign) or "value" (the gradient itself).
    steps:     at most.
    step_size: Linf ("sign") or L2 ("value") length of the first step, in the input's units; by
               default a twentieth of a first-order estimate of the distance (Kurakin: one grey
               level, 1/255).
    growth:    factor from each step to the next.
    """

    norm: Norm = Linf
    rule: Literal["sign", "value"] = "sign"
    steps: int = 50
    step_size: float | None = None
    growth: float = 1.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, not {self.step_size}")
        if not 1 <= self.growth < math.inf:
            raise ValueError(f"growth must be finite and at least 1, not {self.growth}")

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        step_norm = Linf if self.rule == "sign" else L2
        best = Best(x, self.norm)
        point = x
        size = x.new_zeros(len(x))
        for step in range(self.steps):
            logits, gradient = clf.gradient(point, goal.loss)
            best.offer(point, logits, goal, where=~best.met)
            if bool(best.met.all()):
                return best.point
            if step == 0:
                size = self._first_size(clf, x, goal, step_norm)
            point = clf.clamp(point - per_sample(size, x) * step_norm.steepest(gradient))
            size = self.growth * size
        best.offer(point, clf.logits(point), goal, where=~best.met)
        return best.point

    def _first_size(self, clf: Classifier, x: Tensor, goal: Goal, step_norm: Norm) -> Tensor:
        if self.step_size is not None:
            return torch.full((len(x),), self.step_size, dtype=x.dtype, device=x.device)
        logits, gradient = clf.gradient(x, goal.margin)
        return first_order_distance(goal.margin(logits), gradient, step_norm) / 20

    def path(self, model: Classifier | nn.Module, x: Tensor, count: int = 5) -> Iterator[Tensor]:
        """The images X0 = `x`, X1, ..., X`count`, each `(N, *shape)`.

        Each is the smallest fast gradient step from the one before that changes its class; where
        there is none, the image stays as it is. (Bounds thesis, section 2.7 and Fig. 2.5.)
        """
        clf = as_classifier(model)
        attack = FGS(seed=self.seed) if self.rule == "sign" else FGV(seed=self.seed)
        yield x
        for _ in range(count):
            result = attack(clf, x)
            x = torch.where(per_sample(result.success, x), result.adversarial, x)
            yield x
