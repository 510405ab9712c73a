"""Shor's relaxation of the distance to a decision boundary, in units of about the size 1.

With the notation of `elbowroom.certificates.deviations`, let `z = (1, v, s)` and `u = s - t + a`.
For all rho, lam, mu, nu, kap >= 0 the Lagrangian

    |v|^2 + rho (margin + g v + c s) + sum lam s u - mu s - nu u + kap (v - low) (v - high)

is at most `|v|^2` wherever the margin is not positive, so that its minimum over all z, if it has
one, bounds the square of the distance: `elbowroom.certificates.shor`'s bound, divided by tau.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.certificates.shor import Multipliers, Problem

# Features move by this many times the radius over the root of their number; units by their
# largest move, or by half of what units before them make of theirs, over `SPREAD`.
FEATURE, SPREAD = math.sqrt(8), 5.0
LAYERS = 8


@dataclass(frozen=True)
class Program:
    """d features and n units.

    u:         `(n, 1 + d + n)`, the slacks as linear functions of z. row: the margin, over itself.
    low, high: `(d,)`. cost: `(1 + d + n,)`; `sum cost z^2` is the square of the distance over that
               of `limit`, beyond which nothing is claimed.
    feature, unit: what one of them is in units of the problem, a number and `(n,)`.
    """

    u: Tensor
    row: Tensor
    low: Tensor
    high: Tensor
    cost: Tensor
    feature: float
    unit: Tensor
    margin: float
    limit: float

    @staticmethod
    def of(problem: Problem, limit: float, dtype: torch.dtype) -> Program:
        d, n = problem.features, len(problem.distance)
        on_input, on_units = problem.moves[:, :d], problem.moves[:, d:]
        feature = limit * FEATURE / math.sqrt(d)
        direct = torch.linalg.vector_norm(on_input, dim=1) * limit / SPREAD
        unit = direct
        for _ in range(LAYERS if n else 0):
            unit = torch.maximum(direct, torch.linalg.vector_norm(on_units * unit, dim=1) / 2)
        if n:
            unit = unit.clamp(min=max(1e-6 * float(unit.max()), 1e-30))
        u = on_input.new_zeros(n, 1 + d + n)
        u[:, 0] = problem.distance / unit
        u[:, 1 : 1 + d] = -on_input * feature / unit[:, None]
        u[:, 1 + d :] = -on_units * unit / unit[:, None]
        u[:, 1 + d :].diagonal().add_(1.0)
        scale = torch.cat([torch.full_like(problem.low, feature), unit]) / problem.margin
        cost = problem.row.new_zeros(1 + d + n)
        cost[1 : 1 + d] = (feature / limit) ** 2
        return Program(
            u.to(dtype),
            torch.cat([problem.row.new_ones(1), problem.row * scale]).to(dtype),
            (problem.low / feature).to(dtype),
            (problem.high / feature).to(dtype),
            cost.to(dtype),
            feature,
            unit.to(dtype),
            problem.margin,
            limit,
        )

    @property
    def features(self) -> int:
        return len(self.low)

    def matrix(self, m: Multipliers, rho: Tensor) -> Tensor:
        """Of the Lagrangian as a quadratic function of z; `m` in units of the program."""
        d = self.features
        found = torch.zeros_like(self.row).expand(len(self.row), -1).clone()
        found[1 + d :] = m.lam[:, None] * self.u
        found[0] += rho * self.row - m.nu @ self.u
        found[0, 1 + d :] -= m.mu
        found[0, 1 : 1 + d] -= m.kap * (self.low + self.high)
        found = (found + found.T) / 2
        found[0, 0] += (m.kap * self.low * self.high).sum()
        found.diagonal().add_(self.cost)
        found.diagonal()[1 : 1 + d] += m.kap
        return found

    def multipliers(self, m: Multipliers, rho: Tensor) -> Multipliers:
        """From units of the program, where tau is 1, to those of the problem, for its margin."""
        factor, unit = self.margin / rho.double(), self.unit.double()
        return Multipliers(
            lam=m.lam.double() * factor / unit**2,
            mu=m.mu.double() * factor / unit,
            nu=m.nu.double() * factor / unit,
            kap=m.kap.double() * factor / self.feature**2,
            tau=(factor / self.limit**2)[None],
        )
