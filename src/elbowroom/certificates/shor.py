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
from dataclasses import dataclass, fields, replace

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

    @property
    def logarithms(self) -> Tensor:
        """All in one vector."""
        return torch.cat([getattr(self, f.name) for f in fields(self)]).log()

    def to(self, dtype: torch.dtype) -> Multipliers:
        return Multipliers(*(getattr(self, f.name).to(dtype) for f in fields(self)))

    def scaled(self, factor: float) -> Multipliers:
        """All times `factor`: those of a margin that is as many times larger."""
        return Multipliers(*(getattr(self, f.name) * factor for f in fields(self)))

    def like(self, logarithms: Tensor) -> Multipliers:
        """Those of which `logarithms` is the vector."""
        sizes = [len(getattr(self, f.name)) for f in fields(self)]
        return Multipliers(*torch.split(logarithms.exp(), sizes))


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

    def to(self, dtype: torch.dtype) -> Problem:
        names = ("moves", "distance", "row", "low", "high")
        return replace(self, **{name: getattr(self, name).to(dtype) for name in names})

    def linear(self, m: Multipliers) -> Tensor:
        """The linear part of the Lagrangian, `(d + n,)`."""
        own = m.lam * self.distance - m.mu - m.nu
        box = -(m.kap * (self.low + self.high))
        return self.row + torch.cat([box, own]) + self.moves.T @ m.nu

    def constant(self, m: Multipliers) -> Tensor:
        box = m.kap * self.low * self.high
        return self.margin - (m.nu * self.distance).sum() + box.sum()


@dataclass(frozen=True)
class Evaluation:
    """At some multipliers: the objective of the ascent with its gradient, the value, and the radius
    for which the margin is positive.
    """

    objective: float
    value: float
    radius: float
    gradient: Tensor


def evaluate(problem: Problem, m: Multipliers, barrier: float) -> Evaluation | None:
    """The objective `log(value / tau) + barrier * spread` and its gradient in the logarithms.

    spread: the log-determinant of the Lagrangian's matrix, relative to its diagonal. None where
    the Lagrangian is not convex or its minimum not positive.
    """
    d = problem.features
    on_input, on_units = problem.moves[:, :d], problem.moves[:, d:]
    diagonal = m.tau + m.kap
    gram = (on_input / diagonal) @ on_input.T
    scaled = m.lam[:, None] * on_units
    # The units' block, the input's eliminated.
    block = torch.diag(m.lam) - (scaled + scaled.T) / 2 - m.lam[:, None] * gram * m.lam / 4
    factor, failed = torch.linalg.cholesky_ex(block)
    if int(failed):
        return None
    linear = problem.linear(m)
    q_input, q_units = linear[:d], linear[d:]
    right = q_units + m.lam * (on_input @ (q_input / diagonal)) / 2
    s = -torch.cholesky_solve(right[:, None], factor)[:, 0] / 2
    v = -(q_input - on_input.T @ (m.lam * s)) / diagonal / 2
    value = problem.constant(m) + (q_input @ v + q_units @ s) / 2
    if not float(value) > 0:
        return None
    inverse = torch.cholesky_inverse(factor)
    t = on_input @ v + on_units @ s
    spread = (
        2 * factor.diagonal().log().sum()
        + (diagonal.log().sum() - d * m.tau.log().sum())
        - m.lam.log().sum()
    )
    weighted = on_input * m.lam[:, None] / diagonal / 2
    on_diagonal = 1 / diagonal + ((inverse @ weighted) * weighted).sum(dim=0)
    of_lam = inverse.diagonal() - (on_units * inverse).sum(1) - (gram * m.lam * inverse).sum(1) / 2
    by_value = Multipliers(
        lam=s * (s - t + problem.distance),
        mu=-s,
        nu=-(s - t + problem.distance),
        kap=(v - problem.low) * (v - problem.high),
        tau=(v * v).sum()[None],
    )
    by_spread = Multipliers(
        lam=of_lam - 1 / m.lam,
        mu=torch.zeros_like(m.mu),
        nu=torch.zeros_like(m.nu),
        kap=on_diagonal,
        tau=on_diagonal.sum()[None] - d / m.tau,
    )
    gradient = torch.cat(
        [
            (getattr(by_value, f.name) / value + barrier * getattr(by_spread, f.name))
            * getattr(m, f.name)
            for f in fields(Multipliers)
        ]
    )
    gradient[-1] -= 1.0  # of -log tau
    objective = float(value.log() - m.tau.log().sum() + barrier * spread)
    return Evaluation(objective, float(value), math.sqrt(float(value / m.tau)), gradient)


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
    solved = torch.linalg.solve(matrix, linear)
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
