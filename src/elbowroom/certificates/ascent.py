"""Ascent on the dual of Shor's relaxation: a barrier, and L-BFGS in the logarithms."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from elbowroom.certificates.shor import Evaluation, Multipliers, Problem, evaluate

MEMORY = 30
# The weight of the barrier, for all multipliers together, and how it falls.
BARRIER, FALL, LEAST_BARRIER = 4.0, 0.4, 1e-6
# It falls when so many steps together add less than this to the objective.
PATIENCE, PROGRESS = 10, 5e-3
# What a starting point tries: how much earlier units have to dominate later ones, and factors.
DOMINANCE, GROWTH = (0.5, 1.0, 2.02), (1.0, 10.0, 1e3)
# As many layers as units are looked for in, at most.
DEPTH = 50
# Multipliers are offered for proof when their radius is so many times that of the last.
WORTH = 1.01
LINE_SEARCH, SHRINK, SUFFICIENT = 12, 0.4, 1e-4


def starting_point(problem: Problem) -> Multipliers:
    """Multipliers at which the Lagrangian is convex and its minimum positive.

    lam cancels what units cost at a distance; earlier units dominate what later ones take from
    them, by positive vectors (Collatz and Wielandt); then tau grows until it suffices. Convexity
    is certain with `DOMINANCE[-1]`, from `s t <= s^2 / 2 + t^2 / 2`; the smaller ones begin nearer
    to the optimum.
    """
    ones = torch.ones_like(problem.low[:1])
    for growth in GROWTH:
        for dominance in DOMINANCE:
            start = _dominant(problem, growth, dominance)
            for doublings in range(0, 60, 2 if dominance < DOMINANCE[-1] else 1):
                found = Multipliers(*start, ones * 1.7**doublings)
                if evaluate(problem, found, 0.0) is not None:
                    return found
    return found


def _dominant(
    problem: Problem, growth: float, dominance: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """lam, mu, nu and kap of a starting point."""
    d, n = problem.features, len(problem.distance)
    cost, between = problem.row[d:], problem.moves[:, d:].abs()
    box = torch.full_like(problem.low, 0.02)
    if n == 0:
        return cost, cost, cost, box
    size = cost.abs() + 1e-3 * cost.abs().max() + 1e-12
    typical = 0.3 * problem.distance.median() + 0.01 * problem.distance.max() + 1e-6
    lam = growth * size / (problem.distance + typical)
    # Units are in the order of their layers, and take only from earlier ones.
    for _ in range(DEPTH):
        needed = dominance * (between.T @ (lam * between.sum(dim=1)))
        if bool((needed <= lam * (1 + 1e-6)).all()):
            break
        lam = torch.maximum(lam, needed)
    mu = (cost + lam * problem.distance).clamp(min=1e-6)
    return lam, mu, torch.full_like(lam, 1e-4), box


def ascend(
    problem: Problem, start: Multipliers, steps: int, enough: float
) -> Iterator[Multipliers]:
    """Better and better multipliers: when the barrier falls, and at the end.

    Also as soon as the radius passes `enough` by a little.
    """
    barrier = BARRIER / (problem.moves.shape[1] + 1)
    least = barrier * LEAST_BARRIER
    at = start.logarithms
    now = evaluate(problem, start, barrier)
    if now is None:
        return
    memory: list[tuple[Tensor, Tensor]] = []
    history: list[float] = []
    offered = 0.0
    for _ in range(steps):
        found = _step(problem, start, at, now, barrier, memory)
        stuck = found is None
        if found is not None:
            moved, better = found
            memory.append((moved - at, now.gradient - better.gradient))
            memory = [pair for pair in memory[-MEMORY:] if float(pair[0] @ pair[1]) > 0]
            at, now = moved, better
            history.append(now.objective)
            if now.radius > max(1.01 * enough, WORTH * offered):
                yield start.like(at)
                offered = now.radius
        slow = len(history) > PATIENCE and history[-1] - history[-1 - PATIENCE] < PROGRESS
        if stuck and memory:
            memory = []
        elif stuck or slow:
            if now.radius > WORTH * offered:
                yield start.like(at)
                offered = now.radius
            barrier, history, memory = barrier * FALL, [], memory[-5:]
            again = evaluate(problem, start.like(at), barrier)
            if barrier < least or again is None:
                return
            now = again
    yield start.like(at)


def _step(
    problem: Problem,
    shape: Multipliers,
    at: Tensor,
    now: Evaluation,
    barrier: float,
    memory: list[tuple[Tensor, Tensor]],
) -> tuple[Tensor, Evaluation] | None:
    """One step of L-BFGS with backtracking; None if it leads nowhere."""
    direction = _direction(now.gradient, memory)
    slope = float(direction @ now.gradient)
    length = min(1.0, 1.0 / max(float(direction.abs().max()), 1e-30))
    for _ in range(LINE_SEARCH):
        there = at + length * direction
        found = evaluate(problem, shape.like(there), barrier)
        if found is not None and found.objective >= now.objective + SUFFICIENT * length * slope:
            return there, found
        length *= SHRINK
    return None


def _direction(gradient: Tensor, memory: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The two loops of L-BFGS (Nocedal 1980)."""
    if not memory:
        return gradient * (0.1 / gradient.abs().max().clamp(min=1e-30))
    q, weights = gradient.clone(), []
    for s, y in reversed(memory):
        weights.append((s @ q) / (s @ y))
        q -= weights[-1] * y
    s, y = memory[-1]
    q *= (s @ y) / (y @ y)
    for (s, y), weight in zip(memory, reversed(weights), strict=True):
        q += (weight - (y @ q) / (s @ y)) * s
    return q if float(q @ gradient) > 0 else gradient
