"""Transfer: examples made for one classifier, tried on another."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.line_search import nearest_crossing
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """Attack a surrogate, then look along the line from the sample to what was found.

    Needs no gradient of the target: the black-box attack of the Manifold paper, section E (there
    with `PGD.published_manifold()` on a plainly trained surrogate, over the samples that both
    classify rightly). An example that is barely one for the surrogate seldom is one for the target:
    prefer attacks that go deep, without a line search, or a `stretch` above 1.

    attack:    makes the examples; its norm must be this one's.
    surrogate: the classifier they are made for, with inputs of the same shape, bounds and type.
    stretch:   how far beyond the example the line is searched, as a multiple of its distance.

    Costs include the passes of the surrogate.
    """

    attack: Attack
    surrogate: Classifier
    stretch: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != self.attack.norm:
            raise ValueError(
                f"the attack works in {self.attack.norm}, the transfer in {self.norm}; pass "
                "norm=attack.norm"
            )
        if not 1 <= self.stretch < math.inf:
            raise ValueError(f"stretch must be finite and at least 1, not {self.stretch}")

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        made = self.attack(self.surrogate, x, goal=goal, indices=rng.indices)
        clf.cost += replace(made.cost, seconds=0.0)
        longest = torch.full((len(x),), self.stretch, dtype=x.dtype, device=x.device)
        return nearest_crossing(clf, x, made.adversarial - x, longest, goal)
