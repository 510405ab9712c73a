"""DeepFool: repeated steps to the nearest boundary of the linearised classifier."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.norms import L2, Norm, per_sample
from elbowroom.optimise import Best
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Linearise, step to the nearest of the linear boundaries, repeat.

    Moosavi-Dezfooli et al. 2016, Algorithm 2. Very fast and exact for linear models; on robust
    networks it overestimates distances. In the norms L1, L2 and Linf, by the dual norm.

    steps:      at most; usually two or three suffice.
    candidates: how many of the runner-up classes are considered.
    overshoot:  each step goes this fraction beyond the linear boundary.

    Unlike the paper's, steps know the input box: features at a bound are left out of them.
    """

    norm: Norm = L2
    steps: int = 50
    candidates: int = 9
    overshoot: float = 0.02

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        if not isinstance(goal, Misclassified | ClassifiedAs):
            raise ValueError(f"DeepFool cannot aim at {type(goal).__name__}")
        best = Best(x, self.norm)
        classes = self._classes(clf.logits(x), goal)
        total = torch.zeros_like(x)
        finished = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for _ in range(self.steps):
            point = clf.clamp(x + (1 + self.overshoot) * total)
            logits, rows = clf.jacobian_rows(point, classes)
            finished = finished | best.offer(point, logits, goal, where=~finished)
            if bool(finished.all()):
                return best.point
            normals = self._normals(clf, point, rows, goal)
            step = self._to_nearest_boundary(logits.gather(1, classes), normals, goal)
            moved = clf.clamp(x + total + step) - x
            total = torch.where(per_sample(finished, x), total, moved)
        point = clf.clamp(x + (1 + self.overshoot) * total)
        best.offer(point, clf.logits(point), goal, where=~finished)
        return best.point

    def _classes(self, logits: Tensor, goal: Misclassified | ClassifiedAs) -> Tensor:
        """`(N, C)`: the class to leave or to reach first, then the strongest others."""
        first = goal.labels if isinstance(goal, Misclassified) else goal.targets
        count = min(self.candidates, logits.shape[1] - 1)
        others = logits.scatter(1, first[:, None], -torch.inf).topk(count, dim=1).indices
        return torch.cat([first[:, None], others], dim=1)

    @staticmethod
    def _normals(clf: Classifier, point: Tensor, rows: Tensor, goal: Goal) -> Tensor:
        """`(N, C - 1, *shape)`: the directions in which each gap closes fastest.

        Features at their bound cannot go farther: a step that counted on them would fall short.
        """
        sign = 1.0 if isinstance(goal, Misclassified) else -1.0
        normals = sign * (rows[:, 1:] - rows[:, :1])
        here = point[:, None]
        stuck = ((here <= clf.lower) & (normals < 0)) | ((here >= clf.upper) & (normals > 0))
        return torch.where(stuck, 0.0, normals)

    def _to_nearest_boundary(self, scores: Tensor, normals: Tensor, goal: Goal) -> Tensor:
        """The shortest step over a linearised boundary; scores `(N, C)`."""
        sign = 1.0 if isinstance(goal, Misclassified) else -1.0
        gap = sign * (scores[:, :1] - scores[:, 1:])
        length = self.norm.dual.length(normals.flatten(0, 1)).to(gap.dtype).view_as(gap)
        length = length.clamp(min=torch.finfo(gap.dtype).tiny)
        # Leaving a class: the nearest boundary. Reaching one: the farthest must be crossed.
        ratio = gap / length
        chosen = ratio.abs().argmin(dim=1) if sign > 0 else ratio.argmax(dim=1)
        pick = torch.arange(len(gap), device=gap.device)
        distance = ratio[pick, chosen].abs() + 1e-4 * ratio[pick, chosen].abs().clamp(min=1e-4)
        return per_sample(distance, normals[:, 0]) * self.norm.steepest(normals[pick, chosen])
