"""The least value of a linear function over the intersection of a ball and a box."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.norms import L1, L2, Linf, Norm

# Passes of the search for the L2 ball's multiplier; each of them ends with a valid bound.
PASSES = 3
# Numbers of the rows that are worked on at a time, so that they stay in a processor's cache.
CACHED = 2**16


def least_in_balls(
    rows: Tensor, centre: Tensor, radius: Tensor, lower: Tensor, upper: Tensor, norm: Norm = L2
) -> Tensor:
    """Lower bounds `(B, R)` on `rows @ z` over B balls in the box.

    The minimum itself in L1 and Linf; in L2 seldom far from it.

    rows: `(B, R, d)`, `(1, R, d)` for the same in all balls. centre: `(B, d)`, in the box.
    radius: `(B,)`. lower, upper: `(d,)`. With features of its own for each row, the last three
    are `(B, R, d)`, or broadcast to it.
    """
    count, height, width = len(centre), rows.shape[1], rows.shape[2]
    rows = rows.expand(count, height, width)
    if centre.ndim == 2:
        centre = centre[:, None]
    centre, lower, upper = (each.expand(count, height, width) for each in (centre, lower, upper))
    solve = {L1: _least_l1, L2: _least_l2, Linf: _least_linf}[norm]
    tall = max(1, min(height, CACHED // max(width, 1)))
    size = max(1, CACHED // max(tall * width, 1))
    found = rows.new_empty(count, height)
    for first in range(0, count, size):
        some = slice(first, first + size)
        for top in range(0, height, tall):
            part = (some, slice(top, top + tall))
            found[part] = solve(
                rows[part], centre[part], radius[some, None], lower[part], upper[part]
            )
    return found


def _least_linf(c: Tensor, x: Tensor, r: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    down, up = torch.maximum(lower, x - r[..., None]), torch.minimum(upper, x + r[..., None])
    return (c * torch.where(c > 0, down, up)).sum(dim=2)


def _least_l1(c: Tensor, x: Tensor, r: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Spend the radius where it counts most, each feature as far as the box goes."""
    steepness, order = c.abs().sort(dim=2, descending=True)
    room = torch.where(c > 0, x - lower, upper - x).gather(2, order)
    room = room.clamp(min=0).minimum(r[..., None])
    before = room.cumsum(dim=2) - room
    spent = room.minimum((r[..., None] - before).clamp(min=0))
    return (c * x).sum(dim=2) - (steepness * spent).sum(dim=2)


def _least_l2(rows: Tensor, x: Tensor, r: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """One part of the rows; x `(B, R, d)` and r `(B, 1)` are the balls.

    The dual over the ball's multiplier 1 / t, `min over the box of c z + (|z - x|^2 - r^2) / 2 t`,
    is a bound for every t; the best t leaves the minimiser on the sphere. It is approached from
    below, by solving for t with the features that are clipped so far.
    """
    length = torch.linalg.vector_norm(rows, dim=2)
    value: Tensor = (rows * x).sum(dim=2) - r * length  # of the ball alone
    t = (r / length.clamp(min=1e-300)).clamp(1e-150, 1e100)
    for step in range(PASSES):
        target = x - t[..., None] * rows
        z = torch.clamp(target, lower, upper)
        moved = z - x
        square = (moved * moved).sum(dim=2)
        found = (rows * z).sum(dim=2) + (square - r * r) / (2 * t)
        value = torch.maximum(value, found.nan_to_num(-torch.inf, -torch.inf, -torch.inf))
        if step + 1 < PASSES:
            loose = torch.where(z == target, rows, 0.0)
            slope = (loose * loose).sum(dim=2)
            left = (r * r - (square - t * t * slope)).clamp(min=0)
            t = torch.maximum(t, (left / slope.clamp(min=1e-300)).sqrt()).clamp(1e-150, 1e100)
    return value
