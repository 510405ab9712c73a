"""The default attack: the nearest point of another class that a budget can find."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.closest_stages import FINALISTS, Points, Stages, repeat
from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.sampling import SampleRng

CYCLE = 1500  # the budget of a cycle
# A search is over once a cycle gains less than the first share and ends no farther off than the
# second.
NO_GAIN, AGREEMENT = 1e-3, 1e-2


@dataclass(frozen=True, kw_only=True)
class Closest(Attack):
    """The nearest example at any budget: many starts, walks along the boundary, exact last steps.

    On networks trained to be robust the decision boundary is rough and has many local minima, and
    which one an attack ends in depends on its start. So there are many: short `FAB` runs towards
    the likeliest other classes, and random smooth patterns. From all of them `BoundaryWalk`
    goes a little way, the nearest ones go on, and the nearest of these end in the walk
    through linear regions of `LinearRegion`, which is exact in each region. Budgets below 400,
    networks without linear regions, and the norms L1 and Linf do without that, and start with
    `FMN` instead of `FAB`.

    That is done in cycles, each with new random starts, until two cycles agree or the budget is
    spent.

    norm:   L1, L2 or Linf.
    budget: for each sample, about as many gradient steps; one below 400 is exceeded, as two walks
            at least are made.
    """

    budget: int = 6000

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        if not isinstance(goal, Misclassified | ClassifiedAs):
            raise ValueError(f"Closest cannot aim at {type(goal).__name__}")
        stages = Stages.of(clf, x, goal, self.norm, min(self.budget, CYCLE))
        cycles = math.ceil(self.budget / CYCLE)
        # The nearest points of each cycle.
        points = x[:, None, None].repeat(1, cycles, FINALISTS, *[1] * (x.ndim - 1))
        distance = points.new_full(points.shape[:3], torch.inf, dtype=torch.float64)
        going = torch.arange(len(x), device=x.device)
        for cycle in range(cycles):
            budget = min(self.budget - cycle * CYCLE, CYCLE)
            found, nearby, sure = stages.run(
                x[going], goal.take(going), budget, rng.take(going), cycle
            )
            before, length = distance[going].flatten(1).amin(dim=1), nearby.amin(dim=1)
            kept = nearby.shape[1]
            points[going, cycle, :kept], distance[going, cycle, :kept] = found, nearby
            agree = (length >= (1 - NO_GAIN) * before) & (length <= (1 + AGREEMENT) * before)
            agree &= before.isfinite()
            going = going[~(agree | sure)]
            if not len(going):
                break
        rows = repeat(x, cycles * FINALISTS)
        nearest = Points(points.flatten(0, 2), rows, distance.flatten())
        return stages.finish(x, goal, nearest, rng, self.budget)
