"""Slopes of a relaxation's lines, chosen by gradient ascent on the margins (Xu et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.certificates.relaxation import Enclosure, Relaxation
from elbowroom.regions.envelopes import Envelope
from elbowroom.regions.units import Sloped, UnitEnvelope, Units

LEARNING_RATE = 0.1


def improved_margins(
    relaxation: Relaxation, enclosure: Enclosure, y: Tensor, radius: Tensor, steps: int
) -> Tensor:
    """Lower bounds `(B, K)` on `f_y - f_j`, the best of all `steps`.

    Every slope is sound, since the intercepts are fitted to it; what ascends is the sum of the
    margins that are not positive yet.
    """
    slopes: dict[int, tuple[Tensor, Tensor]] = {}
    for index, kind in relaxation.kinds.items():
        envelope = enclosure.envelopes[index]
        if isinstance(kind, Sloped):
            assert isinstance(envelope, UnitEnvelope)
            pair = (envelope.below[0].clone(), envelope.above[0].clone())
            slopes[index] = (pair[0].requires_grad_(), pair[1].requires_grad_())
    parameters = [slope for pair in slopes.values() for slope in pair]
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    best: Tensor | None = None
    for _ in range(steps):
        with torch.enable_grad():
            envelopes = dict(enclosure.envelopes)
            for index, pair in slopes.items():
                envelopes[index] = _lines(relaxation, enclosure, index, pair)
            margins = relaxation.margins(y, envelopes, radius)
            loss = -margins.clamp(max=0).sum()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        best = margins.detach() if best is None else torch.maximum(best, margins.detach())
        optimiser.step()
    assert best is not None
    return best


def _lines(
    relaxation: Relaxation, enclosure: Enclosure, index: int, pair: tuple[Tensor, Tensor]
) -> Envelope:
    kind = relaxation.kinds[index]
    assert isinstance(kind, Sloped)
    centre = relaxation.values[kind.source.index]
    below, above = enclosure.low[index], enclosure.high[index]
    low, high, _ = kind.interval(below, above, centre)
    steepest = kind.steepest
    limited = (pair[0].clamp(*steepest), pair[1].clamp(*steepest))
    lines = kind.lines(limited, low, high)
    if isinstance(kind, Units):
        return kind.exact(kind.settled(below, above), lines)
    return UnitEnvelope(*lines)
