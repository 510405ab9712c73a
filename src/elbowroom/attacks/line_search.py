"""Searches along a line, batched: every step is one forward pass of all samples."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.norms import per_sample

# A point counts as across the boundary only if its margin exceeds the rounding of the logits,
# which changes with the size of the batch: the result must hold for whoever checks it later.
ROUNDING_ULPS = 16


def safely_met(goal: Goal, logits: Tensor) -> Tensor:
    """`(N,)` bool: the goal is met by more than the rounding error of the logits."""
    slack = ROUNDING_ULPS * torch.finfo(logits.dtype).eps * logits.abs().amax(dim=1)
    return goal.met(logits) & (goal.margin(logits) <= -slack)


def shorten(clf: Classifier, x: Tensor, found: Tensor, goal: Goal, steps: int) -> Tensor:
    """Bisect between `x` and `found` `(N, *shape)` for a nearer point that meets the goal.

    Where `found` does not meet it, `found` is returned.
    """
    low = x.new_zeros(len(x))
    high = torch.ones_like(low)
    best = found
    usable = safely_met(goal, clf.logits(found))
    for _ in range(steps):
        middle = (low + high) / 2
        point = clf.clamp(x + per_sample(middle, x) * (found - x))
        met = usable & safely_met(goal, clf.logits(point))
        best = torch.where(per_sample(met, x), point, best)
        high = torch.where(met, middle, high)
        low = torch.where(met, low, middle)
    return best


def nearest_crossing(
    clf: Classifier,
    x: Tensor,
    direction: Tensor,
    longest: Tensor,
    goal: Goal,
    *,
    halvings: int = 12,
    bisections: int = 20,
) -> Tensor:
    """The first point `x + eps * direction`, in the box, that meets the goal.

    longest: `(N,)`, the largest eps. Lengths `longest`, `longest/2`, ... are tried, down to
    `longest / 2^halvings`; then the interval below the shortest success is bisected. (Algorithm
    2.1 of the Bounds thesis bisects at once, which misses a crossing that is left again.)
    Where nothing meets the goal, the longest step is returned.
    """

    def at(eps: Tensor) -> Tensor:
        return clf.clamp(x + per_sample(eps, x) * direction)

    high = longest.clone()
    ever = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    eps = longest.clone()
    for _ in range(halvings + 1):
        met = safely_met(goal, clf.logits(at(eps)))
        high = torch.where(met, eps, high)
        ever |= met
        eps = eps / 2
    low = torch.where(high <= longest / 2**halvings, 0.0, high / 2)
    for _ in range(bisections):
        middle = (low + high) / 2
        met = safely_met(goal, clf.logits(at(middle)))
        high = torch.where(met, middle, high)
        low = torch.where(met, low, middle)
    return at(torch.where(ever, high, longest))
