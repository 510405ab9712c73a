"""The largest radius for which a test succeeds, in few tests of a whole batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# A step inside a bracket keeps this far, relative to its width, from both ends.
SAFEGUARD = 0.15
GROWTH = 4.0


def searched_radius(
    spare: Callable[[Tensor], Tensor], at_zero: Tensor, guess: Tensor, farthest: Tensor, steps: int
) -> Tensor:
    """Radii `(B,)`, each of which was itself tested: 0 where no test succeeded.

    spare:    from radii `(B,)` to what the margins have left there; a test succeeds above 0.
    at_zero:  `(B,)`, what they have left at the radius 0.
    guess:    `(B,)`, the first radii. farthest: `(B,)`: nothing is farther; a test that succeeds
              there makes the radius infinite.
    steps:    tests.

    Regula falsi between the largest success and the smallest failure.
    """
    low, spare_low = torch.zeros_like(guess), at_zero
    high, spare_high = torch.full_like(guess, torch.inf), torch.full_like(guess, -1.0)
    radius = torch.minimum(guess, farthest)
    for _ in range(steps):
        found = spare(radius)
        good = found > 0
        low, spare_low = torch.where(good, radius, low), torch.where(good, found, spare_low)
        high, spare_high = torch.where(good, high, radius), torch.where(good, spare_high, found)
        share = (spare_low / (spare_low - spare_high)).nan_to_num(0.5)
        between = low + (high - low) * share.clamp(SAFEGUARD, 1 - SAFEGUARD)
        radius = torch.where(high.isinf(), GROWTH * radius, between)
        radius = torch.minimum(radius, farthest)
    return torch.where((low >= farthest) & (at_zero > 0), torch.inf, low)
