"""Ascent on the dual of Shor's relaxation, with most multipliers eliminated exactly.

For given lam and kap, which make the Lagrangian convex, the best rho and mu belong to a convex
quadratic program in v and s, solved by Newton's method with a barrier for `s > 0` that leaves
`mu = barrier / s`. (`u > 0` hardly ever binds: nu stays 0, which saves most of the time.) By how
much the bound grows with lam is then `s u`, and what a lam costs is its share in the
log-determinant of the matrix of the `Lagrangian`. The ascent is one of L-BFGS in the logarithms of
lam and kap, scaled by the sum of gain and price, so that its first step is nearly the
multiplicative one known from optimal design (Silvey, Titterington and Torsney 1978).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.certificates.lagrangian import Lagrangian, root_of
from elbowroom.certificates.program import Program
from elbowroom.certificates.shor import Multipliers

# v `(d,)`, s `(n,)` and rho.
Point = tuple[Tensor, Tensor, Tensor]

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
    """Multipliers and the point that they lead to.

    logarithms: `(n + d,)`, of lam and kap. v, s: the minimiser. rho: of the margin.
    barrier:    of s.
    objective:  of the ascent, with its gradient. scale: `(n + d,)`, the size of its curvature.
    value:      the dual's: a bound on the square of the distance, over that of the limit.
    """

    logarithms: Tensor
    v: Tensor
    s: Tensor
    rho: Tensor
    barrier: float
    objective: float
    gradient: Tensor
    scale: Tensor
    value: float

    def multipliers(self, program: Program) -> Multipliers:
        """In units of the problem."""
        lam, kap = torch.split(self.logarithms.exp(), [len(self.s), len(self.v)])
        return program.multipliers(lam, kap, self.barrier / self.s, self.rho)


def ascend(program: Program, steps: int, start: State | None = None) -> Iterator[State]:
    """Better and better states; none where rounding leaves no convex start.

    start: a state that was good for a program that differs from this one in the margin alone.
    """
    barrier, convexity = FIRST_BARRIER if start is None else WARM_BARRIER, CONVEXITY
    logarithms = balanced(program) if start is None else start.logarithms
    point = inside(program) if start is None else (start.v, start.s, start.rho)
    now = settled(program, logarithms, point, barrier, convexity, FIRST_NEWTON_STEPS)
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
            again = settled(program, now.logarithms, (now.v, now.s, now.rho), lower, convexity)
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


def balanced(program: Program) -> Tensor:
    """lam as `1 / |t|^2`, times a share of what convexity allows, one layer after the other."""
    kap = torch.full_like(program.low, BOX * program.cost).log()
    moves = torch.cat([program.on_features, program.on_units], dim=1)
    moves[:, program.features :].diagonal().zero_()
    depth = torch.zeros_like(program.unit)
    between = (moves[:, program.features :] != 0).to(depth)
    while len(depth):  # units take only from earlier ones
        deeper = torch.where(between > 0, depth + 1, 0.0).amax(dim=1)
        if bool((deeper <= depth).all()):
            break
        depth = torch.maximum(depth, deeper)
    natural = -(moves * moves).sum(dim=1).clamp(min=1e-6).log()
    lam = natural - APART * depth
    for level in range(int(depth.max()) + 1 if len(depth) else 0):
        height, down = 1.4, 1.0
        while height > -40:
            trial = torch.where(depth == level, natural + height, lam)
            if Lagrangian.of(program, torch.cat([trial, kap])) is None:
                height -= down
            elif down == 1.0 and height < 1.4:  # now closer
                height, down = height + 1.0 - FINE, FINE
            else:
                break
        lam = torch.where(depth == level, trial + math.log(SHARE), lam)
    return torch.cat([lam, kap])


def inside(program: Program) -> Point:
    """Every s and u positive, each unit a little beyond its break."""
    v, s = torch.zeros_like(program.low), torch.zeros_like(program.distance)
    for _ in range(len(s)):
        beyond = (s - program.slack(v, s)).clamp(min=0) + 0.1
        if bool((beyond <= s).all()):
            break
        s = torch.maximum(s, beyond)
    return v, s, program.low.new_ones(())


def settled(
    program: Program,
    logarithms: Tensor,
    start: Point,
    barrier: float,
    convexity: float,
    steps: int = NEWTON_STEPS,
) -> State | None:
    """The state at these lam and kap; None where they are not convex."""
    there = Lagrangian.of(program, logarithms)
    point = None if there is None else _minimised(there, start, barrier, steps)
    if there is None or point is None:
        return None
    v, s, rho = point
    origin = torch.zeros_like(v), torch.zeros_like(s)
    on_v, on_s = there.gradient(*origin)
    on_v, on_s = on_v + rho * program.row[0], on_s + rho * program.row[1] - barrier / s
    x_v, x_s = there.solve(there.root, on_v[:, None], on_s[:, None])
    value = there.value(*origin) + rho - (on_v @ x_v[:, 0] + on_s @ x_s[:, 0]) / 2
    by_lam, by_kap, own = there.prices()
    slack = s * program.slack(v, s)
    gap = -(v - program.low) * (v - program.high)
    gradient = torch.cat([slack + convexity * by_lam, convexity * by_kap - gap])
    size = torch.cat(
        [slack.abs() + convexity * (own + (own - by_lam).abs()), gap.abs() + convexity * by_kap]
    )
    weights = logarithms.exp()
    objective = there.value(v, s) + rho * program.margins(v, s)
    objective = objective - barrier * (s.log().sum() - rho.log())
    objective = objective + convexity * there.log_determinant()
    return State(
        logarithms=logarithms,
        v=v,
        s=s,
        rho=rho,
        barrier=barrier,
        objective=float(objective),
        gradient=weights * gradient,
        scale=weights * size,
        value=float(value),
    )


def _minimised(there: Lagrangian, start: Point, barrier: float, steps: int) -> Point | None:
    """The saddle point in v, s and rho, by Newton's method with barriers."""
    v, s, rho = start
    row_v, row_s = there.program.row
    for _ in range(steps):
        root = root_of(there.schur, barrier / s**2 / 2)
        if root is None:
            return None
        on_v, on_s = there.gradient(v, s)
        on_s = on_s - barrier / s
        by_v, by_s = there.solve(
            root, torch.stack([on_v, row_v], dim=1), torch.stack([on_s, row_s], dim=1)
        )
        share = torch.stack([torch.ones_like(rho), rho])
        missed = there.program.margins(v, s) + barrier / rho
        curved = row_v @ by_v[:, 1] + row_s @ by_s[:, 1]
        more = (missed - row_v @ (by_v @ share) - row_s @ (by_s @ share)) / (
            barrier / rho**2 + curved
        )
        share = share + torch.stack([torch.zeros_like(rho), more])
        step_v, step_s = -(by_v @ share), -(by_s @ share)
        room, change = torch.cat([s, rho[None]]), torch.cat([step_s, more[None]])
        far = float(torch.where(change < 0, -room / change, torch.inf).min())
        length = min(1.0, NEAR * far)
        decrement = float(step_v @ (on_v + rho * row_v) + step_s @ (on_s + rho * row_s)) ** 2
        v, s, rho = v + length * step_v, s + length * step_s, rho + length * more
        if length == 1.0 and decrement < (0.05 * barrier) ** 2 * len(room):
            break
    return v, s, rho


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
        found = settled(program, there, (now.v, now.s, now.rho), barrier, convexity)
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
