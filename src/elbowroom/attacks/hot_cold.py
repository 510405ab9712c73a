"""Hot/cold: towards the features of one class, away from those of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.guides import guides
from elbowroom.attacks.line_search import nearest_crossing
from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.norms import L2, Norm
from elbowroom.optimise import Best
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class HotCold(Attack):
    """One backward pass of a vector that heats a target class and cools the present one.

    Rozsa et al. 2016; Bounds thesis, section 2.5.3 and eq. 2.9: `omega` is `|h_hot|` at the hot
    class, `-|h_cold|` at the cold one and 0 elsewhere, where h are the logits; the input moves
    along the gradient of `<omega, h>` as far as needed. (Eq. 2.9 has `-h_cold`, which would heat
    the cold class where its logit is negative.) Gives one example per hot class; they are not
    minimal, nor meant to be.

    norm:       in which the result is measured; the direction is the gradient in any case.
    runner_ups: how many of the strongest other classes are hot in turn; the nearest example is
                kept. With the goal ClassifiedAs, its target is hot instead.
    max_length: largest L2 length of the step, in the input's units; by default the diameter of the
                input box.
    """

    norm: Norm = L2
    runner_ups: int = 1
    max_length: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.runner_ups < 1:
            raise ValueError(f"runner_ups must be at least 1, not {self.runner_ups}")
        if self.max_length is not None and not self.max_length > 0:
            raise ValueError(f"max_length must be positive, not {self.max_length}")

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        logits = clf.logits(x)
        if isinstance(goal, Misclassified):
            cold, aims = goal.labels, guides(clf, x, goal, self.runner_ups)
        elif isinstance(goal, ClassifiedAs):
            cold, aims = logits.argmax(dim=1), [goal]
        else:
            raise ValueError(f"hot/cold cannot aim at {type(goal).__name__}")
        best = Best(x, self.norm)
        for aim in aims:
            assert isinstance(aim, ClassifiedAs)
            size = logits.abs()
            omega = torch.zeros_like(logits)
            omega = omega.scatter(1, cold[:, None], -size.gather(1, cold[:, None]))
            hot = aim.targets[:, None]
            omega = omega.scatter(1, hot, size.gather(1, hot))
            _, gradient = clf.vjp(x, omega)
            direction = L2.steepest(gradient)
            found = nearest_crossing(clf, x, direction, self._longest(clf, x), goal)
            best.offer(found, clf.logits(found), goal)
        return best.point

    def _longest(self, clf: Classifier, x: Tensor) -> Tensor:
        if self.max_length is not None:
            return torch.full((len(x),), self.max_length, dtype=x.dtype, device=x.device)
        if clf.bounded:
            return L2.length((clf.upper - clf.lower).expand(x.shape)).to(x.dtype)
        return 1e3 * (1 + L2.length(x)).to(x.dtype)
