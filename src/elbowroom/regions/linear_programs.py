"""The nearest point of a polytope in L1 or Linf: linear programs, for small networks.

LRA, section 4: for p = 1 and p = inf, problems 10 and 11 are linear programs. They are solved by
HiGHS over a growing set of constraints, as in `working_set`, one sample after the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

from elbowroom.norms import Norm
from elbowroom.regions.polytope import Polytopes

INFEASIBLE = 2  # status of scipy.optimize.linprog


@dataclass(frozen=True)
class ProgramResult:
    """The nearest points of P polytopes.

    z:          `(P, *shape)`, in the box; the optimum where `solved`.
    solved:     `(P,)` bool. infeasible: `(P,)` bool.
    lower:      `(P,)`, float64: no feasible point is nearer than this; `inf` if infeasible.
    """

    z: Tensor
    solved: Tensor
    infeasible: Tensor
    lower: Tensor


@dataclass(frozen=True, kw_only=True)
class LinearPrograms:
    """The solver and its settings.

    norm:      L1 or Linf.
    rounds:    programs solved for one sample at most.
    added:     constraints added to a program in a round.
    tolerance: relative to the largest excess of a region.
    """

    norm: Norm
    rounds: int = 60
    added: int = 48
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if self.norm.p == 2:
            raise ValueError("L2 is a quadratic program: use WorkingSet")

    def __call__(self, polytopes: Polytopes, x: Tensor) -> ProgramResult:
        """Project `x` `(P, *shape)` onto the polytopes and the box of their classifier."""
        clf, count = polytopes.clf, len(x)
        origin = x.double().flatten(1)
        box = [bound.double().expand(x.shape[1:]).flatten() for bound in (clf.lower, clf.upper)]
        excess_at_x = polytopes.excess(x)
        z = x.clone()
        lower = origin.new_zeros(count)
        solved = torch.zeros(count, dtype=torch.bool, device=x.device)
        infeasible = solved.clone()
        rows = [origin.new_zeros(0, origin.shape[1])] * count
        bounds = [origin.new_zeros(0)] * count
        slots = torch.arange(polytopes.decisions, device=x.device).expand(count, -1)
        active = torch.arange(count, device=x.device)
        for _ in range(self.rounds):
            some = polytopes.take(active)
            new = some.rows(slots).double().flatten(2)
            known = excess_at_x[active].gather(1, slots.clamp(min=0)).double()
            for position, sample in enumerate(active.tolist()):
                real = (slots[position] >= 0) & known[position].isfinite()
                A, b = new[position][real], (new[position] @ origin[sample] - known[position])[real]
                rows[sample] = torch.cat([rows[sample], A])
                bounds[sample] = torch.cat([bounds[sample], b])
                found = self._solve(origin[sample], rows[sample], bounds[sample], box)
                infeasible[sample] = found is None
                if found is not None:
                    point, lower[sample] = found
                    z[sample] = clf.clamp(point.to(x).view_as(x[sample]))
            excess = some.excess(z[active])
            finite = torch.where(excess.isfinite(), excess, 0.0)
            worst = finite.amax(dim=1)
            done = worst <= self.tolerance * finite.abs().amax(dim=1)
            solved[active] = done & ~infeasible[active]
            going = (~done & ~infeasible[active]).nonzero().squeeze(1)
            if not len(going):
                break
            active = active[going]
            values, slots = excess[going].topk(min(self.added, excess.shape[1]), dim=1)
            slots = torch.where(values > 0, slots, -1)
        return ProgramResult(z, solved, infeasible, torch.where(infeasible, torch.inf, lower))

    def _solve(
        self, x: Tensor, A: Tensor, b: Tensor, box: list[Tensor]
    ) -> tuple[Tensor, float] | None:
        """The optimum and its value; None if there is no feasible point."""
        features = len(x)
        matrix, right = A.cpu().numpy(), (b - A @ x).cpu().numpy()
        low, high = ((bound - x).cpu().numpy() for bound in box)
        if np.isinf(self.norm.p):  # variables: the perturbation and its largest size
            cost = np.r_[np.zeros(features), 1.0]
            eye, ones = np.eye(features), np.ones((features, 1))
            matrix = np.block([[matrix, np.zeros((len(matrix), 1))], [eye, -ones], [-eye, -ones]])
            right = np.r_[right, np.zeros(2 * features)]
            limits = [*zip(low, high, strict=True), (0, None)]
        else:  # variables: its positive and its negative part
            cost = np.ones(2 * features)
            matrix = np.hstack([matrix, -matrix])
            limits = [(0, up) for up in high] + [(0, -down) for down in low]
        found = linprog(cost, A_ub=matrix, b_ub=right, bounds=limits, method="highs")
        if found.status == INFEASIBLE or found.x is None:
            return None
        moved = found.x[:features]
        if not np.isinf(self.norm.p):
            moved = moved - found.x[features:]
        return x + torch.from_numpy(moved).to(x), float(found.fun)
