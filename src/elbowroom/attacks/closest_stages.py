"""The stages of a cycle of `Closest`: starts, walks along the boundary, visits to regions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elbowroom.attacks.boundary_walk import BoundaryWalk
from elbowroom.attacks.fab import FAB
from elbowroom.attacks.fmn import FMN
from elbowroom.attacks.linear_region import QUICK, region_solver, require_regions
from elbowroom.attacks.random_points import random_boundary_points
from elbowroom.attacks.region_walk import RegionWalk
from elbowroom.attacks.starts import Towards
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal, Misclassified
from elbowroom.graph import UnsupportedOperationError
from elbowroom.norms import L2, Norm
from elbowroom.optimise import Best
from elbowroom.regions.padded import blocks, points_at_once
from elbowroom.sampling import SampleRng

# The plan of a cycle, in gradient steps: each stage keeps the nearest points, and a visit to a
# region costs about 16 steps where it takes few rows. Measured on the networks of the LRA paper.
START_COST, LEAST_STARTS = 48, 3
GRADIENT_SHARE, GRADIENT_STEPS = 0.3, 40
STEPS, ROUNDS = 20, 5
KEPT, LEAST_KEPT = 4, 2  # one point in so many goes on after the first round, and so many at least
# Rounds of visits of all points, the first of them of the nearest one only, which shows what a
# visit costs; and of the nearest one alone after that.
VISITS, LAST_VISITS = 7, 14
VISIT_COST, ROW_COST = 8, 2
# With less there are no visits, as steps along the boundary gain more; the walk is shorter, and one
# point in so many goes on.
LEAST_BUDGET, LOW_ROUNDS, LOW_KEPT = 400, 2, 2
Q, GAMMA = 0.8, 6.0
# After the last cycle, so many points make a few visits more, and the nearest one more than that:
# one per so much of the budget, and no more than that share of it in all.
FINALISTS, FINAL_VISITS, BUDGET_PER_VISIT, FINAL_SHARE = 3, 10, 150, 5
# A walk along the boundary that gains less, relatively, in a round ends.
WALK_GAIN = 1e-3
# A sample whose distance falls by less, relatively, over so many rounds of visits leaves the walk.
GAIN, PATIENCE, LAST_PATIENCE = 1e-6, 4, 8
# Points of a sample this near to each other, in shares of its distance, are in the same basin: only
# the nearest of them goes on. Where it stands for so many starts, the search is over.
SAME_BASIN, ENOUGH = 0.05, 3
# Points that the network sees at once, at most: a processor gains nothing from more, and the last
# block is padded.
BLOCK = 32
# Streams of random numbers: which stage of which cycle draws from them, or the end of all.
FINISHING, STARTS, VISITING, STAGES = 0, 1, 2, 3


@dataclass
class Points:
    """K points for each of N samples: `(N K, *shape)`, one sample after the other.

    rows: `(N K,)`, the sample of each. distance: `(N K,)`, `inf` where it does not meet the goal.
    """

    point: Tensor
    rows: Tensor
    distance: Tensor

    def nearest(self, count: int) -> Points:
        """The `count` nearest points of every sample."""
        number = int(self.rows[-1]) + 1
        distance = self.distance.view(number, -1)
        order = distance.argsort(dim=1, stable=True)[:, :count]
        first = torch.arange(number, device=order.device)[:, None] * distance.shape[1]
        chosen = (first + order).flatten()
        return Points(self.point[chosen], self.rows[chosen], self.distance[chosen])

    def basins(self, x: Tensor) -> Tensor:
        """`(N K,)`: how many points of its sample each stands for; 0 if another stands for it.

        The nearest one of those that lie together stands for the others.
        """
        count = len(self.rows) // len(x)
        shape = (len(x), count)
        points, distance = self.point.flatten(1).view(*shape, -1), self.distance.view(shape)
        apart = torch.cdist(points, points).to(distance.dtype)
        together = (apart <= SAME_BASIN * distance[:, None, :]) & distance.isfinite()[:, None, :]
        # Of equal distances the first one counts as nearer.
        rank = distance.argsort(dim=1, stable=True).argsort(dim=1)
        together &= rank[:, None, :] <= rank[:, :, None]
        best = torch.where(together, rank[:, None, :], count).amin(dim=2)
        owner = torch.where(best < count, best, rank)
        return (owner[:, None, :] == rank[:, :, None]).sum(dim=2).flatten()


@dataclass(frozen=True)
class Visits:
    """Rounds of visits to regions: from `all` points, then from the `nearest` of a sample alone.

    patience:  rounds without a gain after which a sample is left alone.
    allowance: what a sample may spend, in gradient steps. Where visits cost more, fewer points
               make them.
    """

    all: int
    nearest: int
    patience: int
    allowance: int

    def places(self, number: int, visited: Tensor, rows: Tensor) -> Tensor:
        """How many points of each sample `(N,)` make a visit in round `number`.

        visited, rows: `(N,)`: the regions of each so far, and the constraints computed in them.
        """
        spent = VISIT_COST * visited + ROW_COST * rows
        left = (self.allowance - spent).clamp(min=0)
        affordable = torch.ceil(left * visited / spent.clamp(min=1)).long()
        if number >= self.all:
            return affordable.clamp(max=1)
        rounds = self.all - number
        several = torch.div(affordable + rounds - 1, rounds, rounding_mode="floor")
        return torch.where(visited > 0, several, 1)


@dataclass(frozen=True)
class Stages:
    """The stages of a cycle.

    regions: whether to walk through them.
    block:   points at once; the same from the first cycle to the end, however few samples are
             left, as the last bits of a result depend on it.
    """

    clf: Classifier
    norm: Norm
    regions: bool
    block: int

    @classmethod
    def of(cls, clf: Classifier, x: Tensor, goal: Goal, norm: Norm, budget: int) -> Stages:
        """For cycles of at most `budget`, all samples `x` at once."""
        regions = norm == L2 and _has_regions(clf, x, goal)
        most = min(BLOCK, len(x) * _starts(budget))
        return cls(clf, norm, regions, points_at_once(clf, x, most))

    def run(
        self, x: Tensor, goal: Goal, budget: int, rng: SampleRng, cycle: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The nearest points of each sample `(N, K, *shape)`, one of a basin, and their distances.

        The distances are `(N, K)`, nearest first, `inf` where there are fewer than K of at most
        `FINALISTS`. Third, `(N,)`: whether the nearest one is sure.
        """
        starts = _starts(budget)
        low = starts * START_COST < LEAST_BUDGET
        rounds, share = (LOW_ROUNDS, LOW_KEPT) if low else (ROUNDS, KEPT)
        kept = max(LEAST_KEPT, math.ceil(starts / share))
        visiting = self.regions and not low
        # Regions that `FAB` leads to hold nearer points; without visits to any, `FMN` gets nearer.
        guide = FAB(steps=GRADIENT_STEPS) if visiting else FMN(steps=GRADIENT_STEPS)
        points = self._start(x, goal, starts, guide, rng, cycle)
        points = self._walk(x, goal, points, STEPS, 1).nearest(kept)
        points = self._walk(x, goal, points, STEPS, rounds)
        standing = points.basins(x)
        if visiting:
            visits = Visits(VISITS, LAST_VISITS, PATIENCE, starts * START_COST)
            stream = STAGES * cycle + VISITING
            points = self._visit_regions(x, goal, points, standing > 0, visits, rng, stream)
        apart = torch.where(standing > 0, points.distance, torch.inf)
        best = replace(points, distance=apart).nearest(FINALISTS)
        shape = len(x), -1
        sure = standing.view(shape).amax(dim=1) >= ENOUGH
        return best.point.view(*shape, *x.shape[1:]), best.distance.view(shape), sure

    def finish(self, x: Tensor, goal: Goal, points: Points, rng: SampleRng, budget: int) -> Tensor:
        """Walk on from the nearest of `points`, where there are regions: `(N, *shape)`."""
        if self.regions and budget >= LEAST_BUDGET:
            points = points.nearest(FINALISTS)
            every = torch.ones_like(points.rows, dtype=torch.bool)
            visits = budget // BUDGET_PER_VISIT
            plan = Visits(min(FINAL_VISITS, visits), visits, LAST_PATIENCE, budget // FINAL_SHARE)
            points = self._visit_regions(x, goal, points, every, plan, rng, FINISHING)
        return points.nearest(1).point

    def _start(
        self, x: Tensor, goal: Goal, count: int, guide: FAB | FMN, rng: SampleRng, cycle: int
    ) -> Points:
        """`count` points per sample: `guide`'s towards other classes if it is the first cycle, and
        at random.
        """
        several = isinstance(goal, Misclassified)
        classes = self.clf.logits(x[:1]).shape[1] if several else 2
        guided = 0 if cycle else min(math.ceil(GRADIENT_SHARE * count), classes - 1)
        found = x[:, None, ...][:, :0]
        if guided:
            towards = Towards(attack=guide, batch=BLOCK)
            found = towards.find(self.clf, x, goal, guided, rng, self.norm)
        rows = repeat(x, count - guided)
        numbers = torch.arange(len(rows), device=x.device) % (count - guided)
        streams = rng.children(rows, numbers, STAGES * cycle + STARTS)
        random = [
            random_boundary_points(
                self.clf, x[rows[part]], goal.take(rows[part]), numbers[part], streams.take(part)
            )[:real]
            for part, real in blocks(len(rows), self.block, x.device)
        ]
        found = torch.cat([found, torch.cat(random).view(len(x), -1, *x.shape[1:])], dim=1)
        rows = repeat(x, count)
        nowhere = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=x.device)
        return Points(found.flatten(0, 1), rows, nowhere)

    def _walk(self, x: Tensor, goal: Goal, points: Points, steps: int, rounds: int) -> Points:
        """Walk along the boundary from every point, in rounds of `steps`, as long as it pays.

        A point that comes no nearer stays; one that gains little ends its walk.
        """
        walk = BoundaryWalk(norm=self.norm, steps=steps)
        point, distance = points.point.clone(), points.distance.clone()
        going = torch.arange(len(distance), device=x.device)
        for _ in range(rounds):
            before = distance[going]
            for part, real in blocks(len(going), self.block, x.device):
                lanes = going[part]
                rows = points.rows[lanes]
                best = Best(x[rows], self.norm)
                walk.walk(self.clf, x[rows], goal.take(rows), point[lanes], best)
                came = (best.distance[:real] < distance[lanes[:real]]).nonzero().squeeze(1)
                point[lanes[came]] = best.point[came]
                distance[lanes[came]] = best.distance[came]
            going = going[distance[going] < before * (1 - WALK_GAIN)]
            if not len(going):
                break
        return Points(point, points.rows, distance)

    def _visit_regions(
        self, x: Tensor, goal: Goal, points: Points, which: Tensor, visits: Visits,
        rng: SampleRng, stream: int,
    ) -> Points:  # fmt: skip
        """Walk on through linear regions from `which` points, as long as that pays for a sample."""
        rows = points.rows
        count = len(rows) // len(x)
        lanes = torch.arange(len(rows), device=rows.device)
        streams = rng.children(rows, lanes % count, stream)
        walk = RegionWalk(
            self.clf, x[rows], goal.take(rows), points.point, rows, streams,
            region_solver(QUICK, L2, streams), q=Q, gamma=GAMMA, block=self.block,
        )  # fmt: skip
        idle = torch.zeros(len(x), dtype=torch.int64, device=rows.device)
        for number in range(visits.all + visits.nearest):
            before = walk.best()[0]
            distance = torch.where(which, walk.distance, torch.inf).view(len(x), count)
            rank = distance.argsort(dim=1, stable=True).argsort(dim=1).flatten()
            places = visits.places(number, _total(walk.regions, rows), _total(walk.rows, rows))
            places = torch.where(idle < visits.patience, places, 0)
            going = lanes[which & (rank < places[rows])]
            if not len(going):
                break
            walk.step(going)
            idle = torch.where(walk.best()[0] < before * (1 - GAIN), 0, idle + 1)
        return Points(walk.point, rows, walk.distance)


def _starts(budget: int) -> int:
    return max(LEAST_STARTS, budget // START_COST)


def _total(of_points: Tensor, rows: Tensor) -> Tensor:
    """`(N,)`: the sum over the points of each sample."""
    return of_points.new_zeros(int(rows[-1]) + 1).index_add_(0, rows, of_points)


def repeat(x: Tensor, count: int) -> Tensor:
    """The sample of each of `count` points per sample."""
    return torch.arange(len(x), device=x.device).repeat_interleave(count)


def _has_regions(clf: Classifier, x: Tensor, goal: Goal) -> bool:
    try:
        require_regions(clf, x, goal)
    except UnsupportedOperationError:
        return False
    return True
