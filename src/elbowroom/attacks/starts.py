"""Points on the other side of the decision boundary, from which to walk back towards a sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from elbowroom.attacks.ball import uniform_in_distance
from elbowroom.attacks.fab import FAB
from elbowroom.attacks.fmn import FMN
from elbowroom.attacks.guides import first_order_distance, guides, likely_targets
from elbowroom.attacks.line_search import shorten
from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.norms import Norm, per_sample
from elbowroom.optimise import Best
from elbowroom.regions.padded import blocks, points_at_once
from elbowroom.sampling import SampleRng

SHORT = FAB(steps=30)
BATCH = 500  # data points classified at a time
BISECTIONS = 20


@dataclass(frozen=True, kw_only=True)
class Starts(ABC):
    """Where an attack begins: several points for every sample."""

    @abstractmethod
    def find(
        self, clf: Classifier, x: Tensor, goal: Goal, count: int, rng: SampleRng, norm: Norm
    ) -> Tensor:
        """Starting points `(N, count, *shape)`; a place without one holds the sample itself."""


@dataclass(frozen=True, kw_only=True)
class NearestPoints(Starts):
    """The nearest data points of the strongest other classes, moved up to the boundary.

    Croce, Rauber and Hein (LRA), section 4: the classes are ranked by the logits at the sample; of
    each of the first ones, the nearest point that the network classifies correctly is taken, and
    bisection between it and the sample finds a point of another class near the boundary.
    For the goal `ClassifiedAs`, the nearest points of the target are taken.

    points, labels: `(P, *shape)` and `(P,)`, e.g. the training set.
    """

    points: Tensor = field(repr=False, compare=False)
    labels: Tensor = field(repr=False, compare=False)

    def nearest(
        self, clf: Classifier, x: Tensor, goal: Goal, count: int, norm: Norm
    ) -> tuple[Tensor, Tensor]:
        """The data points themselves `(N, places, *shape)`, and whether each is one `(N, places)`.

        As many places as there are classes to go to, at most `count`.
        """
        points, labels = self.points.to(x), self.labels.to(x.device)
        if points.shape[1:] != x.shape[1:] or len(points) != len(labels):
            raise ValueError(
                f"starting points of shape {tuple(points.shape)} with labels of shape "
                f"{tuple(labels.shape)} do not fit samples of shape {tuple(x.shape[1:])}"
            )
        decisions = torch.cat([clf.logits(p).argmax(dim=1) for p in torch.split(points, BATCH)])
        right = decisions == labels
        distances = torch.stack([norm.length(points - sample) for sample in x])

        def of_classes(classes: Tensor, number: int) -> tuple[Tensor, Tensor]:
            usable = right & (labels == classes[:, None])
            found = torch.where(usable, distances, torch.inf).topk(number, dim=1, largest=False)
            return found.indices, found.values.isfinite()

        if isinstance(goal, ClassifiedAs):
            chosen, there = of_classes(goal.targets, min(count, len(points)))
        else:
            parts = [
                of_classes(guide.targets, 1)
                for guide in guides(clf, x, goal, count)
                if isinstance(guide, ClassifiedAs)
            ]
            chosen, there = (torch.cat(column, dim=1) for column in zip(*parts, strict=True))
        return points[chosen], there

    def find(
        self, clf: Classifier, x: Tensor, goal: Goal, count: int, rng: SampleRng, norm: Norm
    ) -> Tensor:
        points, there = self.nearest(clf, x, goal, count, norm)
        found = torch.stack([x] * count, dim=1)
        for place in range(there.shape[1]):
            moved = shorten(clf, x, points[:, place], goal, BISECTIONS)
            found[:, place] = torch.where(per_sample(there[:, place], x), moved, x)
        return found


@dataclass(frozen=True, kw_only=True)
class Towards(Starts):
    """What a short attack finds towards each of the classes that look nearest (`likely_targets`).

    Where there are fewer classes than starts, they are run again from random points around the
    sample, up to a first estimate of the distance to the boundary.

    attack: its steps and constants; its restarts and runner-ups are not used.
    batch:  runs at a time, at most; fewer if the network is large.
    """

    attack: FAB | FMN = SHORT
    batch: int = 32

    def find(
        self, clf: Classifier, x: Tensor, goal: Goal, count: int, rng: SampleRng, norm: Norm
    ) -> Tensor:
        attack = replace(self.attack, norm=norm)
        rows = torch.arange(len(x), device=x.device).repeat_interleave(count)
        numbers = torch.arange(len(rows), device=x.device) % count
        block = min(points_at_once(clf, x, self.batch), len(rows))
        aims, distinct = _aims(clf, x, goal, count, norm, min(block, len(x)))
        logits, gradient = clf.gradient(x, goal.margin)
        reach = first_order_distance(goal.margin(logits), gradient, norm)
        streams = rng.children(rows, numbers)
        points = []
        for part, real in blocks(len(rows), block, x.device):
            lanes, best = x[rows[part]], Best(x[rows[part]], norm)
            radius = torch.where(numbers[part] < distinct, 0.0, reach[rows[part]])
            noise = uniform_in_distance(lanes, norm, radius, streams.take(part))
            start = clf.clamp(lanes + noise)
            attack.walk(clf, lanes, goal.take(rows[part]), aims.take(part), best, start)
            points.append(best.point[:real])
        return torch.cat(points).view(len(x), count, *x.shape[1:])


def _aims(
    clf: Classifier, x: Tensor, goal: Goal, count: int, norm: Norm, block: int
) -> tuple[Goal, int]:
    """What each of `count` runs per sample aims at, and how many different aims there are."""
    if not isinstance(goal, Misclassified):
        return goal.take(torch.arange(len(x), device=x.device).repeat_interleave(count)), 1
    found = []
    for part, real in blocks(len(x), block, x.device):
        others = Misclassified(goal.labels[part])
        found.append(likely_targets(clf, x[part], others, count, norm)[:real])
    targets = torch.cat(found)
    distinct = targets.shape[1]
    return ClassifiedAs(targets[:, torch.arange(count) % distinct].flatten()), distinct
