"""Slopes of a relaxation's lines, chosen by gradient ascent on the margins (Xu et al. 2021)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor

from elbowroom.certificates.relaxation import Enclosure, Relaxation
from elbowroom.graph.ops import PiecewiseAffine
from elbowroom.regions.envelopes import Envelope
from elbowroom.regions.units import Sloped, UnitEnvelope, Units

LEARNING_RATE = 0.1


def improved_margins(
    relaxation: Relaxation, enclosure: Enclosure, y: Tensor, radius: Tensor, steps: int
) -> Tensor:
    """Lower bounds `(B, K)` on `f_y - f_j`, the best of all `steps`.

    Every slope is sound, since the intercepts are fitted to it. Each class has slopes of its own,
    in the layers between the bounds on the units and the logits.
    """
    count, classes = relaxation.values[-1].shape
    owner = torch.arange(count, device=y.device).repeat_interleave(classes)
    relaxed = relaxation.repeated(owner)
    pairs = relaxation.pairs(y).flatten(0, 1)[:, None]
    low = {index: bound[owner] for index, bound in enclosure.low.items()}
    high = {index: bound[owner] for index, bound in enclosure.high.items()}
    free = _Free(relaxed, low, high)
    if not free.slopes:
        return relaxation.margins(y, enclosure.envelopes, radius)
    optimiser = torch.optim.Adam(free.slopes, lr=LEARNING_RATE)
    best = torch.full((len(owner), 1), -torch.inf, dtype=torch.float64, device=y.device)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * step / steps)) / 2
        with torch.enable_grad():
            margins = relaxed.bound(pairs, free.envelopes(), radius[owner])
            optimiser.zero_grad()
            (-margins.sum()).backward()  # type: ignore[no-untyped-call]
        best = torch.maximum(best, margins.detach())
        for slope in free.slopes:  # a row or a ball of size 0 has no direction to ascend in
            slope.grad = cast(Tensor, slope.grad).nan_to_num(0.0, 0.0, 0.0)
        optimiser.step()
    return best.view(count, classes)


class _Free:
    """The lines whose slopes can be chosen, from the usual ones."""

    def __init__(
        self, relaxation: Relaxation, low: dict[int, Tensor], high: dict[int, Tensor]
    ) -> None:
        self.relaxation, self.low, self.high = relaxation, low, high
        self.fixed: dict[int, Envelope] = {}
        self.pairs: dict[int, tuple[Tensor, Tensor]] = {}
        self.slopes: list[Tensor] = []
        for index, kind in relaxation.kinds.items():
            centre = relaxation.values[kind.source.index]
            pieces = kind.settled(low[index], high[index])
            self.fixed[index] = kind.envelope(pieces, low[index], high[index], centre)
            if isinstance(kind, Sloped):
                ends = kind.interval(low[index], high[index], centre)
                below, above = kind.usual_slopes(*ends)
                convex, concave = _shape(kind)
                # Above a convex function the chord is best, and below a concave one.
                self.slopes += [below.requires_grad_()] if not concave else []
                self.slopes += [above.requires_grad_()] if not convex else []
                self.pairs[index] = (below, above)

    def envelopes(self) -> dict[int, Envelope]:
        found = dict(self.fixed)
        for index, slopes in self.pairs.items():
            kind = self.relaxation.kinds[index]
            assert isinstance(kind, Sloped)
            centre = self.relaxation.values[kind.source.index]
            low, high, _ = kind.interval(self.low[index], self.high[index], centre)
            below, above = (slope.clamp(*kind.steepest) for slope in slopes)
            lines = kind.lines((below, above), low, high)
            if isinstance(kind, Units):
                found[index] = kind.exact(kind.settled(self.low[index], self.high[index]), lines)
            else:
                found[index] = UnitEnvelope(*lines)
        return found


def _shape(kind: Sloped) -> tuple[bool, bool]:
    """Whether the activation is convex, and whether it is concave."""
    if not isinstance(kind.node.op, PiecewiseAffine):
        return False, False
    bends = kind.node.op.slopes.diff(dim=0)
    return bool((bends >= 0).all()), bool((bends <= 0).all())
