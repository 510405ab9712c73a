"""The walk from linear region to linear region behind `LinearRegionInversion`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from elbowroom.invariance.base import Problem
from elbowroom.norms import L2, per_sample
from elbowroom.optimise import Best
from elbowroom.regions import Accelerated, Polytopes, WorkingSet, equal_to
from elbowroom.regions.nearby import sample_near
from elbowroom.regions.padded import in_blocks
from elbowroom.sampling import SampleRng

Begin = Literal["start", "toward"]
Judge = Literal["features", "violation"]
Explore = Literal["exploit", "exploit if not converged", "explore if not converged", "explore"]
Pick = Literal["last accepted", "least feature distance", "last full"]


# Exact solutions lie on the boundary of their region, where rounding would decide which is next.
# Full steps go on by this share of their length, into the region that the solution is drawn to.
BEYOND = 1e-4


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How a walk goes from region to region; the fields are those of `LinearRegionInversion`."""

    begin: Begin = "toward"
    directed: bool = True
    adaptive: bool = True
    explore: Explore = "exploit"
    judge: Judge = "features"
    pick: Pick = "last accepted"
    step_length: float = 0.1
    jump_factors: tuple[float, float] = (2.0, 0.5)
    jump_range: tuple[float, float] = (1.0, 1e4)
    q: float = 0.8
    gamma: float = 9.0

    def __post_init__(self) -> None:
        if not self.directed and self.begin == "toward":
            raise ValueError(
                "without directed steps a walk cannot begin at toward: regions there have no "
                "solution, and it would never leave them; use directed=True or begin='start'"
            )
        if not self.directed and self.explore.startswith("exploit"):
            raise ValueError(
                f"explore={self.explore!r} needs directed steps: after a region without a "
                "solution nothing would change, an infinite loop; use directed=True, "
                "'explore' or 'explore if not converged'"
            )
        grow, shrink = self.jump_factors
        if not 0 < shrink < 1 < grow < math.inf:
            raise ValueError(f"jump_factors must be one > 1 and one in (0, 1), not {grow, shrink}")
        low, high = self.jump_range
        if not 0 < low <= 1 <= high < math.inf:
            raise ValueError(f"jump_range must be positive and contain 1, not {low, high}")
        if not 0 <= self.q <= 1 or not self.gamma > 0:
            raise ValueError(
                f"q must lie in [0, 1] and gamma be positive, not {self.q, self.gamma}"
            )
        if not self.step_length > 0:
            raise ValueError(f"step_length must be positive, not {self.step_length}")


@dataclass(frozen=True)
class Visit:
    """A region of each of N walks, `(N,)` each.

    solved:      bool; False where a region had been solved before, and for walks that have ended.
    distance:    float64, L2, of the solver's proposal to `toward`; NaN where nothing was solved.
    feature_mse: float64, at the proposal; NaN where nothing was solved.
    steps:       of the solver; of `WorkingSet`, rows of constraints that it computed.
    accepted:    bool: the proposal meets the goal and is the nearest so far.
    full:        bool: the solver was not stopped by the dual bound: `Accelerated` ran all its
                 steps, `WorkingSet` found the optimum.
    threshold:   float64: for full steps, as it was for this region.
    """

    solved: Tensor
    distance: Tensor
    feature_mse: Tensor
    steps: Tensor
    accepted: Tensor
    full: Tensor
    threshold: Tensor

    @staticmethod
    def none(threshold: Tensor) -> Visit:
        """Nothing was solved yet."""
        no = torch.zeros_like(threshold, dtype=torch.bool)
        nan = torch.full_like(threshold, torch.nan)
        return Visit(no, nan, nan.clone(), no.long(), no.clone(), no.clone(), threshold)

    @staticmethod
    def stacked(rounds: Sequence[Visit]) -> Visit:
        """`(R, N)`: of several rounds."""
        return Visit(*(torch.stack(c) for c in zip(*map(Visit._values, rounds), strict=True)))

    @staticmethod
    def joined(parts: Sequence[Visit]) -> Visit:
        """`(R, N)`: of several batches."""
        return Visit(*(torch.cat(c, dim=1) for c in zip(*map(Visit._values, parts), strict=True)))

    def _values(self) -> list[Tensor]:
        return [getattr(self, f.name) for f in fields(self)]


@dataclass(frozen=True)
class Proposals:
    """What a solver says about P regions: points `(P, *shape)`; the rest as in `Visit`."""

    z: Tensor
    steps: Tensor
    full: Tensor


def solve(
    solver: WorkingSet | Accelerated,
    polytopes: Polytopes,
    x: Tensor,
    rng: SampleRng,
    ceiling: Tensor | None = None,
) -> Proposals:
    """The points of the polytopes nearest to `x` `(P, *shape)`, as near as the solver gets.

    Where `WorkingSet` shows that there is none, its last point says nothing; its first one has the
    wanted features, if the region reached that far, and is the proposal.
    """
    if isinstance(solver, WorkingSet):
        exact = solver(polytopes, x, ceiling=ceiling)
        z = torch.where(per_sample(exact.solved, x), exact.z, exact.iterates[0])
        return Proposals(z, exact.rows, exact.solved)
    found = solver(polytopes, x, rng, ceiling=ceiling)
    return Proposals(found.z, found.steps, found.steps == solver.steps)


class InversionWalk:
    """One walk for each sample of a problem.

    best:         the nearest accepted point, or else the one with the lowest feature MSE.
    threshold:    `(N,)`: of the error up to which a proposal is the next point itself.
    final, final_distance, final_mse: of the picked region's proposal, `(N, *shape)` and `(N,)`;
                  NaN without one.
    """

    def __init__(
        self, problem: Problem, strategy: Strategy, solver: WorkingSet | Accelerated
    ) -> None:
        clf, start, toward = problem.clf, problem.start, problem.toward
        self.problem, self.strategy, self.solver = problem, strategy, solver
        if not strategy.directed and not problem.known:
            raise ValueError(
                "without directed steps a walk needs a start with the wanted features, not a target"
            )
        self.size = len(problem)
        self.best = Best(toward, L2)
        for known in (toward, start) if problem.known else (toward,):
            self.best.offer(known, clf.logits(known), problem.goal)
        # No solution is farther than the start, or else than the farthest corner of the box.
        limited = problem.known or clf.bounded
        length = L2.length(start - toward)
        self.reach = length if limited else torch.full_like(length, torch.inf)
        self.decision, self.bound = equal_to(problem.goal.logits)
        # Where the next region is, before randomness; where steps lead.
        self.base = (start if strategy.begin == "start" else toward).clone()
        self.aim = self.base.clone()
        self.at_random = torch.zeros(self.size, dtype=torch.bool, device=toward.device)
        self.misses = torch.zeros_like(self.at_random, dtype=torch.int64)
        self.ended = self.best.distance == 0
        self.visited: list[set[int]] = [set() for _ in range(self.size)]
        self.tolerance = problem.goal.tolerance.double()
        self.threshold = self.tolerance.clone()
        # A point of the picked region is enough to find it again.
        self.picked = self.base.clone()
        self.has_pick = torch.zeros_like(self.at_random)
        self.has_accepted = torch.zeros_like(self.at_random)
        self.least = torch.full_like(self.reach, torch.inf)
        self.final = torch.full_like(toward, torch.nan)
        self.final_distance = torch.full_like(self.reach, torch.nan)
        self.final_mse = self.final_distance.clone()

    def visit(self) -> Visit:
        """Take every walk to its next region, and solve the problem there if that is new."""
        seen = Visit.none(self.threshold)
        lanes = (~self.ended).nonzero().squeeze(1)
        if not len(lanes):
            return seen
        point = self._next_points(lanes)
        polytopes = self._polytopes(point, lanes)
        fresh = self._unvisited(polytopes, lanes)
        self._pass(lanes[~fresh])
        new = fresh.nonzero().squeeze(1)
        if len(new):
            self._solve(polytopes.take(new), point[new], lanes[new], seen)
        if not polytopes.pattern.pieces:  # an affine network has no other region
            self.ended[:] = True
        return seen

    def rerun(self, steps: int) -> None:
        """Solve the picked regions once more, with so many steps of the accelerated solver."""
        lanes = self.has_pick.nonzero().squeeze(1)
        if not len(lanes) or not isinstance(self.solver, Accelerated):
            return
        found = solve(
            replace(self.solver, steps=steps),
            self._polytopes(self.picked[lanes], lanes),
            self.problem.toward[lanes],
            self.problem.rng.take(lanes),
        )
        mse, distance, _ = self._offer(found.z, lanes)
        self.final[lanes] = found.z
        self.final_distance[lanes], self.final_mse[lanes] = distance, mse

    def _next_points(self, lanes: Tensor) -> Tensor:
        point = self.base[lanes]
        some = self.at_random[lanes].nonzero().squeeze(1)
        if len(some):
            which = lanes[some]
            # Farther away after every sample whose region was known.
            gamma = (self.strategy.gamma / (1 + self.misses[which])).to(point)
            point[some] = sample_near(
                self.problem.clf, point[some], self.problem.toward[which],
                self.problem.rng.take(which), q=self.strategy.q, gamma=gamma,
                least=self.strategy.step_length,
            )  # fmt: skip
        return point

    def _polytopes(self, point: Tensor, lanes: Tensor) -> Polytopes:
        decision, bound = self.decision[lanes], self.bound[lanes]
        return Polytopes.at(self.problem.clf, point, decision, block=self.size, bound=bound)

    def _unvisited(self, polytopes: Polytopes, lanes: Tensor) -> Tensor:
        """`(L,)` bool: whether a lane has not been in its region before."""
        pieces = polytopes.pattern.pieces
        keys = polytopes.pattern.fingerprints().tolist() if pieces else [0] * len(lanes)
        fresh = []
        for lane, key in zip(lanes.tolist(), keys, strict=True):
            fresh.append(key not in self.visited[lane])
            self.visited[lane].add(key)
        return torch.tensor(fresh, device=lanes.device)

    def _pass(self, lanes: Tensor) -> None:
        """Go on from regions that were solved before: towards the aim, or from there at random."""
        self.misses[lanes] += self.at_random[lanes].long()
        arrived = (self.base[lanes] == self.aim[lanes]).flatten(1).all(dim=1)
        self.base[lanes] = self._towards(self.base[lanes], self.aim[lanes])
        self.at_random[lanes] |= arrived

    def _solve(self, polytopes: Polytopes, point: Tensor, lanes: Tensor, seen: Visit) -> None:
        ceiling = torch.minimum(self.best.distance, self.reach)[lanes]
        rng = self.problem.rng.take(lanes)
        found = solve(self.solver, polytopes, self.problem.toward[lanes], rng, ceiling)
        nearest = self.best.distance[lanes]
        mse, distance, accepted = self._offer(found.z, lanes)
        seen.solved[lanes], seen.steps[lanes] = True, found.steps
        seen.distance[lanes], seen.feature_mse[lanes] = distance, mse
        seen.accepted[lanes], seen.full[lanes] = accepted, found.full
        self._remember(lanes, point, found.z, seen)
        error = mse
        if self.strategy.judge == "violation":
            error = polytopes.excess(found.z).amax(dim=1).clamp(min=0).double().square()
        jumps = error <= self.threshold[lanes]
        if not self.strategy.directed:
            jumps &= distance < nearest
        self._move(point, found.z, lanes, jumps)
        if self.strategy.adaptive:
            grow, shrink = self.strategy.jump_factors
            low, high = (share * self.tolerance[lanes] for share in self.strategy.jump_range)
            changed = self.threshold[lanes] * torch.where(accepted, shrink, grow)
            self.threshold = self.threshold.index_copy(
                0, lanes, torch.maximum(torch.minimum(changed, high), low)
            )
        self.ended |= self.best.distance == 0

    def _offer(self, z: Tensor, lanes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Offer proposals to `best`; returns their MSE, distance and what was accepted, `(L,)`."""
        clf, goal = self.problem.clf, self.problem.goal
        rows = torch.arange(len(lanes), device=lanes.device)
        logits = in_blocks(lambda some: clf.logits(z[some]), rows, self.size)
        before = self.best.distance
        offered = torch.zeros_like(self.ended).index_fill(0, lanes, True)
        self.best.offer(
            self.base.index_copy(0, lanes, z),
            goal.logits.index_copy(0, lanes, logits),
            goal,
            where=offered,
        )
        mse = goal.take(lanes).loss(logits).double()
        distance = L2.length(z - self.problem.toward[lanes])
        return mse, distance, (self.best.distance < before)[lanes]

    def _remember(self, lanes: Tensor, point: Tensor, z: Tensor, seen: Visit) -> None:
        """Keep the regions that the rule for the final region prefers to earlier ones."""
        least = seen.feature_mse < self.least  # NaN is not
        self.has_accepted |= seen.accepted
        self.least = torch.where(least, seen.feature_mse, self.least)
        rules: dict[Pick, Tensor] = {
            "last accepted": seen.accepted | (least & ~self.has_accepted),
            "least feature distance": least,
            "last full": seen.full,
        }
        preferred = rules[self.strategy.pick]
        self.has_pick |= preferred
        now = preferred[lanes]
        self.picked[lanes[now]], self.final[lanes[now]] = point[now], z[now]
        self.final_distance = torch.where(preferred, seen.distance, self.final_distance)
        self.final_mse = torch.where(preferred, seen.feature_mse, self.final_mse)

    def _move(self, point: Tensor, z: Tensor, lanes: Tensor, jumps: Tensor) -> None:
        """To proposals that are good enough; else towards them, or back to the best point."""
        strategy, jump = self.strategy, per_sample(jumps, z)
        otherwise = self._towards(point, z) if strategy.directed else self.best.point[lanes]
        beyond = self.problem.clf.clamp(z + BEYOND * (z - point))
        self.misses[lanes] = 0
        self.base[lanes] = torch.where(jump, beyond, otherwise)
        self.aim[lanes] = torch.where(jump, beyond, z) if strategy.directed else self.base[lanes]
        chance: dict[Explore, Tensor] = {
            "exploit": torch.zeros_like(jumps),
            "exploit if not converged": jumps,
            "explore if not converged": ~jumps,
            "explore": torch.ones_like(jumps),
        }
        self.at_random[lanes] = chance[strategy.explore]

    def _towards(self, point: Tensor, aim: Tensor) -> Tensor:
        """A step of the fixed length from `point`, but not beyond `aim`."""
        way = aim - point
        near = per_sample(L2.length(way) <= self.strategy.step_length, way)
        return torch.where(near, aim, point + self.strategy.step_length * L2.steepest(way))
