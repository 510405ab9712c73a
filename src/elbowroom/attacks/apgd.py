"""APGD: projected gradient descent that chooses its own step lengths."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from elbowroom.attacks.ball import BallAttack, Observer
from elbowroom.attacks.guides import guides
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal, Misclassified
from elbowroom.norms import L2, per_sample
from elbowroom.sampling import SampleRng

MOMENTUM = 0.75  # weight of the new step against the last movement
RHO = 0.75  # share of the steps between two checkpoints that must lower the loss


@dataclass(frozen=True, kw_only=True)
class APGD(BallAttack):
    """Auto-PGD: momentum, and steps that are halved when the loss stops falling.

    Croce and Hein 2020 ("Reliable evaluation ..."), Algorithm 1 and section 4. The first step is
    as long as the ball is wide; at checkpoints that come ever more often, a run that no longer
    makes progress goes back to its best point and halves its step. No step length to choose. With
    `radius_steps` it becomes a minimal-norm attack. The other fields are those of `BallAttack`.

    loss:    "ce": cross-entropy; its gradient can vanish where the network is confident.
             "dlr": the margin divided by the difference of the largest and the third largest
             logit, which no rescaling of the logits changes; needs three classes.
             "dlr-targeted": the same towards each of the strongest other classes in turn, divided
             by the difference of the largest and the mean of the third and fourth; needs four.
    targets: number of these classes, for "dlr-targeted" and the goal Misclassified.
    """

    steps: int = 100
    loss: Literal["ce", "dlr", "dlr-targeted"] = "ce"
    targets: int = 9

    def aims(self, clf: Classifier, x: Tensor, goal: Goal) -> list[Goal]:
        if self.loss == "dlr-targeted" and isinstance(goal, Misclassified):
            return guides(clf, x, goal, self.targets)
        return [goal]

    def random_starts(self, x: Tensor, radius: Tensor, rng: SampleRng) -> Tensor:
        """On the sphere: in L2 uniform on it, in Linf a point of the cube, stretched."""
        noise = rng.normal(x) if self.norm == L2 else 2 * rng.uniform(x) - 1
        return per_sample(radius / self.norm.length(noise).to(x.dtype), x) * noise

    def descend(
        self,
        clf: Classifier,
        x: Tensor,
        aim: Goal,
        delta: Tensor,
        radius: Tensor,
        observe: Observer,
    ) -> Tensor:
        loss = self._loss(aim)

        def project(point: Tensor) -> Tensor:
            return clf.clamp(x + self.norm.project(point - x, radius))

        point = last = project(x + delta)
        best_point, best_gradient = point, torch.zeros_like(x)
        size = 2 * radius
        lowest = torch.full_like(radius, torch.inf)  # loss of the best point
        before = lowest.clone()  # loss of the last point
        falls = torch.zeros_like(radius)  # steps since the last checkpoint that lowered the loss
        lowest_then = torch.full_like(radius, -torch.inf)  # `lowest` at the last checkpoint
        halved_then = torch.ones_like(radius, dtype=torch.bool)
        checkpoints, since = _checkpoints(self.steps), 0
        for step in range(self.steps):
            logits, gradient = clf.gradient(point, loss)
            value = loss(logits)
            if bool(observe(point, logits).all()):
                return point
            falls += value < before
            better = value < lowest
            lowest, before = torch.where(better, value, lowest), value
            best_point = torch.where(per_sample(better, x), point, best_point)
            best_gradient = torch.where(per_sample(better, x), gradient, best_gradient)
            if step in checkpoints:
                stalled = (falls < RHO * (step - since)) | (~halved_then & (lowest >= lowest_then))
                size = torch.where(stalled, size / 2, size)
                back = per_sample(stalled, x)
                point = torch.where(back, best_point, point)
                gradient = torch.where(back, best_gradient, gradient)
                before = torch.where(stalled, lowest, before)
                lowest_then, halved_then = lowest, stalled
                falls, since = torch.zeros_like(falls), step
            ahead = project(point - per_sample(size, x) * self.norm.steepest(gradient))
            if step > 0:
                ahead = project(
                    point + MOMENTUM * (ahead - point) + (1 - MOMENTUM) * (point - last)
                )
            last, point = point, ahead
        observe(point, clf.logits(point))
        return point

    def _loss(self, aim: Goal) -> Callable[[Tensor], Tensor]:
        if self.loss == "ce":
            return aim.loss

        def difference_of_logits_ratio(logits: Tensor) -> Tensor:
            needed = 3 if self.loss == "dlr" else 4
            if logits.shape[1] < needed:
                raise ValueError(
                    f"the {self.loss} loss needs {needed} classes, the model has "
                    f"{logits.shape[1]}; use the loss ce"
                )
            ordered = logits.sort(dim=1, descending=True).values
            lower = ordered[:, 2] if needed == 3 else (ordered[:, 2] + ordered[:, 3]) / 2
            return aim.margin(logits) / (ordered[:, 0] - lower).clamp(min=1e-12)

        return difference_of_logits_ratio


def _checkpoints(steps: int) -> set[int]:
    """At shares 0.22, 0.41, ... of the steps; the gaps shrink by 0.03 down to 0.06."""
    found: set[int] = set()
    share, gap = 0.0, 0.22
    while share < 1:
        share, gap = share + gap, max(gap - 0.03, 0.06)
        found.add(math.ceil(share * steps))
    return found
