"""The exact projection onto region, decision and box: a working set of constraints.

Of the many constraints of a region only some tens matter at the optimum. A problem starts with its
decision; its optimum over the constraints known so far (`project_dense`) is compared with all of
them by one pass through the affine map; the rows of the most violated ones are computed and
added; and so on until nothing is violated. The value of each round is a lower bound on the
optimum, so that a problem which cannot beat the best point known ends early.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.regions.newton import DenseProjection, project_dense
from elbowroom.regions.padded import blocks
from elbowroom.regions.polytope import Polytopes

# Problems solved at a time, and values of the rows of all of them (1,024 rows of MNIST): beyond a
# few, they no longer fit a processor's cache, padding would cost more than a batch gains, and their
# copies would outweigh a large network's own memory.
DENSE_BLOCK, DENSE_VALUES = 8, 1024 * 784
# A working set of many rows grows by this share of them, as one that takes hundreds would
# otherwise take tens of rounds, each dearer than the one before.
GROWTH = 8
# Rows and features are padded to whole cache lines: BLAS sums others in an order that depends on
# their place in memory, and so on the problem's place among the others.
LINE = 8


@dataclass(frozen=True)
class Projection:
    """The nearest points of P polytopes.

    z:          `(P, *shape)`, in the box; the optimum where `solved`.
    solved:     `(P,)` bool: all constraints hold to the tolerance.
    infeasible: `(P,)` bool: proved that no point of the box satisfies all constraints.
    lower:      `(P,)`, float64: no feasible point is nearer than this (L2); `inf` if infeasible.
    violation:  `(P,)`: largest excess over a constraint at `z`.
    iterates:   `(rounds, P, *shape)`: the points of every round; the last is `z`.
    multipliers: `(P, slots)`, float64: what holds the optimum; `lower` follows from them.
    rows:       `(P,)`: how many rows were computed for each, one VJP a row.
    """

    z: Tensor
    solved: Tensor
    infeasible: Tensor
    lower: Tensor
    violation: Tensor
    iterates: Tensor
    multipliers: Tensor
    rows: Tensor


@dataclass(frozen=True, kw_only=True)
class WorkingSet:
    """The solver and its settings; every problem needs bounds on its features.

    rounds:    at most; each computes some rows and passes once through the affine map.
    added:     constraints added to a problem in a round; more once it holds over eight times that.
    capacity:  rows of a problem; when it is full, rows without a multiplier make room, which
               leaves the lower bound as it is. A problem that has none ends unsolved.
    tolerance: relative to the largest excess of a region for its constraints, and to the size of
               the box for distances.
    """

    rounds: int = 60
    added: int = 24
    capacity: int = 1024
    tolerance: float = 1e-9

    def __call__(
        self,
        polytopes: Polytopes,
        x: Tensor,
        *,
        ceiling: Tensor | None = None,
        guess: Tensor | None = None,
        shared: int = 1,
    ) -> Projection:
        """Project `x` `(P, *shape)` onto the polytopes and the box of their classifier.

        ceiling: `(P,)`: distances of no interest from there on; such a problem ends early, and its
                 `lower` exceeds the ceiling.
        guess:   `(P, G)`: slots to start with besides the decision's, `-1` for none; those that
                 held the optimum of a neighbouring region save rounds.
        shared:  every so many consecutive problems are one region with different decisions, and
                 compute its rows once.
        """
        problems = _Problems(polytopes, x, ceiling, shared)
        decisions = torch.arange(polytopes.decisions, device=x.device)
        problems.add(decisions.expand(len(x), -1), own=True)
        if guess is not None:
            problems.add(guess)
        for _ in range(self.rounds):
            problems.solve(self.tolerance)
            added = max(self.added, problems.slots.shape[1] // GROWTH)
            problems.make_room(added, self.capacity)
            if not len(problems.active):
                break
            problems.add(problems.most_violated(added))
        return problems.result()


class _Problems:
    """What is known of P problems between the rounds.

    `active` numbers those still worked on; `polytopes`, `excess`, `slots`, `rows`, `bounds` and
    `mu` are of these only. The rest is kept for all.
    """

    def __init__(
        self, polytopes: Polytopes, x: Tensor, ceiling: Tensor | None, shared: int
    ) -> None:
        clf = polytopes.clf
        self.polytopes = polytopes
        self.shared = shared
        self.x = x
        self.origin = flat = x.double().flatten(1)
        self.lower = clf.lower.double().expand(x.shape[1:]).flatten()
        self.upper = clf.upper.double().expand(x.shape[1:]).flatten()
        # Half the squared distance of the farthest corner: more proves that nothing is feasible.
        corner = torch.maximum((flat - self.lower).abs(), (self.upper - flat).abs())
        self.farthest = corner.square().sum(dim=1) / 2 * (1 + 1e-9) + 1e-300
        self.limit = self.farthest
        if ceiling is not None:
            self.limit = torch.minimum(self.farthest, ceiling.double().square() / 2)
        count = len(x)
        self.active = torch.arange(count, device=x.device)
        self.slots = self.active.new_zeros(count, 0)
        self.rows = flat.new_zeros(count, 0, flat.shape[1])
        self.bounds = flat.new_zeros(count, 0)
        self.mu = flat.new_zeros(count, 0)
        self.excess = polytopes.excess(x)
        self.z = flat
        self.value = flat.new_zeros(count)
        self.violation = flat.new_full((count,), torch.inf)
        self.solved = torch.zeros(count, dtype=torch.bool, device=x.device)
        self.computed = torch.zeros(count, dtype=torch.int64, device=x.device)
        self.iterates: list[Tensor] = []
        self.held: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, slots: Tensor, *, own: bool = False) -> None:
        """Take the constraints `slots` `(active, k)`, `-1` for none, into the working set.

        own: whether their rows differ among the problems that share a region.
        """
        slots = F.pad(slots, (0, -slots.shape[1] % LINE), value=-1)
        if own or self.shared == 1:
            rows = self.polytopes.rows(slots)
        else:
            group, member = torch.unique(self.active // self.shared, return_inverse=True)
            leader = torch.searchsorted(member, torch.arange(len(group), device=slots.device))
            rows = self.polytopes.take(leader).rows(slots[leader])[member]
        rows = rows.double().flatten(2)
        # `a . z - b` is the excess: where z is now.
        known = self.excess.gather(1, slots.clamp(min=0)).double()
        there = (slots >= 0) & known.isfinite()
        products = (rows * self.z[self.active].to(self.x).double()[:, None]).sum(dim=2)
        # What is empty, or known to this one of several problems, becomes a zero row.
        bounds = torch.where(there, products - known, 1.0)
        slots = torch.where(there, slots, -1)
        rows = rows * there[..., None]
        self.computed[self.active] += there.sum(dim=1)
        self.slots = torch.cat([self.slots, slots], dim=1)
        self.rows = torch.cat([self.rows, rows], dim=1)
        self.bounds = torch.cat([self.bounds, bounds], dim=1)
        self.mu = torch.cat([self.mu, torch.zeros_like(bounds)], dim=1)

    def solve(self, tolerance: float) -> None:
        """Find the optimum over the working set; what is finished leaves."""
        dense = self._solve_dense(tolerance)
        self.mu = dense.mu
        self.z = self.z.index_copy(0, self.active, dense.z)
        self.iterates.append(self.z)
        self.value = self.value.scatter_reduce(0, self.active, dense.value, "amax")
        excess = self.polytopes.excess(dense.z.to(self.x.dtype).view(-1, *self.x.shape[1:]))
        finite = torch.where(excess.isfinite(), excess, 0.0)
        worst = finite.amax(dim=1)
        # Of what is not in the working set; there, distances count, which long rows magnify.
        self.excess = excess.masked_fill_(self._known(), -torch.inf)
        small = tolerance * finite.abs().amax(dim=1)
        accurate = dense.error <= tolerance * self.origin[self.active].abs().amax(1).clamp(min=1)
        solved = (worst <= small) | (accurate & (self.excess.amax(dim=1) <= small))
        pruned = dense.value > self.limit[self.active]
        self.violation[self.active] = worst.double()
        self.solved[self.active] = solved & ~pruned
        self._keep(~solved & ~pruned)

    def _known(self) -> Tensor:
        """`(active, slots)` bool: what the working set holds."""
        known = self.slots.new_zeros(len(self.slots), self.polytopes.slots + 1, dtype=torch.bool)
        last = torch.where(self.slots >= 0, self.slots, self.polytopes.slots)
        return known.scatter_(1, last, True)[:, :-1]

    def _solve_dense(self, tolerance: float) -> DenseProjection:
        count, features = self.rows.shape[1:]
        more, wide = -count % LINE, -features % LINE
        size = len(self.active)
        if self.polytopes.block:
            values = max(1, (count + more) * (features + wide))
            size = max(1, min(DENSE_BLOCK, DENSE_VALUES // values))
        lower, upper = F.pad(self.lower, (0, wide)), F.pad(self.upper, (0, wide))
        everything = self.rows
        if more or wide:
            everything = F.pad(everything, (0, wide, 0, more))
        parts = []
        for rows, real in blocks(len(self.active), size, self.x.device):
            which = self.active[rows]
            part = project_dense(
                F.pad(self.origin[which], (0, wide)), everything[rows],
                F.pad(self.bounds[rows], (0, more), value=1.0), lower, upper,
                F.pad(self.mu[rows], (0, more)), ceiling=self.limit[which], tolerance=tolerance,
            )  # fmt: skip
            z, mu = part.z[:real, :features], part.mu[:real, :count]
            parts.append([z, mu, part.value[:real], part.error[:real]])
        return DenseProjection(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def make_room(self, wanted: int, capacity: int) -> None:
        """Forget constraints without a multiplier if `wanted` more would not fit.

        Problems held by too many constraints to make room leave unsolved.
        """
        if self.slots.shape[1] + wanted <= capacity:
            return
        room = max(capacity - wanted, 0)
        self._keep((self.mu > 0).sum(dim=1) <= room)
        order = (self.mu > 0).int().argsort(dim=1, descending=True, stable=True)[:, :room]
        self.slots = self.slots.gather(1, order)
        self.bounds = self.bounds.gather(1, order)
        self.mu = self.mu.gather(1, order)
        self.rows = self.rows.gather(1, order[..., None].expand(-1, -1, self.rows.shape[2]))

    def most_violated(self, count: int) -> Tensor:
        """`(active, count)`: slots with the largest excess, `-1` where there are fewer.

        Problems that share a region ask for the same ones, even for some that one of them knows.
        """
        excess = self.excess
        if self.shared > 1:
            group, member = torch.unique(self.active // self.shared, return_inverse=True)
            index = member[:, None].expand(-1, excess.shape[1])
            start = excess.new_full((len(group), excess.shape[1]), -torch.inf)
            excess = start.scatter_reduce(0, index, excess, "amax")[member]
            excess[:, : self.polytopes.decisions] = -torch.inf
        values, slots = excess.topk(min(count, excess.shape[1]), dim=1)
        return torch.where(values > 0, slots, -1)

    def _keep(self, which: Tensor) -> None:
        """Go on with the active problems `which` (bool) only."""
        if bool(which.all()):
            return
        gone = ~which
        self.held.append((self.active[gone], self.slots[gone], self.mu[gone]))
        rows = which.nonzero().squeeze(1)
        self.active = self.active[rows]
        self.polytopes = self.polytopes.take(rows)
        self.excess = self.excess[rows]
        self.slots, self.rows = self.slots[rows], self.rows[rows]
        self.bounds, self.mu = self.bounds[rows], self.mu[rows]

    def result(self) -> Projection:
        self._keep(torch.zeros_like(self.active, dtype=torch.bool))
        infeasible = self.value > self.farthest
        multipliers = self.origin.new_zeros(len(self.x), self.excess.shape[1])
        for which, slots, mu in self.held:
            at = (which[:, None].expand_as(slots), slots.clamp(min=0))
            multipliers.index_put_(at, mu, accumulate=True)
        return Projection(
            z=self.z.to(self.x.dtype).view_as(self.x),
            solved=self.solved,
            infeasible=infeasible,
            lower=torch.where(infeasible, torch.inf, (2 * self.value).clamp(min=0).sqrt()),
            violation=self.violation,
            iterates=torch.stack(self.iterates).to(self.x.dtype).view(-1, *self.x.shape),
            multipliers=multipliers,
            rows=self.computed,
        )
