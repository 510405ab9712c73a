"""The inner maximum of adversarial objectives, and what is trained on in its place."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from elbowroom.attacks.ball import at_share
from elbowroom.attacks.pgd import StepRule, descend
from elbowroom.classifier import Classifier
from elbowroom.goals import Misclassified
from elbowroom.norms import Norm, per_sample
from elbowroom.optimise import Best

Search = Literal["full", "first", "random"]


def check_search(how: str) -> None:
    if how not in get_args(Search):
        raise ValueError(f"search must be one of {', '.join(get_args(Search))}, not {how!r}")


def search(
    clf: Classifier,
    x: Tensor,
    start: Tensor,
    y: Tensor,
    *,
    norm: Norm,
    radius: Tensor,
    steps: int,
    step_size: float,
    rule: StepRule,
    how: Search,
) -> Tensor:
    """Points `(N, *shape)` in the balls of `radius` `(N,)` around `x`, from `x + start`.

    how: "full": the last of all steps on the loss; "first": the first that is misclassified, or
    the last; "random": the start.
    """
    if how == "random":
        return clf.clamp(x + norm.project(start, radius))
    goal, first = Misclassified(y), Best(x, norm)

    def observe(point: Tensor, logits: Tensor) -> Tensor:
        first.offer(point, logits, goal, where=~first.met)
        return first.met

    last = descend(
        clf, x, start, goal.loss, norm=norm, radius=radius, steps=steps,
        step_size=torch.full_like(radius, step_size), rule=rule,
        observe=observe if how == "first" else None,
    )  # fmt: skip
    return torch.where(per_sample(first.met, x), first.point, last) if how == "first" else last


def uniform_in_distance(x: Tensor, norm: Norm, radius: Tensor, generator: Generator) -> Tensor:
    """Uniform in distance and direction: `u eps d/|d|` for normal d (Manifold paper, eq. 19)."""
    direction = torch.randn(x.shape, generator=generator).to(x)
    share = torch.rand(len(x), generator=generator).to(radius)
    return at_share(direction, share, norm, radius)
