"""Nearest points of a plane in the input box: exact, in every norm, for a batch at once."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.norms import Norm, per_sample


def onto_plane(
    point: Tensor, gap: Tensor, normal: Tensor, lower: Tensor, upper: Tensor, norm: Norm
) -> Tensor:
    """The nearest `z` in the box, measured in `norm`, with `gap + <normal, z - point> = 0`.

    point: `(N, *shape)`, in the box `[lower, upper]` (which broadcast); gap: `(N,)`;
    normal: `(N, *shape)`. Where the plane misses the box, the corner of the box closest to it.
    """
    w = (per_sample(gap.sign(), normal) * normal).flatten(1)
    scale = w.abs().amax(dim=1)  # or squares of small numbers would underflow
    scale = torch.where(scale > 0, scale, 1.0)
    down = w > 0
    w, amount = w.abs() / scale[:, None], gap.abs() / scale
    room = torch.where(down, (point - lower).flatten(1), (upper - point).flatten(1)).clamp(min=0)
    if norm.p == 1:
        move = _greedy(w, room, amount)
    else:
        # In L2 a feature moves in proportion to its weight, in Linf like all others, until its
        # bound stops it.
        pace = w if norm.p == 2 else torch.ones_like(w)
        level = _water_level(w * pace, room / pace.clamp(min=torch.finfo(w.dtype).tiny), amount)
        move = torch.where(w > 0, torch.minimum(level[:, None] * pace, room), 0.0)
    moved = torch.where(down, -move, move).view_as(point)
    return torch.maximum(torch.minimum(point + moved, upper), lower)


def _water_level(rate: Tensor, full: Tensor, amount: Tensor) -> Tensor:
    """`(N,)`: the level at which `sum_j rate_j min(level, full_j) = amount`; inf if there is none.

    rate, full: `(N, d)`, nonnegative; `full` may be infinite. The sum is piecewise linear and
    concave in the level, so that Newton's method from 0 rises to the solution without passing it,
    and ends exactly: it closes at least one more feature in every step, usually very many.
    """
    volume = torch.where(rate > 0, rate * full, 0.0)
    level = torch.zeros_like(amount)
    while True:
        rising = full > level[:, None]
        slope = torch.where(rising, rate, 0.0).sum(dim=1)
        missing = amount - torch.where(rising, 0.0, volume).sum(dim=1)
        next_level = missing / slope
        higher = next_level > level
        if not bool(higher.any()):
            return level
        level = torch.where(higher, next_level, level)


def _greedy(w: Tensor, room: Tensor, amount: Tensor) -> Tensor:
    """`(N, d)`: moves of the least sum with `sum_j w_j move_j = amount`: largest weights first."""
    w, order = w.sort(dim=1, descending=True, stable=True)
    room = torch.where(w > 0, room.gather(1, order), 0.0)
    volume = torch.where(w > 0, w * room, 0.0).cumsum(dim=1)
    before = torch.cat([torch.zeros_like(volume[:, :1]), volume[:, :-1]], dim=1)
    missing = (amount[:, None] - before).clamp(min=0)
    move = torch.where(w > 0, torch.minimum(missing / torch.where(w > 0, w, 1.0), room), 0.0)
    return torch.zeros_like(move).scatter(1, order, move)
