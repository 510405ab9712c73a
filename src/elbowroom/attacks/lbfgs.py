"""L-BFGS: the first attack, a penalty method with a quasi-Newton solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.guides import first_order_distance, guides, within_box
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.norms import L2, per_sample
from elbowroom.optimise import Best
from elbowroom.sampling import SampleRng

ARMIJO = 1e-4  # share of the predicted decrease that a step must bring
HALVINGS = 12  # of a step, at most


@dataclass(frozen=True, kw_only=True)
class LBFGS(Attack):
    """Minimise `c |r|^2 + loss(x + r)` in the input box by L-BFGS, with a search for c.

    Szegedy et al. 2014; Bounds thesis, section 2.5.1. The largest c is searched whose minimiser
    still succeeds (the thesis says the smallest, but the penalty falls with c). The length is
    squared, which is smooth at the sample and has the same minimisers for other c. The solver is a
    projected L-BFGS with backtracking, all samples in lock step. L2 only.

    steps:          of the solver, for each c; every one tries up to 13 points.
    search_steps:   values of c tried per sample: divided by 10 until one succeeds, then bisected
                    on a logarithmic scale.
    first_constant: the first c, in units of the loss per squared input unit; by default the one
                    that would balance both terms if the loss were linear.
    memory:         pairs of steps and changes of the gradient that model the curvature.
    loss:           what is added: "margin" (difference of logits), whose gradient seldom vanishes,
                    or "cross-entropy" (the paper).
    runner_ups:     0 for the untargeted attack; k to run towards each of the k strongest other
                    classes of the sample and keep the nearest success.
    """

    steps: int = 30
    search_steps: int = 9
    first_constant: float | None = None
    memory: int = 8
    loss: Literal["margin", "cross-entropy"] = "margin"
    runner_ups: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != L2:
            raise ValueError(f"the L-BFGS attack works in L2, not {self.norm}")
        if self.memory < 1:
            raise ValueError(f"memory must be an integer of at least 1, not {self.memory}")
        if self.first_constant is not None and not self.first_constant > 0:
            raise ValueError(f"first_constant must be positive, not {self.first_constant}")

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        best = Best(x, L2)
        for guide in guides(clf, x, goal, self.runner_ups):
            self._search_constant(clf, x, goal, guide, best)
        return best.point

    def _search_constant(
        self, clf: Classifier, x: Tensor, goal: Goal, guide: Goal, best: Best
    ) -> None:
        logits, gradient = clf.gradient(x, guide.margin)
        distance = first_order_distance(guide.margin(logits), gradient, L2)
        c = self._first_constant(guide.margin(logits).abs(), distance)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)  # a success, a failure
        for _ in range(self.search_steps):
            point = self._minimise(clf, x, guide, c, distance)
            logits = clf.logits(point)
            best.offer(point, logits, goal)
            succeeded = guide.met(logits)
            low = torch.where(succeeded, torch.maximum(low, c), low)
            high = torch.where(succeeded, high, torch.minimum(high, c))
            c = torch.where(low == 0, high / 10, torch.where(high.isinf(), 10 * low, high))
            c = torch.where((low > 0) & high.isfinite(), (low * high).sqrt(), c)

    def _first_constant(self, gap: Tensor, distance: Tensor) -> Tensor:
        if self.first_constant is not None:
            return torch.full_like(gap, self.first_constant)
        return gap.clamp(min=torch.finfo(gap.dtype).eps) / distance.square()

    def _minimise(
        self, clf: Classifier, x: Tensor, guide: Goal, c: Tensor, distance: Tensor
    ) -> Tensor:
        """The minimiser for fixed `c`, from the sample."""

        term = guide.loss if self.loss == "cross-entropy" else guide.margin

        def value(point: Tensor, logits: Tensor) -> Tensor:
            return c * (point - x).flatten(1).square().sum(dim=1) + term(logits)

        point = x
        history: list[tuple[Tensor, Tensor]] = []
        before: tuple[Tensor, Tensor] | None = None
        for _ in range(self.steps):
            logits, gradient = clf.gradient(point, term)
            gradient = gradient + 2 * per_sample(c, x) * (point - x)
            if before is not None:
                history = [*history, (point - before[0], gradient - before[1])][-self.memory :]
            before = (point, gradient)
            free = within_box(clf, point, gradient)
            direction = torch.where(free == 0, 0.0, -_inverse_hessian(history, free))
            # Not downhill, or no curvature known yet: as far as the boundary seemed at first.
            slope = (direction * gradient).flatten(1).sum(dim=1)
            plain = -per_sample(distance, x) * L2.steepest(free)
            usable = (slope < 0) & (len(history) > 0)
            direction = torch.where(per_sample(usable, x), direction, plain)
            point = _backtrack(clf, point, direction, gradient, value(point, logits), value)
        return point


def _inverse_hessian(history: list[tuple[Tensor, Tensor]], gradient: Tensor) -> Tensor:
    """The product with `gradient` by the two-loop recursion (Nocedal 1980), for each sample.

    Pairs without positive curvature are left out.
    """

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return per_sample((a * b).flatten(1).sum(dim=1), a)

    q = gradient
    shares = []
    for step, change in reversed(history):
        curvature = dot(step, change)
        good = curvature > 1e-10 * dot(change, change)
        weight = torch.where(good, 1 / torch.where(good, curvature, 1.0), 0.0)
        share = weight * dot(step, q)
        q = q - share * change
        shares.append((step, change, weight, share))
    for _, change, weight, _ in shares[:1]:  # the newest pair sets the scale
        size = weight * dot(change, change)
        q = torch.where(size > 0, q / torch.where(size > 0, size, 1.0), q)
    for step, change, weight, share in reversed(shares):
        q = q + step * (share - weight * dot(change, q))
    return q


def _backtrack(
    clf: Classifier,
    point: Tensor,
    direction: Tensor,
    gradient: Tensor,
    start: Tensor,
    value: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Halve the projected step until the value falls enough; stay where it never does."""
    result = point
    done = torch.zeros_like(start, dtype=torch.bool)
    share = 1.0
    for _ in range(HALVINGS + 1):
        trial = clf.clamp(point + share * direction)
        promised = (gradient * (trial - point)).flatten(1).sum(dim=1)
        falls = value(trial, clf.logits(trial)) <= start + ARMIJO * promised
        take = falls & ~done & (promised < 0)
        result = torch.where(per_sample(take, point), trial, result)
        done |= take
        if bool(done.all()):
            break
        share /= 2
    return result
