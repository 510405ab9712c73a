"""Ascent on the dual of Shor's relaxation, with most multipliers eliminated exactly.

For given lam and kap, which make the Lagrangian convex, the best rho and mu belong to a convex
quadratic program in z, solved by Newton's method with a barrier for `s > 0` that leaves
`mu = barrier / s`. (`u > 0` hardly ever binds: nu stays 0, which saves most of the time.) By how
much the bound grows with lam is then `s u`, and what a lam costs is its share in the
log-determinant of the Lagrangian's matrix. The ascent is one of L-BFGS in the logarithms of lam
and kap, scaled by the sum of gain and price, so that its first step is nearly the multiplicative
one known from optimal design (Silvey, Titterington and Torsney 1978).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.certificates.program import Program
from elbowroom.certificates.shor import Multipliers

# Barriers of the quadratic program: at first, there with a known start, at last; and how they
# fall from step to step.
FIRST_BARRIER, WARM_BARRIER, LAST_BARRIER, FALL = 1e-3, 1e-4, 1e-5, 0.6
NEWTON_STEPS, FIRST_NEWTON_STEPS, NEAR = 4, 12, 0.95
# The weight of the log-determinant, and how it falls when the steps add little.
CONVEXITY, EASE = 1e-3, 0.6
# What lam begins with, of the largest multiple that is convex, layer by layer; kap over the cost.
SHARE, BOX = 0.7, 0.02
# In logarithms: how much lower deeper layers begin, how finely the largest multiple is sought.
APART, FINE = 12.0, 0.3
MEMORY, LONGEST, SHORTEST = 12, 1.5, 1e-3
# The end: so many steps that together add less than this share to the radius.
PATIENCE, PROGRESS = 8, 0.01


@dataclass(frozen=True)
class State:
    """Multipliers and the minimiser z that they lead to.

    logarithms: `(n + d,)`, of lam and kap. rho: of the margin. barrier: of s.
    objective:  of the ascent, with its gradient. scale: `(n + d,)`, the size of its curvature.
    value:      the dual's: a bound on the square of the distance, over that of the limit.
    """

    logarithms: Tensor
    z: Tensor
    rho: Tensor
    barrier: float
    objective: float
    gradient: Tensor
    scale: Tensor
    value: float

    def multipliers(self, program: Program) -> Multipliers:
        """In units of the problem."""
        m = _multipliers(program, self.logarithms, self.z, self.barrier)
        return program.multipliers(m, self.rho)


def ascend(program: Program, steps: int, start: Tensor | None = None) -> Iterator[State]:
    """Better and better states; none where rounding leaves no convex start.

    start: logarithms `(n + d,)` that were good for a similar program.
    """
    logarithms = balanced(program) if start is None else start
    barrier, convexity = FIRST_BARRIER if start is None else WARM_BARRIER, CONVEXITY
    now = settled(program, logarithms, inside(program), barrier, convexity, FIRST_NEWTON_STEPS)
    if now is None:
        return
    yield now
    memory: list[tuple[Tensor, Tensor]] = []
    best = [now.value]
    length = 1.0
    for _ in range(steps):
        lower = max(LAST_BARRIER, FALL * barrier)
        found = _step(program, now, memory, min(1.0, 4 * length), lower, convexity)
        if found is None:
            if not memory and lower == barrier:
                return
            memory, length = [], 1.0
            again = settled(program, now.logarithms, (now.z, now.rho), lower, convexity)
            if again is None:
                return
            now, barrier = again, lower
            continue
        following, length = found
        pair = following.logarithms - now.logarithms, now.gradient - following.gradient
        if lower == barrier and float(pair[0] @ pair[1]) > 0:
            memory = [*memory[1 - MEMORY :], pair]
        now, barrier = following, lower
        yield now
        best.append(max(best[-1], now.value))
        if best[-1] > 0 and len(best) > PATIENCE and barrier == LAST_BARRIER:
            if best[-1] < (1 + PROGRESS) ** 2 * best[-1 - PATIENCE]:
                return
            if best[-1] < (1 + PROGRESS / 4) ** 2 * best[-1 - PATIENCE // 2]:
                convexity, memory = EASE * convexity, []


def _multipliers(program: Program, logarithms: Tensor, z: Tensor, barrier: float) -> Multipliers:
    d, n = program.features, len(program.u)
    lam, kap = torch.split(logarithms.exp(), [n, d])
    tau = torch.ones_like(z[:1])
    return Multipliers(lam, barrier / z[1 + d :], torch.zeros_like(lam), kap, tau)


def _quadratic(program: Program, logarithms: Tensor) -> Tensor:
    """The Lagrangian's matrix of lam and kap alone."""
    d, n = program.features, len(program.u)
    lam, kap = torch.split(logarithms.exp(), [n, d])
    none = torch.zeros_like(lam)
    return program.matrix(
        Multipliers(lam, none, none, kap, torch.ones_like(kap[:1])), torch.zeros_like(kap[0])
    )


def root_of(matrix: Tensor) -> Tensor | None:
    """The Cholesky factor, if there is one."""
    found, failed = torch.linalg.cholesky_ex(matrix)
    return None if int(failed) else found


def balanced(program: Program) -> Tensor:
    """lam as `1 / |t|^2`, times a share of what convexity allows, one layer after the other."""
    d, n = program.features, len(program.u)
    kap = (BOX * program.cost[1 : 1 + d]).log()
    moves = program.u[:, 1:].clone()
    moves[:, d:].diagonal().zero_()
    depth = torch.zeros_like(program.unit)
    between = (moves[:, d:] != 0).to(depth)
    while n:  # units take only from earlier ones
        deeper = torch.where(between > 0, depth + 1, 0.0).amax(dim=1)
        if bool((deeper <= depth).all()):
            break
        depth = torch.maximum(depth, deeper)
    natural = -(moves * moves).sum(dim=1).clamp(min=1e-6).log()
    lam = natural - APART * depth
    for level in range(int(depth.max()) + 1 if n else 0):
        height, down = 1.4, 1.0
        while height > -40:
            trial = torch.where(depth == level, natural + height, lam)
            if root_of(_quadratic(program, torch.cat([trial, kap]))[1:, 1:]) is None:
                height -= down
            elif down == 1.0 and height < 1.4:  # now closer
                height, down = height + 1.0 - FINE, FINE
            else:
                break
        lam = torch.where(depth == level, trial + math.log(SHARE), lam)
    return torch.cat([lam, kap])


def inside(program: Program) -> tuple[Tensor, Tensor]:
    """z with every s and u positive, each unit a little beyond its break; and rho."""
    d = program.features
    z = torch.zeros_like(program.row)
    z[0] = 1.0
    for _ in range(len(program.u)):
        s = (z[1 + d :] - program.u @ z).clamp(min=0) + 0.1
        if bool((s <= z[1 + d :]).all()):
            break
        z[1 + d :] = torch.maximum(s, z[1 + d :])
    return z, torch.ones_like(z[0])


def settled(
    program: Program,
    logarithms: Tensor,
    start: tuple[Tensor, Tensor],
    barrier: float,
    convexity: float,
    steps: int = NEWTON_STEPS,
) -> State | None:
    """The state at these lam and kap; None where they are not convex."""
    d = program.features
    quadratic = _quadratic(program, logarithms)
    root = root_of(quadratic[1:, 1:])
    if root is None:
        return None
    solved = _minimised(program, quadratic, start, barrier, steps)
    if solved is None:
        return None
    z, rho = solved
    s, u = z[1 + d :], program.u @ z
    linear = quadratic[0, 1:] * 2 + rho * program.row[1:]
    linear[d:] -= barrier / s
    constant = quadratic[0, 0] + rho
    half = torch.linalg.solve_triangular(root, linear[:, None], upper=False)
    value = float(constant - (half * half).sum() / 4)
    inverse = torch.cholesky_inverse(root)
    own = inverse.diagonal()
    mixed = (program.u[:, 1:] * inverse[d:]).sum(dim=1)
    gap = -(z[1 : 1 + d] - program.low) * (z[1 : 1 + d] - program.high)
    gain = torch.cat([s * u, -gap])
    price = convexity * torch.cat([mixed, own[:d]])
    size = torch.cat([(s * u).abs(), gap.abs()])
    size = size + convexity * torch.cat([own[d:] + (own[d:] - mixed).abs(), own[:d]])
    weights = logarithms.exp()
    objective = z @ quadratic @ z + rho * (program.row @ z)
    objective = objective - barrier * (s.log().sum() - rho.log())
    objective = objective + convexity * 2 * root.diagonal().log().sum()
    return State(
        logarithms=logarithms,
        z=z,
        rho=rho,
        barrier=barrier,
        objective=float(objective),
        gradient=weights * (gain + price),
        scale=weights * size,
        value=value,
    )


def _minimised(
    program: Program,
    quadratic: Tensor,
    start: tuple[Tensor, Tensor],
    barrier: float,
    steps: int,
) -> tuple[Tensor, Tensor] | None:
    """z and rho at the saddle point, by Newton's method with barriers."""
    d = program.features
    z, rho = start[0].clone(), start[1]
    row = program.row[1:]
    for _ in range(steps):
        s = z[1 + d :]
        gradient = 2 * (quadratic @ z)[1:]
        gradient[d:] -= barrier / s
        hessian = 2 * quadratic[1:, 1:]
        hessian.diagonal()[d:] += barrier / s**2
        root = root_of(hessian)
        if root is None:
            return None
        both = torch.cholesky_solve(torch.stack([gradient, row], dim=1), root)
        by_gradient, by_row = both[:, 0] + rho * both[:, 1], both[:, 1]
        missed = program.row @ z + barrier / rho
        more = (missed - row @ by_gradient) / (barrier / rho**2 + row @ by_row)
        step = -(by_gradient + more * by_row)
        room, change = torch.cat([s, rho[None]]), torch.cat([step[d:], more[None]])
        share = torch.where(change < 0, -room / change, torch.inf).min()
        length = min(1.0, NEAR * float(share))
        z[1:] += length * step
        rho = rho + length * more
        decrement = float(step @ (gradient + rho * row)) ** 2
        if length == 1.0 and decrement < (0.05 * barrier) ** 2 * len(room):
            break
    return z, rho


def _step(
    program: Program,
    now: State,
    memory: list[tuple[Tensor, Tensor]],
    length: float,
    barrier: float,
    convexity: float,
) -> tuple[State, float] | None:
    """One step of L-BFGS with backtracking, and its length; None if it leads nowhere."""
    direction = _direction(now, memory)
    direction = direction * min(1.0, LONGEST / float(direction.abs().max()))
    while length >= SHORTEST:
        there = now.logarithms + length * direction
        found = settled(program, there, (now.z, now.rho), barrier, convexity)
        if found is not None and (barrier != now.barrier or found.objective > now.objective):
            return found, length
        length *= 0.5
    return None


def _direction(now: State, memory: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The two loops of L-BFGS (Nocedal 1980)."""
    scale = now.scale.clamp(min=1e-12 * float(now.scale.max()))
    q, weights = now.gradient.clone(), []
    for s, y in reversed(memory):
        weights.append((s @ q) / (s @ y))
        q = q - weights[-1] * y
    q = q / scale
    for (s, y), weight in zip(memory, reversed(weights), strict=True):
        q = q + (weight - (y @ q) / (s @ y)) * s
    return q if float(q @ now.gradient) > 0 else now.gradient / scale
