"""Fast gradient sign and fast gradient value, with a line search for the smallest step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.line_search import nearest_crossing
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.norms import L2, Linf, Norm
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class FGS(Attack):
    """Fast gradient sign: one gradient, its sign, the smallest step that works.

    Goodfellow et al. 2015; Bounds thesis, section 2.5.2 and Algorithm 2.1. Cheap, and minimal
    only for linear two-class models and the Linf norm. Fails where the loss's gradient has
    underflowed to zero.

    norm:    in which the result is measured; the direction is the sign in any case.
    max_eps: largest step per input value, in the input's units; by default the widest range
             that the input bounds allow (the thesis: 100 of 255 grey levels).
    """

    norm: Norm = Linf
    max_eps: float | None = None

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        return _search(clf, x, goal, Linf, self.max_eps)


@dataclass(frozen=True, kw_only=True)
class FGV(Attack):
    """Fast gradient value: like FGS along the gradient itself.

    Rozsa et al. 2016; Bounds thesis, section 2.5.4. Minimal only for linear two-class models
    and the L2 norm.

    max_eps: largest L2 length of the step, in the input's units; by default the diameter of
             the input box.
    """

    norm: Norm = L2
    max_eps: float | None = None

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        return _search(clf, x, goal, L2, self.max_eps)


def _search(
    clf: Classifier, x: Tensor, goal: Goal, step_norm: Norm, max_eps: float | None
) -> Tensor:
    _, gradient = clf.gradient(x, goal.loss)
    direction = -step_norm.steepest(gradient)
    if max_eps is not None:
        longest = torch.full((len(x),), max_eps, dtype=x.dtype, device=x.device)
    elif clf.bounded:
        widest = (clf.upper - clf.lower).expand(x.shape)
        longest = step_norm.length(widest).to(x.dtype)
    else:  # no box to leave: far beyond the scale of the data
        longest = 1e3 * (1 + step_norm.length(x)).to(x.dtype)
    return nearest_crossing(clf, x, direction, longest, goal)
