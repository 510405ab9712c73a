"""The nearest sample of a manifold, by descent through its decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.manifold.decoder import Codes, Decoder
from elbowroom.norms import L2, per_sample
from elbowroom.optimise import Adam

DECAY, DECAY_EVERY = 0.95, 10


@dataclass(frozen=True, eq=False)
class Projection:
    """codes: of the samples `nearest` `(N, *shape)`. distance: `(N,)`, L2, from what was given."""

    codes: Codes
    nearest: Tensor
    distance: Tensor


def project(
    decoder: Decoder, x: Tensor, start: Codes, *, steps: int = 100, learning_rate: float = 0.09
) -> Projection:
    """The nearest samples to `x` `(N, *shape)` with the context of `start`, found from there.

    Manifold paper, eq. 10 and suppl. C: Adam, its rate lowered by 5 % every 10 steps; the codes
    stay in their bounds. What counts is the best of all steps, the start included, so that the
    distance is an upper bound that more steps never raise.
    """
    adam = Adam()
    z = decoder.clamp(start.z.detach())
    nearest, best = torch.zeros_like(x), z
    distance = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    for step in range(steps + 1):
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            sample = decoder.decode(z, start.context)
            square = (sample - x).square().flatten(1).sum(dim=1)
            gradient = torch.autograd.grad(square.sum(), z)[0] if step < steps else None
        sample, z = sample.detach(), z.detach()
        now = L2.length(sample.double() - x.double())
        closer = now < distance
        nearest = torch.where(per_sample(closer, x), sample, nearest)
        best = torch.where(closer[:, None], z, best)
        distance = torch.where(closer, now, distance)
        if gradient is not None:
            rate = learning_rate * DECAY ** (step // DECAY_EVERY)
            z = decoder.clamp(z - rate * adam.step(gradient))
    return Projection(start.at(best), nearest, distance)
