"""Where to go and how far: which other classes, and a first estimate of the distance."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.norms import Norm

COMPARED = 9  # classes whose boundaries are linearised, to rank them


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


def likely_targets(
    clf: Classifier, x: Tensor, goal: Misclassified, count: int, norm: Norm
) -> Tensor:
    """`(N, count)`: the classes to look towards, or all the others if they are fewer.

    In turn the class whose linearised boundary is nearest, as in DeepFool, and the one with the
    largest logit, each once: the first is right where the network is nearly linear, the second
    does not depend on the slope at one point. Of many classes, only the strongest are compared.
    """
    own = goal.labels[:, None]
    logits = clf.logits(x)
    compared = min(max(count, COMPARED), logits.shape[1] - 1)
    others = logits.scatter(1, own, -torch.inf).argsort(dim=1, descending=True, stable=True)
    others = others[:, :compared]
    logits, rows = clf.jacobian_rows(x, torch.cat([own, others], dim=1))
    gaps = logits.gather(1, own) - logits.gather(1, others)
    normals = rows[:, :1] - rows[:, 1:]
    distance = first_order_distance(gaps.flatten(), normals.flatten(0, 1), norm).view_as(gaps)
    by_distance = distance.argsort(dim=1, stable=True).argsort(dim=1)
    by_strength = torch.arange(compared, device=x.device)
    turn = torch.minimum(2 * by_distance, 2 * by_strength + 1)
    return others.gather(1, turn.argsort(dim=1, stable=True))[:, :count]


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
