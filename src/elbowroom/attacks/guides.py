"""Where to go and how far: the strongest other classes, and a first estimate of the distance."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.norms import Norm


def guides(clf: Classifier, x: Tensor, goal: Goal, runner_ups: int) -> list[Goal]:
    """The goals to descend towards in turn: `goal` itself, or the `runner_ups` strongest classes.

    Being misclassified is not a convex goal: the nearest other class is not always the one that
    the untargeted loss leads to.
    """
    if not runner_ups:
        return [goal]
    if not isinstance(goal, Misclassified):
        raise ValueError("runner_ups needs the goal Misclassified; this goal has its own target")
    logits = clf.logits(x).scatter(1, goal.labels[:, None], -torch.inf)
    order = logits.argsort(dim=1, descending=True, stable=True)
    return [ClassifiedAs(order[:, rank]) for rank in range(min(runner_ups, logits.shape[1] - 1))]


def first_order_distance(gap: Tensor, gradient: Tensor, norm: Norm) -> Tensor:
    """`(N,)`: how far a loss must be followed to fall by `gap` if it were linear.

    It gives attacks a scale, so that their step lengths fit inputs of any unit. 1 where the
    gradient vanishes.
    """
    estimate = gap.abs() / norm.dual.length(gradient).to(gap.dtype)
    return torch.where(estimate.isfinite() & (estimate > 0), estimate, 1.0)


def within_box(clf: Classifier, point: Tensor, gradient: Tensor) -> Tensor:
    """`gradient` `(N, *shape)` without the features whose descent would leave the input box."""
    # A few ulps inside still count as at the bound, or rounding would decide.
    slack = 16 * torch.finfo(point.dtype).eps
    low = point <= clf.lower + slack * clf.lower.abs().clamp(1.0, 1e30)
    high = point >= clf.upper - slack * clf.upper.abs().clamp(1.0, 1e30)
    return torch.where((low & (gradient > 0)) | (high & (gradient < 0)), 0.0, gradient)
