"""Random points on the decision boundary, far from the sample as a rule: starts for walks."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.attacks.guides import first_order_distance
from elbowroom.attacks.line_search import nearest_crossing
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.norms import L2, per_sample
from elbowroom.sampling import SampleRng

TRIES = 20
# How much coarser than the input the noise is: smooth patterns are taken for more classes than
# white noise is, and walks from them end nearer to the sample.
COARSENESS = (4, 8, 2)
HALVINGS, BISECTIONS = 5, 8
INTERPOLATION = {2: "linear", 3: "bilinear"}


def to_boundary(clf: Classifier, x: Tensor, far: Tensor, goal: Goal) -> Tensor:
    """Points `(N, *shape)` near the boundary on the lines from `x` to `far`, or `far` itself."""
    longest = torch.ones(len(x), dtype=x.dtype, device=x.device)
    return nearest_crossing(
        clf, x, far - x, longest, goal, halvings=HALVINGS, bisections=BISECTIONS
    )


def random_boundary_points(
    clf: Classifier, x: Tensor, goal: Goal, numbers: Tensor, rng: SampleRng
) -> Tensor:
    """For each sample a point `(N, *shape)` near the boundary, on the line to a random point.

    numbers: `(N,)`, of the starts of a sample; they choose how smooth its noise is.
    rng:     one stream a start.

    The random point is uniform in the input box (where that is infinite, in cubes around the
    sample that grow), for images and sequences at a lower resolution. Where no try meets the
    goal, the sample itself is returned.
    """
    bounded = clf.lower.isfinite() & clf.upper.isfinite()
    logits, gradient = clf.gradient(x, goal.margin)
    scale = per_sample(first_order_distance(goal.margin(logits), gradient, L2), x)
    found = x
    missing = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for number in range(TRIES):
        noise = _smooth_noise(x, numbers + number, rng)
        inside = clf.lower + noise * (clf.upper - clf.lower)
        free = x + 2**number * scale / math.sqrt(x[0].numel()) * (2 * noise - 1)
        point = clf.clamp(torch.where(bounded, inside, free))
        met = missing & goal.met(clf.logits(point))
        found = torch.where(per_sample(met, x), point, found)
        missing = missing & ~met
        if not bool(missing.any()):
            break
    return to_boundary(clf, x, found, goal)


def _smooth_noise(x: Tensor, numbers: Tensor, rng: SampleRng) -> Tensor:
    """Noise in [0, 1] with the shape of `x`, smooth along spatial dimensions."""
    spatial = x.shape[2:]
    if len(spatial) + 1 not in INTERPOLATION or min(spatial) < 4:
        return rng.uniform(x)
    noise = torch.empty_like(x)
    for choice, coarseness in enumerate(COARSENESS):
        rows = (numbers % len(COARSENESS) == choice).nonzero().squeeze(1)
        if len(rows):
            size = [max(2, math.ceil(length / coarseness)) for length in spatial]
            coarse = rng.take(rows).uniform(x.new_zeros(len(rows), x.shape[1], *size))
            mode = INTERPOLATION[len(spatial) + 1]
            fine = F.interpolate(coarse, size=spatial, mode=mode, align_corners=False)
            # Interpolation averages; restore the contrast.
            noise[rows] = (2 * fine - 0.5).clamp(0, 1)
    return noise
