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
# Where values cancel on the way to the logits, their rounding is larger than that. A point that
# fails by so little is moved away from the sample by these parts of its distance, in ulps.
NUDGES = (8, 64, 512)


def safely_met(goal: Goal, logits: Tensor) -> Tensor:
    """`(N,)` bool: the goal is met by more than the rounding error of the logits."""
    slack = ROUNDING_ULPS * torch.finfo(logits.dtype).eps * logits.abs().amax(dim=1)
    return goal.met(logits) & (goal.margin(logits) <= -slack)


def shorten(clf: Classifier, x: Tensor, found: Tensor, goal: Goal, steps: int) -> Tensor:
    """Bisect between `x` and `found` `(N, *shape)` for a nearer point that meets the goal.

    Where `found` does not meet it, not even a few ulps farther, `found` is returned.
    """
    low = x.new_zeros(len(x))
    high = torch.ones_like(low)
    found, usable = _nudged(clf, x, found, goal)
    best = found
    for _ in range(steps):
        middle = (low + high) / 2
        point = clf.clamp(x + per_sample(middle, x) * (found - x))
        met = usable & safely_met(goal, clf.logits(point))
        best = torch.where(per_sample(met, x), point, best)
        high = torch.where(met, middle, high)
        low = torch.where(met, low, middle)
    return best


def _nudged(clf: Classifier, x: Tensor, found: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    """`found`, a little farther where only that meets the goal safely; and where it is met."""
    met = safely_met(goal, clf.logits(found))
    for ulps in NUDGES:
        if bool(met.all()):
            break
        farther = clf.clamp(found + ulps * torch.finfo(x.dtype).eps * (found - x))
        there = ~met & safely_met(goal, clf.logits(farther))
        found = torch.where(per_sample(there, x), farther, found)
        met = met | there
    return found, met


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


def shorten_by_secants(clf: Classifier, x: Tensor, found: Tensor, goal: Goal, steps: int) -> Tensor:
    """As `shorten`, for piecewise affine networks: a few steps find the crossing.

    The margin along a line is piecewise affine, so that the secant through the ends of a bracket
    soon meets it; every third step bisects. `found` may lie outside of the box, where the line
    goes on along its faces.
    """
    low, high = x.new_zeros(len(x)), x.new_ones(len(x))
    low_margin = goal.margin(clf.logits(x))
    best = clf.clamp(found)
    logits = clf.logits(best)
    usable, high_margin = safely_met(goal, logits), goal.margin(logits)
    for step in range(steps):
        slack = 2 * ROUNDING_ULPS * torch.finfo(x.dtype).eps * logits.abs().amax(dim=1)
        share = (low_margin + slack) / (low_margin - high_margin)
        if step % 3 == 2:
            share = torch.full_like(share, 0.5)
        middle = low + share.nan_to_num(0.5).clamp(0.0, 1.0) * (high - low)
        point = clf.clamp(x + per_sample(middle, x) * (found - x))
        logits = clf.logits(point)
        margin, met = goal.margin(logits), usable & safely_met(goal, logits)
        best = torch.where(per_sample(met, x), point, best)
        high, high_margin = torch.where(met, middle, high), torch.where(met, margin, high_margin)
        low, low_margin = torch.where(met, low, middle), torch.where(met, low_margin, margin)
    return best
