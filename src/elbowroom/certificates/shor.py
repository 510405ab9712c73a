"""Shor's relaxation of a margin over an L2 ball, from its dual: any multipliers give a bound.

With the notation of `elbowroom.certificates.deviations`, the Lagrangian

    margin + g v + c s + sum lam s (s - t + a) - mu s - nu (s - t + a)
        + sum kap (v - low) (v - high) + tau (|v|^2 - r^2)

is a quadratic function of (v, s) that lies below the margin on the ball in the box, for all mu,
nu, kap, tau >= 0 and any lam. If it is convex, its minimum is a bound (Raghunathan, Steinhardt and
Liang 2018; the ball as a quadratic constraint is what suits L2). Its matrix does not depend on r,
so that one set of multipliers holds for every radius: the margin is positive while
`tau r^2 <= value`, the minimum without the last term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.certificates.deviations import Deviations
from elbowroom.certificates.rounding import gamma


@dataclass(frozen=True)
class Multipliers:
    """All positive: lam, mu, nu `(n,)`, kap `(d,)`, tau `(1,)`."""

    lam: Tensor
    mu: Tensor
    nu: Tensor
    kap: Tensor
    tau: Tensor


@dataclass(frozen=True)
class Problem:
    """The margin over one class, in one precision; without rounding errors.

    moves `(n, d + n)`, distance `(n,)`, row `(d + n,)`, margin: as in `Deviations`.
    low, high: `(d,)`, how far each feature may move; finite.
    """

    moves: Tensor
    distance: Tensor
    row: Tensor
    margin: float
    low: Tensor
    high: Tensor

    @property
    def features(self) -> int:
        return len(self.low)

    def linear(self, m: Multipliers) -> Tensor:
        """The linear part of the Lagrangian, `(d + n,)`."""
        own = m.lam * self.distance - m.mu - m.nu
        box = -(m.kap * (self.low + self.high))
        return self.row + torch.cat([box, own]) + self.moves.T @ m.nu

    def constant(self, m: Multipliers) -> Tensor:
        box = m.kap * self.low * self.high
        return self.margin - (m.nu * self.distance).sum() + box.sum()


def guaranteed_value(found: Deviations, label: int, problem: Problem, m: Multipliers) -> float:
    """A lower bound on `value` in spite of all rounding; -inf where convexity is not proved.

    The Lagrangian is at least `constant - theta` if the matrix `[[theta, q/2], [q/2, P]]` is
    positive semidefinite, which a Cholesky factorisation in float64 proves: of the matrix scaled
    by powers of 2, less the row sums of a bound on the errors of its entries and on those of the
    factorisation (Rump 2006).
    """
    d, n = problem.features, len(problem.distance)
    total = d + n
    cross = torch.zeros(total, total, dtype=torch.float64)
    cross[d:] = m.lam[:, None] * problem.moves / 2
    matrix = torch.diag(torch.cat([m.tau + m.kap, m.lam])) - cross - cross.T
    linear = problem.linear(m)
    unit = gamma(total + 16, torch.float64)
    # Bounds on how far the entries are from those of exact weights.
    cross_error = torch.zeros_like(cross)
    cross_error[d:] = m.lam[:, None] * found.moves_error / 2
    error = cross_error + cross_error.T + unit * matrix.abs()
    sizes = torch.cat(
        [
            m.kap * (problem.low.abs() + problem.high.abs()),
            m.lam * problem.distance + m.mu + m.nu,
        ]
    )
    linear_error = (
        found.rows_error[label]
        + found.moves_error.T @ m.nu
        + unit * (problem.row.abs() + sizes + problem.moves.abs().T @ m.nu)
    )
    linear_error[d:] += m.lam * found.distance_error
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed):
        return -math.inf
    solved = torch.cholesky_solve(linear[:, None], factor)[:, 0]
    theta = float((linear @ solved) / 4) * (1 + 1e-6) + 1e-9 * abs(problem.margin)
    whole = torch.zeros(total + 1, total + 1, dtype=torch.float64)
    bound = torch.zeros_like(whole)
    whole[0, 0], whole[0, 1:], whole[1:, 0], whole[1:, 1:] = theta, linear / 2, linear / 2, matrix
    bound[0, 1:] = bound[1:, 0] = linear_error / 2
    bound[1:, 1:] = error
    root = whole.diagonal().clamp(min=1e-300).sqrt().log2().round().exp2()
    whole, bound = whole / root / root[:, None], bound / root / root[:, None]
    diagonal = whole.diagonal().clamp(min=0).sqrt()
    bound = bound + gamma(2 * (total + 3), torch.float64) * diagonal * diagonal[:, None]
    shifted = whole - torch.diag(bound.sum(dim=1) * (1 + 1e-9))
    _, failed = torch.linalg.cholesky_ex(shifted)
    if int(failed) or not bool(shifted.isfinite().all()):
        return -math.inf
    terms = (m.nu * problem.distance).sum() + (m.kap * problem.low.abs() * problem.high.abs()).sum()
    slack = unit * (abs(problem.margin) + float(terms)) + float(found.margin_error[label])
    slack += float((m.nu * found.distance_error).sum())
    return float(problem.constant(m)) - theta - slack
