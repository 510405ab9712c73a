"""Random points near known ones, whose regions come next in a walk."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.norms import L2, per_sample
from elbowroom.sampling import SampleRng


def sample_near(
    clf: Classifier,
    point: Tensor,
    x: Tensor,
    rng: SampleRng,
    *,
    q: float,
    gamma: float | Tensor,
    least: float = 0.0,
) -> Tensor:
    """Points `(N, *shape)` near `point`, rather on the side of `x` (LRA, eq. 12 to 14).

    Eq. 12 is missing in the text; as in the released code the angle is uniform in [0, pi],
    and negated with probability `1 - q`. The radius is the distance to `x` times U^gamma, with one
    gamma for all or `(N,)`. `least` is used in place of a smaller distance, e.g. where `point` is
    `x` itself.
    """
    delta = point - x
    draws = rng.uniform(delta.new_zeros(len(point), 3))
    unit = L2.steepest(delta)
    noise = rng.normal(delta)
    across = noise - per_sample((noise * unit).flatten(1).sum(dim=1), unit) * unit
    angle = math.pi * torch.where(draws[:, 1] < q, draws[:, 0], -draws[:, 0])
    direction = per_sample(angle.cos(), delta) * L2.steepest(across)
    direction = direction - per_sample(angle.sin(), delta) * unit
    radius = L2.length(delta).clamp(min=least).to(delta.dtype) * draws[:, 2] ** gamma
    return clf.clamp(point + per_sample(radius, delta) * direction)
