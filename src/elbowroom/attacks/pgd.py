"""Projected gradient descent in a ball of given radius."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from elbowroom.attacks.ball import BallAttack, Observer, uniform_in_distance
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.norms import L2, Linf, Norm, per_sample
from elbowroom.optimise import Adam

__all__ = ["PGD", "StepRule", "descend", "uniform_in_distance"]

StepRule = Literal["gradient", "sign", "adam"]


@dataclass(frozen=True, kw_only=True)
class PGD(BallAttack):
    """Projected gradient descent on the loss inside a ball, with restarts.

    Madry et al. 2018; LRA paper, section 5; Manifold paper, sections 3.2 and E (starts uniform in
    distance and direction, eq. 19; their eq. 18 corrected: the perturbation is scaled, not the
    image). Answers "is there an example within eps?"; with `radius_steps` it becomes a
    minimal-norm attack. The other fields are those of `BallAttack`.

    step_size:    length of a step in `norm` (of Adam: the learning rate); eps/4 by default.
    rule:         "gradient" (normalised to unit L2 length), "sign", or "adam"; by default the
                  steepest descent of the norm, that is "gradient" in L2 and "sign" in Linf.
                  Sign and Adam steps do not follow the gradient, so in L2 they end beside the
                  nearest point even on linear models.
    """

    step_size: float | None = None
    rule: StepRule | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None and not 0 < self.step_size < math.inf:
            raise ValueError(f"step_size must be positive and finite, not {self.step_size}")

    @classmethod
    def published_lra(
        cls, eps: float, restarts: int = 1, *, batch_size: int | None = None, seed: int = 0
    ) -> PGD:
        """The LRA paper's, section 5: L2, 40 steps of eps/4 from random starts in the ball.

        restarts: 1, 1,000 (its provably robust networks) or 10,000. The paper does not say how it
        draws points of the ball; here they are uniform in distance and direction.
        """
        return cls(eps=eps, restarts=restarts, batch_size=batch_size, seed=seed)

    @classmethod
    def published_manifold(
        cls, norm: Norm = Linf, *, batch_size: int | None = None, seed: int = 0
    ) -> PGD:
        """The Manifold paper's: eps 0.3 in Linf (section 3.2) or 1.5 in L2 (section E).

        40 Adam steps with learning rate 0.005 from 5 random starts, ended by the first success;
        eq. 18 in its corrected form. Both radii are for inputs in [0, 1].
        """
        return cls(
            norm=norm, eps=0.3 if norm == Linf else 1.5, rule="adam", step_size=0.005, restarts=5,
            batch_size=batch_size, seed=seed,
        )  # fmt: skip

    def descend(
        self,
        clf: Classifier,
        x: Tensor,
        aim: Goal,
        delta: Tensor,
        radius: Tensor,
        observe: Observer,
    ) -> Tensor:
        size = radius / 4 if self.step_size is None else torch.full_like(radius, self.step_size)
        rule = self.rule or ("sign" if self.norm == Linf else "gradient")
        return descend(
            clf, x, delta, aim.loss, norm=self.norm, radius=radius, steps=self.steps,
            step_size=size, rule=rule, observe=observe,
        )  # fmt: skip


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
