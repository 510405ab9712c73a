"""The least value of a linear function over the intersection of a ball and a box."""

from __future__ import annotations

import torch
from torch import Tensor

# Passes of the search for the ball's multiplier; each of them ends with a valid bound.
PASSES = 3
# Numbers of the rows that are worked on at a time, so that they stay in a processor's cache.
CACHED = 2**16


def least_in_balls(
    rows: Tensor, centre: Tensor, radius: Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    """Lower bounds `(B, R)` on `rows @ z` over B balls in the box, seldom far from the minimum.

    rows: `(B, R, d)`. centre: `(B, d)`, in the box. radius: `(B,)`. lower, upper: `(d,)`.
    """
    size = max(1, CACHED // max(rows[0].numel(), 1))
    parts = []
    for first in range(0, len(rows), size):
        some = slice(first, first + size)
        parts.append(_least(rows[some], centre[some, None], radius[some, None], lower, upper))
    return torch.cat(parts)


def _least(rows: Tensor, x: Tensor, r: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """One part of the rows; x `(B, 1, d)` and r `(B, 1)` are the balls.

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
