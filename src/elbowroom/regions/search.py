"""The search for the nearest point that meets a goal, over partial regions, nearest first.

GeoCert (Jordan, Lewis and Dimakis 2019) grows linear regions outward from the input. Here the
queue holds partial regions, each of which stands for many linear regions: at first one in which no
unit is decided, and the nearest one is split by the pieces of one unit. Its key is a dual value:
the distance to a polytope that contains whatever of it is of interest. Two facts keep their number
small. Once a point that meets the goal is known at distance U, nothing beyond U is of interest.
And the Lagrangian of a projection is 1-strongly convex: if multipliers have the value g, attained
at z, every feasible point v has `|v - z|^2 <= |v - x|^2 - 2 g <= U^2 - 2 g`. This ball shrinks as
the key approaches U, and ever fewer units can leave their piece in it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from time import perf_counter

import torch
from torch import Tensor

from elbowroom.goals import Goal, Misclassified, SameLogits
from elbowroom.norms import L2, per_sample
from elbowroom.regions.newton import DenseProjection, project_dense
from elbowroom.regions.partial import Partial, Rows
from elbowroom.regions.polytope import decision_towards, equal_to
from elbowroom.regions.relaxed import RelaxedNetwork

# Of the projections, relative to the size of the inputs.
TOLERANCE = 1e-11
# How far beyond the boundary points are sought, relative to the distance: as little as the rounding
# of float64 allows.
BEYOND = (1e-11, 1e-10, 1e-9, 1e-8)
# Steps of the walk to a first point, and of the walks from some points of each batch.
FIRST_WALK = 15
WALK = 1
WALKERS = 4


@dataclass(frozen=True)
class _Solved:
    """Partial regions with their projections.

    value:       `(B,)`, dual values, attained at the centres of the partial regions.
    multipliers: `(B, slots)`. unit: `(B,)`, the one to split by.
    """

    partial: Partial
    value: Tensor
    multipliers: Tensor
    unit: Tensor

    def take(self, rows: Tensor) -> _Solved:
        partial, unit = self.partial.take(rows), self.unit[rows]
        return _Solved(partial, self.value[rows], self.multipliers[rows], unit)

    @staticmethod
    def join(parts: Sequence[_Solved]) -> _Solved:
        return _Solved(
            Partial.join([part.partial for part in parts]),
            *(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(_Solved)[1:]),
        )


class Search:
    """The search for one sample `x` `(1, *shape)`.

    goal:         of one sample. `SameLogits` is for logits of 0: shift the network's (`exact`).
    upper, point: the nearest point known that meets the goal.
    closed:       the least key of what was put aside.
    """

    def __init__(
        self, net: RelaxedNetwork, x: Tensor, goal: Goal, *, batch: int, gap: float
    ) -> None:
        self.net, self.x, self.goal, self.batch, self.gap = net, x, goal, batch, gap
        self.upper, self.point = torch.inf, x
        corner = torch.where(x - net.lower > net.upper - x, net.lower, net.upper)
        self.farthest = float(L2.length(corner - x)) * (1 + 1e-9)
        self.queue: list[tuple[float, int, _Solved]] = []
        self.closed = torch.inf
        self.regions = self.pushed = 0

    @property
    def lower(self) -> float:
        return min(self.closed, self.upper, *(self.queue[0][:1] if self.queue else ()))

    @property
    def enough(self) -> float:
        """Partial regions at least as far as this are put aside."""
        return min(self.upper * (1 - self.gap), self.farthest)

    @property
    def finished(self) -> bool:
        return self.lower >= self.upper * (1 - self.gap)

    @property
    def limit(self) -> float:
        """Nothing farther than this is of interest."""
        return min(self.upper, self.farthest)

    def run(self, start: Tensor | None, *, seconds: float, regions: int) -> None:
        """Search until the bounds agree, or so many seconds or partial regions are spent."""
        began = perf_counter()
        logits = self.net.values(self.x)[-1]
        if bool(self.goal.met(logits)):
            self.upper = 0.0
            return
        decision = self._decisions(logits)
        count = len(decision)
        centre = self.x.expand(count, *self.x.shape[1:])
        if start is not None and bool(self._offer(start).all()):
            self._polish(self.net.at(start.expand(count, *start.shape[1:]), decision))
        else:
            self._walk(centre, decision, FIRST_WALK)
        self._visit(self.net.undecided(decision, centre, centre.new_full((count,), self.limit)))
        while self.queue and self.queue[0][0] < self.enough and not self.finished:
            if perf_counter() - began > seconds or self.regions >= regions:
                break
            nearest: list[_Solved] = []
            while self.queue and len(nearest) < self.batch:
                nearest.append(heapq.heappop(self.queue)[2])
            self._split(_Solved.join(nearest))

    def _decisions(self, logits: Tensor) -> Tensor:
        """`(D, J, K)`: the goal is met, or ties, where one of D lots of constraints holds."""
        if isinstance(self.goal, SameLogits):
            return equal_to(self.goal.logits)[0]
        if not isinstance(self.goal, Misclassified):
            return decision_towards(self.goal, logits.argmax(dim=1), logits)
        others = torch.arange(logits.shape[1], device=logits.device)
        others = others[others != self.goal.labels]
        return decision_towards(self.goal.take(torch.zeros_like(others)), others, logits)

    # -- points --------------------------------------------------------------------------------

    def _offer(self, z: Tensor) -> Tensor:
        """Keep the nearest of the points `z` `(B, *shape)` that meets the goal; which ones do."""
        z = torch.maximum(torch.minimum(z, self.net.upper), self.net.lower)
        goal = self.goal.take(torch.zeros(len(z), dtype=torch.int64, device=z.device))
        met = goal.met(self.net.values(z)[-1])
        distance = torch.where(met, L2.length(z - self.x), torch.inf)
        best = distance.argmin()
        if float(distance[best]) < self.upper:
            self.upper, self.point = float(distance[best]), z[best][None]
        return met

    def _polish(self, partial: Partial) -> Tensor:
        """Offer the nearest points of linear regions that lie just beyond the decision.

        Returns `(B,)`, dual values: lower bounds on half the squared distances to the regions.
        """
        partial, envelopes = self.net.tightened(partial)
        rows = self.net.rows(partial, envelopes)
        unit = L2.length(rows.rows.flatten(0, 1)).view_as(rows.constant)
        unit[:, partial.decision.shape[1] :] = 0.0
        dense = self._project(rows, torch.zeros_like(rows.constant), iterations=100)
        value = dense.value
        for beyond in BEYOND:
            too_far = dense.value > self.limit**2 / 2
            if bool((self._offer(dense.z.view_as(partial.centre)) | too_far).all()):
                break
            shifted = replace(rows, constant=rows.constant + beyond * self.limit * unit)
            dense = self._project(shifted, dense.mu, iterations=100)
        self._offer(dense.z.view_as(partial.centre))
        return value

    def _walk(self, z: Tensor, decision: Tensor, steps: int) -> None:
        """Offer points on a way from `z`: project `x` on the decision of the affine map there."""
        for _ in range(steps):
            partial, envelopes = self.net.tightened(self.net.at(z, decision))
            partial = replace(partial, branched=torch.zeros_like(partial.branched))
            rows = self.net.rows(partial, envelopes)
            z = self._project(rows, torch.zeros_like(rows.constant)).z.view_as(z)
            further = self.x + 1.01 * (z - self.x)
            before = self.upper
            self._offer(further)
            if self.upper < before:
                best = L2.length(further - self.point).argmin()[None]
                self._polish(self.net.at(further[best], decision[best]))

    # -- partial regions -----------------------------------------------------------------------

    def _project(self, rows: Rows, multipliers: Tensor, *, iterations: int = 40) -> DenseProjection:
        x = self.x.flatten(1).expand(len(rows.rows), -1)
        lower, upper = self.net.lower.flatten(), self.net.upper.flatten()
        ceiling = x.new_full((len(x),), self.limit**2 / 2)
        # Rows that hold everywhere in the box go: short ones would spoil the scale of the others.
        most = torch.where(rows.rows > 0, rows.rows * upper, rows.rows * lower).sum(dim=2)
        needed = most + rows.constant > 0
        A = torch.where(needed[..., None], rows.rows, 0.0)
        b = torch.where(needed, -rows.constant, 1.0)
        return project_dense(
            x, A, b, lower, upper, multipliers,
            ceiling=ceiling, tolerance=TOLERANCE, iterations=iterations,
        )  # fmt: skip

    def _visit(self, partial: Partial, parents: _Solved | None = None) -> None:
        """Bound partial regions, look for points in them, and queue those to be split further."""
        net = self.net
        self.regions += len(partial)
        partial, envelopes = net.tightened(partial)
        rows = net.rows(partial, envelopes)
        there, slots = rows.slots >= 0, rows.slots.clamp(min=0)
        guess = torch.zeros_like(rows.constant)
        if parents is not None:
            guess = torch.where(there, parents.multipliers.gather(1, slots), 0.0)
        dense = self._project(rows, guess)
        z = dense.z.view_as(partial.centre)
        value, centre = dense.value, z
        if parents is not None:
            better = value > parents.value
            value = torch.maximum(value, parents.value)
            centre = torch.where(per_sample(better, z), z, partial.centre)
        open_ = (partial.pieces < 0).any(dim=1)
        value = self._look(partial, z, value, open_)
        key = (2 * value).clamp(min=0).sqrt()
        near = open_ & (key < self.enough)
        # Beyond the farthest corner there is nothing at all.
        aside = key[~near & (key <= self.farthest)]
        self.closed = min([self.closed, *aside.tolist()])
        if not bool(near.any()):
            return
        multipliers = z.new_zeros(len(z), rows.numbers)
        multipliers.scatter_add_(1, slots, torch.where(there, dense.mu, 0.0))
        unit = net.loosest(partial, envelopes, rows, dense.mu, z)
        solved = _Solved(replace(partial, centre=centre), value, multipliers, unit)
        for row in near.nonzero().squeeze(1):
            self.pushed += 1
            heapq.heappush(self.queue, (float(key[row]), self.pushed, solved.take(row[None])))

    def _look(self, partial: Partial, z: Tensor, value: Tensor, open_: Tensor) -> Tensor:
        """Offer points of the nearest partial regions; returns the dual values, larger for some.

        Where nothing is undecided, the projection onto the linear region itself is the answer: the
        rows so far need not hold back those units that cannot leave their piece *in the ball*.
        """
        near = 2 * value < self.enough**2
        leaves = (near & ~open_).nonzero().squeeze(1)
        if len(leaves):
            everything = torch.ones_like(partial.branched)
            exact = self._polish(replace(partial, branched=everything).take(leaves))
            value = value.scatter_reduce(0, leaves, exact, "amax")
        if bool(near.any()):
            first = torch.where(near, value, torch.inf).argsort()[: min(WALKERS, int(near.sum()))]
            self._polish(self.net.at(z[first], partial.decision[first]))
            self._walk(z[first], partial.decision[first], WALK)
        return value

    def _split(self, parents: _Solved) -> None:
        """Visit the partial regions that decide one more unit of each of `parents`."""
        owner, piece = self.net.possible(parents.partial, parents.unit)
        parents = parents.take(owner)
        partial, unit = parents.partial, parents.unit[:, None]
        square = (self.limit**2 - 2 * parents.value).clamp(min=0)
        children = replace(
            partial,
            pieces=partial.pieces.scatter(1, unit, piece[:, None]),
            branched=partial.branched.scatter(1, unit, True),
            radius=square.sqrt() * (1 + 1e-12),
        )
        self._visit(children, parents)
