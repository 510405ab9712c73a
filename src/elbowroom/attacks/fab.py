"""FAB: steps onto the linearised boundary that are biased towards the sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.attacks.ball import uniform_in_distance
from elbowroom.attacks.base import Attack
from elbowroom.attacks.guides import first_order_distance, guides
from elbowroom.attacks.halfspace import onto_plane
from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.norms import L2, Norm, per_sample
from elbowroom.optimise import Best
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Fast adaptive boundary attack: project onto the linearised boundary, again and again.

    Croce and Hein 2020 ("Minimally distorted ..."), Algorithm 1, for the norms L1, L2 and Linf.
    Both the current point and the sample are projected onto the boundary of the classifier
    linearised at the current point, inside of the input box, and the next point lies between the
    two projections; after a success it moves back towards the sample. Like DeepFool, but it keeps
    looking for nearer points. No step length to choose; scaling the logits changes nothing.

    steps:      per start.
    restarts:   runs; the first one starts at the sample, the others from random points not
                farther than half of the best distance so far.
    candidates: how many of the strongest other classes have their boundaries linearised in every
                step (as many backward passes, and one).
    runner_ups: 0 for that; k to run towards each of the k strongest other classes of the sample
                instead, with one backward pass per step (the paper's targeted version).
    alpha_max:  largest share of the sample's projection in a step (the bias).
    overshoot:  each projection goes this fraction beyond the plane.
    backward:   after a success, the share of the distance that is kept.
    """

    norm: Norm = L2
    steps: int = 100
    restarts: int = 1
    candidates: int = 9
    runner_ups: int = 0
    alpha_max: float = 0.1
    overshoot: float = 0.05
    backward: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha_max", "overshoot", "backward"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [0, 1], not {getattr(self, name)}")

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        if not isinstance(goal, Misclassified | ClassifiedAs):
            raise ValueError(f"FAB cannot aim at {type(goal).__name__}")
        best = Best(x, self.norm)
        logits, gradient = clf.gradient(x, goal.margin)
        reach = first_order_distance(goal.margin(logits), gradient, self.norm)
        everyone = torch.arange(len(x))
        for restart in range(self.restarts):
            start = x
            if restart:
                radius = torch.where(best.met, best.distance.to(x.dtype), reach) / 2
                noise = rng.children(everyone, torch.full_like(everyone, restart))
                start = clf.clamp(x + uniform_in_distance(x, self.norm, radius, noise))
            for aim in guides(clf, x, goal, self.runner_ups):
                self.walk(clf, x, goal, aim, best, start)
        return best.point

    def walk(
        self, clf: Classifier, x: Tensor, goal: Goal, aim: Goal, best: Best, start: Tensor
    ) -> None:
        """One run towards `aim`; whatever meets `goal` on the way is offered to `best`."""
        point = start
        ahead = 1 + self.overshoot
        for _ in range(self.steps):
            gap, normal = self._nearest_plane(clf, point, goal, aim)
            step = self._project(clf, point, gap, normal) - point
            slope = (normal * (x - point)).flatten(1).sum(dim=1)
            step_of_x = self._project(clf, x, gap + slope, normal) - x
            length, length_of_x = self.norm.length(step), self.norm.length(step_of_x)
            share = length / (length + length_of_x).clamp(min=torch.finfo(length.dtype).tiny)
            bias = per_sample(share.clamp(max=self.alpha_max).to(x.dtype), x)
            point = (1 - bias) * (point + ahead * step) + bias * (x + ahead * step_of_x)
            point = clf.clamp(point)
            met = best.offer(point, clf.logits(point), goal)
            point = torch.where(per_sample(met, x), x + self.backward * (point - x), point)

    def _project(self, clf: Classifier, point: Tensor, gap: Tensor, normal: Tensor) -> Tensor:
        return onto_plane(point, gap, normal, clf.lower, clf.upper, self.norm)

    def _nearest_plane(
        self, clf: Classifier, point: Tensor, goal: Goal, aim: Goal
    ) -> tuple[Tensor, Tensor]:
        """The linearised boundary to go to: `gap + <normal, z - point> = 0`."""
        if not isinstance(goal, Misclassified):
            logits, normal = clf.gradient(point, aim.margin)
            return aim.margin(logits), normal
        own = goal.labels[:, None]
        if isinstance(aim, ClassifiedAs):
            target = aim.targets[:, None]

            def lead(logits: Tensor) -> Tensor:
                return (logits.gather(1, own) - logits.gather(1, target)).squeeze(1)

            logits, normal = clf.gradient(point, lead)
            return lead(logits), normal
        logits = clf.logits(point)
        count = min(self.candidates, logits.shape[1] - 1)
        others = logits.scatter(1, own, -torch.inf).topk(count, dim=1).indices
        logits, rows = clf.jacobian_rows(point, torch.cat([own, others], dim=1))
        gaps = logits.gather(1, own) - logits.gather(1, others)
        normals = rows[:, :1] - rows[:, 1:]
        length = self.norm.dual.length(normals.flatten(0, 1)).to(gaps.dtype).view_as(gaps)
        ratio = gaps.abs() / length.clamp(min=torch.finfo(gaps.dtype).tiny)
        chosen = ratio.argmin(dim=1)
        pick = torch.arange(len(point), device=point.device)
        return gaps[pick, chosen], normals[pick, chosen]
