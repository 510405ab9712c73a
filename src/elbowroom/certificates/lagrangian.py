"""The Lagrangian of a `Program` for given lam and kap, a quadratic function of v and s.

Its matrix is diagonal in the d features, which are eliminated, so that every factorisation is of
the n units alone:

    v D v + 2 s C v + s Q s,  D = cost + kap, C = lam on_features / 2, Q = lam on_units, symmetric,

is convex if `Q - C D^-1 C'` is positive definite (Schur). Only lower triangles are ever filled in.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.certificates.program import Program

# Of what is added to matrices before they are factorised, the root, relative to their diagonal.
WHIFF = 1e-8


@dataclass(frozen=True)
class Lagrangian:
    """Convex in v and s.

    lam `(n,)`, kap, diagonal `(d,)`: the multipliers, and D.
    cross `(n, d)`: C. schur, root `(n, n)`: the lower half of Q - C D^-1 C', and its Cholesky
    factor.
    """

    program: Program
    lam: Tensor
    kap: Tensor
    diagonal: Tensor
    cross: Tensor
    schur: Tensor
    root: Tensor

    @staticmethod
    def of(program: Program, logarithms: Tensor) -> Lagrangian | None:
        """None where it is not convex. logarithms: `(n + d,)`, of lam and kap."""
        n = len(program.distance)
        lam, kap = torch.split(logarithms.exp(), [n, program.features])
        half = lam[:, None] / 2
        diagonal = program.cost + kap
        cross = half * program.on_features
        among = half * program.on_units
        among.diagonal().add_(lam / 2)
        scaled = cross / diagonal.sqrt()
        schur = torch.addmm(among, scaled, scaled.T, alpha=-1)
        root = root_of(schur)
        if root is None:
            return None
        return Lagrangian(program, lam, kap, diagonal, cross, schur, root)

    def value(self, v: Tensor, s: Tensor) -> Tensor:
        """Without the terms of rho and mu."""
        p = self.program
        box = (self.kap * (v - p.low) * (v - p.high)).sum()
        return p.cost * (v @ v) + box + (self.lam * s) @ p.slack(v, s)

    def gradient(self, v: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """Of `value`."""
        p = self.program
        of_slack = self.lam * s
        on_v = 2 * self.diagonal * v - self.kap * (p.low + p.high) + of_slack @ p.on_features
        return on_v, self.lam * p.slack(v, s) + of_slack @ p.on_units

    def solve(self, root: Tensor, on_v: Tensor, on_s: Tensor) -> tuple[Tensor, Tensor]:
        """`2 M x = b` for columns `(d, k)`, `(n, k)`; root: of what is left of M for the units."""
        within = on_v / self.diagonal[:, None]
        x_s = torch.cholesky_solve((on_s - self.cross @ within) / 2, root)
        return within / 2 - (self.cross.T @ x_s) / self.diagonal[:, None], x_s

    def log_determinant(self) -> Tensor:
        return self.diagonal.log().sum() + 2 * self.root.diagonal().log().sum()

    def prices(self) -> tuple[Tensor, Tensor, Tensor]:
        """The slopes of the log-determinant by lam and kap, and the inverse's diagonal `(n,)`."""
        inverse = torch.cholesky_inverse(self.root)
        mixed = inverse @ self.cross
        by_lam = (self.program.on_units * inverse).sum(dim=1)
        by_lam -= (self.program.on_features * mixed) @ (1 / self.diagonal)
        by_kap = 1 / self.diagonal + (self.cross * mixed).sum(dim=0) / self.diagonal**2
        return by_lam, by_kap, inverse.diagonal()


def root_of(matrix: Tensor, more: Tensor | None = None) -> Tensor | None:
    """The Cholesky factor, if there is one, of a lower triangle with `more` on its diagonal."""
    # What fills in between distant units falls off to denormal numbers, which take ten times as
    # long: a matrix of rank one, below the precision, keeps all entries from getting there.
    trace = WHIFF * matrix.diagonal().clamp(min=0).sqrt()
    there = matrix.addr(trace, trace)
    if more is not None:
        there.diagonal().add_(more)
    found, failed = torch.linalg.cholesky_ex(there)
    return None if int(failed) else found
