"""PGD on logits: the lowest feature distance in a ball, and the smallest ball by bisection."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.goals import SameLogits
from elbowroom.invariance.balls import Balls
from elbowroom.invariance.base import Found, Inversion, Problem
from elbowroom.norms import L2
from elbowroom.optimise import Best

# Rounding of the features changes with the size of the batch: what a run calls a success is so
# far inside the tolerance that it holds for whoever checks it later.
ROUNDING_ULPS = 16


@dataclass(frozen=True)
class RadiusRound:
    """One round of the search for the radius; a sample whose search has ended has NaN, 0, False.

    radius:      `(N,)`. runs: `(N,)`, how many there were. solved: `(N,)` bool.
    feature_mse: `(N,)`, the lowest of its runs. distance: `(N,)`, L2 to `toward`, where that was.
    """

    radius: Tensor
    distance: Tensor
    feature_mse: Tensor
    runs: Tensor
    solved: Tensor


@dataclass(frozen=True, kw_only=True)
class PGDOnLogits(Inversion):
    """Projected gradient descent with a line search on the features, in balls around `toward`.

    Invariance thesis, section 3.3. A run minimises the mean squared difference of the features
    within a radius of `toward` and within the input box, and stops below the tolerance. The radius
    is bisected, from half the distance of `start`, or of the corner of the box that is farthest
    from `toward` where no start is known. The upper end is the actual distance of what was found.
    Thorough and slow: thousands of steps a sample, each of about ten forward passes. Most of them
    are spent on radii that are too small; a lower `patience` saves there.

    The projection is the exact one on the intersection of ball and box, and the line search asks
    for its decrease along the projected path, `f(p) - f(z) < alpha grad f(z) . (p - z)`; where no
    constraint is active that is the thesis's condition. At a kink of the network no step may do:
    then the shortest is taken nonetheless, and often there is a way down from the other side.

    In float32 features of size L are known to about 1e-7 L. Runs stop 16 ulps of L inside the
    tolerance, but not below a quarter of it: tolerances much below (1e-6 L)^2 need float64.

    accuracy:      in the input's units, to which the radius is found.
    restarts:      runs from different starts in a ball, at most.
    retry_within:  there is a next run only if the one before came within this factor of the
                   tolerance.
    steps:         of a run, at most.
    patience:      steps in a row after which a run ends if the loss has not fallen in them by the
                   share `least_gain` (the thesis: not at all, in float32; exact line searches
                   creep on for as long as there are digits).
    alpha, beta:   of the line search: share of the predicted decrease, factor of the step.
    first_step:    longest step, in the input's units; every `adapt_every` steps it becomes
                   `adapt_factor` times the mean of as many steps taken last.
    shortest_step: as a share of `f / |grad f|`, which would do away with the loss if it were linear
                   (the thesis names none).
    batch_size:    how many samples, or trials of line searches, are computed at once.
    """

    tolerance: float = 5e-8
    accuracy: float = 0.01
    restarts: int = 5
    retry_within: float = 100.0
    steps: int = 10_000
    patience: int = 100
    least_gain: float = 0.1
    alpha: float = 0.5
    beta: float = 0.5
    first_step: float = 100.0
    adapt_every: int = 1000
    adapt_factor: float = 256.0
    shortest_step: float = 1e-2
    batch_size: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("accuracy", "first_step", "adapt_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive and finite, not {getattr(self, name)}")
        for name in ("alpha", "beta", "shortest_step"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if not 0 <= self.least_gain < 1:
            raise ValueError(f"least_gain must lie in [0, 1), not {self.least_gain}")
        if not self.retry_within >= 1:
            raise ValueError(f"retry_within must be at least 1, not {self.retry_within}")

    def descend(self, problem: Problem) -> Found:
        return Found(self.search(problem)[0].point)

    def search(self, problem: Problem) -> tuple[Best, list[RadiusRound]]:
        """The nearest solution of each sample, and all rounds (Fig. 3.6 of the thesis)."""
        clf, toward = problem.clf, problem.toward
        if not (problem.known or clf.bounded):
            raise ValueError(
                "there is no first radius without a start in an infinite box: give start instead "
                "of target, or a Classifier with finite bounds"
            )
        best = Best(toward, L2)
        best.offer(toward, clf.logits(toward), problem.goal)
        high = torch.where(best.met, 0.0, L2.length(problem.start - toward))
        low, limit = torch.zeros_like(high), self._limit(problem.goal)
        size = min(self.batch_size, len(problem))
        rounds: list[RadiusRound] = []
        while True:
            radius = (low + high) / 2
            # The second condition ends it where the accuracy is below that of numbers.
            open_rows = (high - low > self.accuracy) & (low < radius) & (radius < high)
            rows = open_rows.nonzero().squeeze(1)
            if not len(rows):
                return best, rounds
            part = problem.take(rows)
            found, loss, runs = self._within(part, radius[rows], len(rounds), size)
            point = best.point.index_copy(0, rows, found)
            distance = L2.length(point - toward)
            this = RadiusRound(
                radius=torch.where(open_rows, radius, torch.nan),
                distance=torch.where(open_rows, distance, torch.nan),
                feature_mse=torch.full_like(radius, torch.nan).index_copy(0, rows, loss),
                runs=rows.new_zeros(len(radius)).index_copy(0, rows, runs),
                solved=torch.zeros_like(open_rows).index_copy(0, rows, loss <= limit[rows]),
            )
            best.offer(point, clf.logits(point), problem.goal, where=open_rows)
            high = torch.where(this.solved, torch.minimum(radius, distance), high)
            low = torch.where(this.solved | ~open_rows, low, radius)
            rounds.append(this)

    def _limit(self, goal: SameLogits) -> Tensor:
        """`(N,)`, float64: the loss at which a run stops."""
        ulps = ROUNDING_ULPS * torch.finfo(goal.logits.dtype).eps
        root = math.sqrt(self.tolerance)
        rounding = ulps * goal.logits.abs().amax(dim=1).double()
        return (root - rounding).clamp(min=root / 2).square()

    def _within(
        self, problem: Problem, radius: Tensor, number: int, size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Round `number`: the best points in the balls, their losses, and how many runs it took."""
        best, limit = problem.toward.clone(), self._limit(problem.goal)
        lowest = torch.full_like(radius, torch.inf)
        rows = torch.arange(len(problem), device=radius.device)
        runs = torch.zeros_like(rows)
        for run in range(self.restarts):
            balls = Balls(problem.take(rows), radius[rows], size)
            rng = problem.rng.children(rows, torch.full_like(rows, run), number)
            draws = rng.normal(problem.toward[rows]), rng.uniform(radius[rows])
            point, loss = self._run(balls, balls.random_points(*draws), limit[rows])
            better = loss < lowest[rows]
            best[rows[better]] = point[better]
            lowest[rows[better]] = loss[better]
            runs[rows] += 1
            rows = rows[(loss > limit[rows]) & (loss <= self.retry_within * self.tolerance)]
            if not len(rows):
                break
        return best, lowest, runs

    def _run(self, balls: Balls, z: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """One run of each sample from `z`: the points of the lowest losses, and these."""
        rows = torch.arange(len(z), device=z.device)
        best, idle = z.clone(), torch.zeros_like(rows)
        lowest = torch.full_like(limit, torch.inf)
        reference = lowest.clone()
        first, total = torch.full_like(limit, self.first_step), torch.zeros_like(limit)
        for step in range(self.steps + 1):
            loss, direction, length = balls.measure(rows, z)
            better = loss < lowest[rows]
            best[rows[better]], lowest[rows[better]] = z[better], loss[better]
            gained = loss < (1 - self.least_gain) * reference[rows]
            reference[rows] = torch.where(gained, loss, reference[rows])
            idle[rows] = torch.where(gained, 0, idle[rows] + 1)
            if step and step % self.adapt_every == 0:
                first, total = self.adapt_factor * total / self.adapt_every, total * 0
            going = (lowest[rows] > limit[rows]) & (idle[rows] < self.patience)
            if step == self.steps or not bool(going.any()):
                break
            rows = rows[going]
            z, loss, direction, length = z[going], loss[going], direction[going], length[going]
            shortest = self.shortest_step * loss / length  # infinite where all is flat
            z, size = balls.backtrack(
                rows, z, loss, direction, length, first[rows], shortest,
                alpha=self.alpha, beta=self.beta,
            )  # fmt: skip
            total[rows] += size
        return best, lowest
