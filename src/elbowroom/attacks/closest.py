"""The default attack: the nearest point of another class that a budget can find."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.boundary_walk import BoundaryWalk
from elbowroom.attacks.fab import FAB
from elbowroom.attacks.linear_region import QUICK, region_solver, require_regions
from elbowroom.attacks.random_points import random_boundary_points
from elbowroom.attacks.region_walk import RegionWalk
from elbowroom.attacks.starts import Towards
from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.graph import UnsupportedOperationError
from elbowroom.norms import L2, Norm, per_sample
from elbowroom.optimise import Best
from elbowroom.sampling import SampleRng

# The plan for one start, in gradient steps: a share goes to each stage, and each stage keeps the
# nearest ones only. Measured on the networks of the LRA paper; a visit to a region costs 16 steps.
START_COST = 48
GRADIENT_SHARE, GRADIENT_STEPS = 0.3, 15
FIRST_STEPS, SECOND_STEPS = 20, 40
KEPT_FOR_SECOND, KEPT_FOR_REGIONS = 4, 8
VISITS = 6
# A sample whose distance falls by less, relatively, over so many rounds of visits is finished.
GAIN, PATIENCE = 1e-4, 2
# Values that a network may keep for the starts of a batch, beyond those of the batch itself.
VALUES_AT_ONCE = 2**22
# Of the walk through regions; a larger block costs memory and saves little.
Q, GAMMA, BLOCK = 0.8, 6.0, 32
# Streams of random numbers: which stage draws from them.
STARTS, VISITING = 1, 2


@dataclass(frozen=True, kw_only=True)
class Closest(Attack):
    """The nearest example at any budget: many starts, walks along the boundary, exact last steps.

    On networks trained to be robust the decision boundary is rough and has many local minima, and
    which one an attack ends in depends on its start. So there are many: short `FAB` runs towards
    the strongest other classes, and random smooth patterns. From all of them `BoundaryWalk`
    goes a little way, the nearest ones go on, and the nearest of these end in the walk
    through linear regions of `LinearRegion`, which is exact in each region. Networks without
    linear regions, and the norms L1 and Linf, get a longer walk along the boundary instead.

    norm:   L1, L2 or Linf.
    budget: for each sample, about as many gradient steps.
    """

    budget: int = 1500

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        if not isinstance(goal, Misclassified | ClassifiedAs):
            raise ValueError(f"Closest cannot aim at {type(goal).__name__}")
        regions = self.norm == L2 and _has_regions(clf, x, goal)
        starts = max(2, self.budget // START_COST)
        found = _Found(clf, x, goal, self.norm, rng, _batch(clf, x))
        found.start(starts)
        found.walk(FIRST_STEPS)
        found.keep(math.ceil(starts / KEPT_FOR_SECOND))
        found.walk(SECOND_STEPS if regions else 2 * SECOND_STEPS)
        found.keep(math.ceil(starts / KEPT_FOR_REGIONS))
        if regions:
            found.visit_regions(VISITS)
        found.keep(1)
        return found.points


class _Found:
    """What has been found so far: K points for each of the N samples.

    points:    `(N K, *shape)`, those of a sample one after the other. distances: `(N, K)`.
    at_once:   samples the network may see at a time.
    """

    def __init__(
        self, clf: Classifier, x: Tensor, goal: Goal, norm: Norm, rng: SampleRng, at_once: int
    ) -> None:
        self.clf, self.x, self.goal, self.norm, self.rng = clf, x, goal, norm, rng
        self.at_once = at_once
        self.points = x
        self.distances = torch.full((len(x), 1), torch.inf, dtype=torch.float64, device=x.device)

    def rows(self, count: int) -> Tensor:
        """The sample of each of `count` points per sample."""
        return torch.arange(len(self.x), device=self.x.device).repeat_interleave(count)

    def parts(self, count: int) -> Iterable[Tensor]:
        """Numbers of all points, `at_once` at a time."""
        return torch.split(torch.arange(count, device=self.x.device), self.at_once)

    def start(self, count: int) -> None:
        """Begin from `count` points: towards other classes, and at random."""
        several = isinstance(self.goal, Misclassified)
        classes = self.clf.logits(self.x[:1]).shape[1]
        guided = min(math.ceil(GRADIENT_SHARE * count), classes - 1 if several else 1)
        towards = Towards(attack=FAB(steps=GRADIENT_STEPS), batch=self.at_once)
        near = towards.find(self.clf, self.x, self.goal, guided, self.rng, self.norm)
        rows = self.rows(count - guided)
        numbers = torch.arange(len(rows), device=rows.device) % (count - guided)
        streams = self.rng.children(rows, numbers, STARTS)
        far = [
            random_boundary_points(
                self.clf, self.x[rows[part]], self.goal.take(rows[part]), numbers[part],
                streams.take(part),
            )
            for part in self.parts(len(rows))
        ]  # fmt: skip
        shape = (len(self.x), -1, *self.x.shape[1:])
        self.points = torch.cat([near, torch.cat(far).view(shape)], dim=1).flatten(0, 1)
        self.distances = self.distances.expand(-1, count)

    def walk(self, steps: int) -> None:
        """Walk along the boundary from every point; a point that comes no nearer stays."""
        rows = self.rows(self.distances.shape[1])
        walk = BoundaryWalk(norm=self.norm, steps=steps)
        points, distances = [], []
        for part in self.parts(len(rows)):
            x = self.x[rows[part]]
            best = Best(x, self.norm)
            walk.walk(self.clf, x, self.goal.take(rows[part]), self.points[part], best)
            points.append(best.point)
            distances.append(best.distance)
        distance, before = torch.cat(distances), self.distances.flatten()
        better = per_sample(distance < before, self.points)
        self.points = torch.where(better, torch.cat(points), self.points)
        self.distances = torch.minimum(distance, before).view_as(self.distances)

    def keep(self, count: int) -> None:
        """Keep the `count` nearest points of every sample."""
        number = self.distances.shape[1]
        order = self.distances.argsort(dim=1, stable=True)[:, :count]
        first = torch.arange(len(self.x), device=order.device)[:, None] * number
        self.points = self.points[(first + order).flatten()]
        self.distances = self.distances.gather(1, order)

    def visit_regions(self, visits: int) -> None:
        """Walk on through linear regions, as long as a sample's nearest point comes nearer."""
        count = self.distances.shape[1]
        rows = self.rows(count)
        lanes = torch.arange(len(rows), device=rows.device)
        streams = self.rng.children(rows, lanes % count, VISITING)
        walk = RegionWalk(
            self.clf, self.x[rows], self.goal.take(rows), self.points, rows, streams,
            region_solver(QUICK, L2, streams), q=Q, gamma=GAMMA, block=min(self.at_once, BLOCK),
        )  # fmt: skip
        idle = torch.zeros(len(self.x), dtype=torch.int64, device=rows.device)
        for _ in range(visits):
            before = walk.best()[0]
            going = lanes[(idle < PATIENCE)[rows]]
            if not len(going):
                break
            for part in torch.split(going, self.at_once):
                walk.step(part)
            idle = torch.where(walk.best()[0] < before * (1 - GAIN), 0, idle + 1)
        self.points, self.distances = walk.point, walk.distance.view_as(self.distances)


def _has_regions(clf: Classifier, x: Tensor, goal: Goal) -> bool:
    try:
        require_regions(clf, x, goal)
    except UnsupportedOperationError:
        return False
    return True


def _batch(clf: Classifier, x: Tensor) -> int:
    """Samples at a time: as many as were given, or more where the network is small."""
    try:
        nodes = clf.graph(x.shape[1:]).nodes
    except UnsupportedOperationError:
        return len(x)
    return max(len(x), VALUES_AT_ONCE // sum(math.prod(node.shape) for node in nodes))
