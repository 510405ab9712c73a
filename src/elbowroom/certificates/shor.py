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

    The Lagrangian is at least `constant - theta` if the matrix `[[P, q/2], [q/2, theta]]` is
    positive semidefinite, which a Cholesky factorisation in float64 proves: of the matrix scaled
    by powers of 2, less the row sums of a bound on the errors of its entries and on those of the
    factorisation (Rump 2006). Theta is the least that leaves its last pivot positive.
    """
    d, n = problem.features, len(problem.distance)
    total = d + n
    unit = gamma(total + 16, torch.float64)
    terms = (m.nu * problem.distance).sum() + (m.kap * problem.low.abs() * problem.high.abs()).sum()
    slack = unit * (abs(problem.margin) + float(terms)) + float(found.margin_error[label])
    slack += float((m.nu * found.distance_error).sum())
    constant = float(problem.constant(m))
    if constant <= 0:
        return -math.inf
    linear = problem.linear(m)
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

    # The matrix, its last row, and row sums of the errors, scaled to a diagonal of about 1.
    own = torch.cat([m.tau + m.kap, m.lam])
    root = torch.cat([own, own.new_tensor([constant])]).clamp(min=1e-300).sqrt().log2().round()
    root, last = root.exp2()[:-1], float(root.exp2()[-1])
    half = m.lam / 2 / root[d:]
    cross = half[:, None] * (problem.moves / root)
    matrix = torch.zeros(total, total, dtype=torch.float64)
    matrix[d:] = -cross
    matrix[:, d:] -= cross.T
    matrix.diagonal().add_(own / root**2)
    errors = unit * matrix.abs().sum(dim=1)
    doubt = half[:, None] * (found.moves_error / root)
    errors[d:] += doubt.sum(dim=1)
    errors += doubt.sum(dim=0)
    linear_error = linear_error / 2 / root / last
    errors += linear_error
    diagonal = matrix.diagonal().clamp(min=0).sqrt()
    # Theta is less than the constant, or nothing is proved.
    most = math.sqrt(constant) / last
    factorised = gamma(2 * (total + 3), torch.float64)
    errors += factorised * diagonal * (diagonal.sum() + most)
    error_of_theta = float(linear_error.sum() + factorised * most * (diagonal.sum() + most))
    matrix.diagonal().sub_(errors * (1 + 1e-9))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if int(failed) or not bool(matrix.diagonal().isfinite().all()):
        return -math.inf
    solved = torch.linalg.solve_triangular(factor, (linear / 2 / root / last)[:, None], upper=False)
    pivot = float((solved * solved).sum()) * (1 + 4 * unit) + unit
    theta = (pivot + error_of_theta * (1 + 1e-9)) * last**2
    return constant - theta - slack if theta < constant else -math.inf
