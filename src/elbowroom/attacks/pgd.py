"""Projected gradient descent in a ball of given radius."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.line_search import shorten
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.norms import L2, Linf, Norm, per_sample
from elbowroom.optimise import Adam, Best
from elbowroom.sampling import SampleRng

StepRule = Literal["gradient", "sign", "adam"]


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Projected gradient descent on the loss inside a ball, with restarts.

    Madry et al. 2018; LRA paper, section 5 (40 steps of eps/4, starts in the ball); Manifold
    paper, sections 3.2 and E (Adam steps, starts uniform in distance and direction, eq. 19;
    their eq. 18 corrected: the perturbation is scaled, not the image). Answers "is there an
    example within eps?"; with `radius_steps` it becomes a minimal-norm attack.

    norm:         L2 or Linf.
    eps:          radius of the ball, in the input's units.
    steps:        per restart.
    step_size:    length of a step in `norm` (of Adam: the learning rate); eps/4 by default.
    rule:         "gradient" (normalised to unit L2 length), "sign", or "adam"; by default the
                  steepest descent of the norm, that is "gradient" in L2 and "sign" in Linf.
                  Sign and Adam steps do not follow the gradient, so in L2 they end beside the
                  nearest point even on linear models.
    restarts:     runs from random starts; a sample that has succeeded is left alone.
    random_start: whether the first run starts at random too, or at the sample.
    early_stop:   leave a sample alone at its first success (Manifold paper). Otherwise every run
                  goes on to the end, and the line from the sample to its last point is searched
                  too, which finds nearer examples.
    radius_steps: further rounds, in each of which a sample's radius is bisected, or doubled as long
                  as there was no success.
    """

    norm: Norm = L2
    eps: float
    steps: int = 40
    step_size: float | None = None
    rule: StepRule | None = None
    restarts: int = 1
    random_start: bool = True
    early_stop: bool = True
    radius_steps: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in (L2, Linf):
            raise ValueError(f"PGD works in L2 and Linf, not {self.norm}")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be positive and finite, not {self.eps}")

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        best = Best(x, self.norm)
        low = x.new_zeros(len(x))
        radius = torch.full_like(low, self.eps)
        for _ in range(self.radius_steps + 1):
            succeeded = self._attack_within(clf, x, goal, rng, radius, best)
            low = torch.where(succeeded, low, radius)
            # The nearest point found bounds the radius from above; before there is one, it grows.
            nearest = best.distance.to(x.dtype)
            radius = torch.where(nearest.isfinite(), (low + nearest) / 2, 2 * radius)
        return best.point

    def _attack_within(
        self,
        clf: Classifier,
        x: Tensor,
        goal: Goal,
        rng: SampleRng,
        radius: Tensor,
        best: Best,
    ) -> Tensor:
        succeeded = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        step_size = (
            radius / 4 if self.step_size is None else torch.full_like(radius, self.step_size)
        )
        rule = self.rule or ("sign" if self.norm == Linf else "gradient")
        for restart in range(self.restarts):
            # Drawn even if unused: a sample's numbers must not depend on its neighbours, whose
            # failures are the only reason for further restarts once it has succeeded itself.
            noise = uniform_in_distance(x, self.norm, radius, rng)
            if self.early_stop and bool(succeeded.all()):
                continue
            start = noise if self.random_start or restart else torch.zeros_like(x)
            running = ~succeeded if self.early_stop else torch.ones_like(succeeded)

            def offer(point: Tensor, logits: Tensor, running: Tensor = running) -> Tensor:
                nonlocal succeeded
                running = running & ~succeeded if self.early_stop else running
                met = best.offer(point, logits, goal, where=running)
                succeeded = succeeded | (running & met)
                return succeeded if self.early_stop else torch.zeros_like(succeeded)

            last = descend(
                clf, x, start, goal.loss, norm=self.norm, radius=radius, steps=self.steps,
                step_size=step_size, rule=rule, observe=offer,
            )  # fmt: skip
            if not self.early_stop:
                last = shorten(clf, x, last, goal, self.line_search_steps)
                offer(last, clf.logits(last))
        return succeeded


def uniform_in_distance(x: Tensor, norm: Norm, radius: Tensor, rng: SampleRng) -> Tensor:
    """Uniform in distance and direction: `u eps d/|d|` for normal d (Manifold paper, eq. 19)."""
    direction = rng.normal(x)
    share = rng.uniform(radius)
    length = norm.length(direction).to(x.dtype)
    return per_sample(share * radius / length, x) * direction


def descend(
    clf: Classifier,
    x: Tensor,
    delta: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    norm: Norm,
    radius: Tensor,
    steps: int,
    step_size: Tensor,
    rule: StepRule,
    observe: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Lower `loss(logits)` `(N,)` from `x + delta` by projected steps; returns the last point.

    radius, step_size: `(N,)`. observe: called with every point and its logits; returns which
    samples are finished, and the descent ends early when all are.
    """
    adam = Adam()
    size = per_sample(step_size, x)
    point = clf.clamp(x + norm.project(delta, radius))
    for _ in range(steps):
        logits, gradient = clf.gradient(point, loss)
        if observe is not None and bool(observe(point, logits).all()):
            return point
        if rule == "sign":
            step = gradient.sign()
        elif rule == "gradient":
            step = L2.steepest(gradient)
        else:
            step = adam.step(gradient)
        point = clf.clamp(x + norm.project(point - size * step - x, radius))
    if observe is not None:
        observe(point, clf.logits(point))
    return point
