"""Shor's relaxation of the distance to a decision boundary, in units of about the size 1.

With the notation of `elbowroom.certificates.deviations`, let `u = s - t + a`. For all rho, lam, mu,
kap >= 0 the Lagrangian

    |v|^2 + rho (margin + g v + c s) + sum lam s u - mu s + kap (v - low) (v - high)

is at most `|v|^2` wherever the margin is not positive, so that its minimum over all v and s, if it
has one, bounds the square of the distance: `elbowroom.certificates.shor`'s bound, divided by tau.
(`u > 0` hardly ever binds: its multiplier nu stays 0.)
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

    on_features, on_units: `(n, d)`, `(n, n)`: the slack u is linear in v and s, with `distance`;
               units take only from earlier ones.
    row:       `(d,)` and `(n,)`: the margin over itself is `1 + row v + row s`.
    low, high: `(d,)`.
    cost:      cost |v|^2 is the square of the distance over that of `limit`, beyond which nothing
               is claimed.
    feature, unit: what one of them is in units of the problem, a number and `(n,)`.
    """

    on_features: Tensor
    on_units: Tensor
    distance: Tensor
    row: tuple[Tensor, Tensor]
    low: Tensor
    high: Tensor
    cost: float
    feature: float
    unit: Tensor
    margin: float
    limit: float

    @staticmethod
    def of(problem: Problem, limit: float, dtype: torch.dtype) -> Program:
        d, n = problem.features, len(problem.distance)
        on_features, on_units = problem.moves[:, :d], problem.moves[:, d:]
        feature = limit * FEATURE / math.sqrt(d)
        direct = torch.linalg.vector_norm(on_features, dim=1) * limit / SPREAD
        unit = direct
        for _ in range(LAYERS if n else 0):
            unit = torch.maximum(direct, torch.linalg.vector_norm(on_units * unit, dim=1) / 2)
        if n:
            unit = unit.clamp(min=max(1e-6 * float(unit.max()), 1e-30))
        among = -on_units * unit / unit[:, None]
        among.diagonal().add_(1.0)
        row = problem.row / problem.margin
        return Program(
            on_features=(-on_features * feature / unit[:, None]).to(dtype),
            on_units=among.to(dtype),
            distance=(problem.distance / unit).to(dtype),
            row=((row[:d] * feature).to(dtype), (row[d:] * unit).to(dtype)),
            low=(problem.low / feature).to(dtype),
            high=(problem.high / feature).to(dtype),
            cost=(feature / limit) ** 2,
            feature=feature,
            unit=unit.to(dtype),
            margin=problem.margin,
            limit=limit,
        )

    @property
    def features(self) -> int:
        return len(self.low)

    def slack(self, v: Tensor, s: Tensor) -> Tensor:
        return self.distance + self.on_features @ v + self.on_units @ s

    def margins(self, v: Tensor, s: Tensor) -> Tensor:
        """The margin over that at the sample."""
        return 1 + self.row[0] @ v + self.row[1] @ s

    def multipliers(self, lam: Tensor, kap: Tensor, mu: Tensor, rho: Tensor) -> Multipliers:
        """From units of the program, where tau is 1, to those of the problem, for its margin."""
        factor, unit = self.margin / rho.double(), self.unit.double()
        return Multipliers(
            lam=lam.double() * factor / unit**2,
            mu=mu.double() * factor / unit,
            nu=torch.zeros_like(unit),
            kap=kap.double() * factor / self.feature**2,
            tau=(factor / self.limit**2)[None],
        )
