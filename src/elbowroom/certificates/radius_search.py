"""The largest radius for which a test succeeds, in few tests of a whole batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Brackets that have not become half as wide in so many steps are halved.
PATIENCE = 3
# Margins fall faster the farther one goes: a line through two points overestimates where they end.
CAUTION = 8
# By how much a step beyond all successes exceeds the last one, and where margins seem to end.
GROWTH = (1.25, 4.0)
BEYOND = 1.1

Points = tuple[Tensor, Tensor]
"""Radii `(B,)`, and what the margins have left there."""


def searched_radius(
    spare: Callable[[Tensor, Tensor], Tensor],
    at_zero: Tensor,
    start: Tensor,
    farthest: Tensor,
    steps: int,
    tolerance: float,
) -> Tensor:
    """Radii `(B,)`, each of which was itself tested: 0 where no test succeeded.

    spare:    from radii `(N,)` of the samples `(N,)` to what the margins have left there; a test
              succeeds above 0.
    at_zero:  `(B,)`, what they have left at the radius 0.
    start:    `(B,)`, small radii to begin with. farthest: `(B,)`: nothing is farther; a test that
              succeeds there makes the radius infinite.
    steps:    tests at most. A sample is done when its radius is within `tolerance` (relative) of
              where a parabola through its last points says that the margins end.
    """
    none = torch.full_like(start, torch.nan)
    low: Points = (torch.zeros_like(start), at_zero)
    high: Points = (torch.full_like(start, torch.inf), none)
    third: Points = (none, none)
    radius = torch.minimum(start, farthest)
    done = at_zero <= 0
    bracketed = torch.zeros_like(done)
    slow = torch.zeros_like(start)
    for _ in range(steps):
        rows = (~done).nonzero().squeeze(1)
        if not len(rows):
            break
        now = (radius, none.index_copy(0, rows, spare(radius[rows], rows)))
        good, bad = ~done & (now[1] > 0), ~done & ~(now[1] > 0)
        width = high[0] - low[0]
        third = _where(bad & bracketed, high, _where(good, low, third))
        low, high = _where(good, now, low), _where(bad, now, high)
        bracketed = high[0].isfinite()
        root = _root(low, high, third)
        inside = (root > low[0]) & (root <= high[0])
        done = done | (low[0] >= farthest)
        done |= bracketed & inside & (root - low[0] <= tolerance * low[0])
        slow = torch.where(2 * (high[0] - low[0]) > width, slow + 1, 0.0)
        # A success a little before the end is final, a failure behind it is not.
        root = root * (1 - tolerance / 2)
        root = torch.where(inside & (slow < PATIENCE), root, (low[0] + high[0]) / 2)
        outside = _beyond(at_zero, low, third)
        radius = torch.minimum(torch.where(bracketed, root, outside), farthest)
    return torch.where((low[0] >= farthest) & (at_zero > 0), torch.inf, low[0])


def _beyond(at_zero: Tensor, low: Points, third: Points) -> Tensor:
    """Radii beyond those of `low`, which succeeded and are the largest so far."""
    origin = (torch.zeros_like(at_zero), at_zero)
    root = _root(origin, low, third)
    first = ~(third[0] > 0)
    least, most = (factor * low[0] for factor in GROWTH)
    cautious = torch.maximum(root / CAUTION, least)
    return torch.where(first, cautious, (BEYOND * root).clamp(least, most)).nan_to_num(
        torch.inf, torch.inf
    )


def _root(a: Points, b: Points, third: Points) -> Tensor:
    """Where the parabola through three points ends, the line through two if there is no third."""
    width = b[0] - a[0]
    slope = (b[1] - a[1]) / width
    move = third[0] - a[0]
    bend = (third[1] - a[1] - slope * move) / (move * (third[0] - b[0]))
    bend = torch.where(bend.isfinite(), bend, 0.0)
    steep = slope - bend * width  # the slope at `a`
    return a[0] + 2 * a[1] / ((steep * steep - 4 * bend * a[1]).sqrt() - steep)


def _where(mask: Tensor, new: Points, old: Points) -> Points:
    return torch.where(mask, new[0], old[0]), torch.where(mask, new[1], old[1])
