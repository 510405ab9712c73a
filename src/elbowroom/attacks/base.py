"""What every attack shares: checking inputs, seeding, the final line search, the re-check."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbowroom.attacks.line_search import shorten
from elbowroom.classifier import Classifier, as_classifier
from elbowroom.goals import Goal, Misclassified
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.norms import L2, Norm, per_sample
from elbowroom.results import AttackResult
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Searches a nearby point that meets a goal: an upper bound on the distance to it.

    A subclass is one frozen dataclass of hyperparameters with one method, `search`.

    norm:       what "nearby" means.
    seed:       of everything random; with the sample's index it fixes every draw.
    line_search_steps: bisections between the original and the point found, after the search;
                each halves the error of the distance along that line. 0 for none.
    """

    norm: Norm = L2
    seed: int = 0
    line_search_steps: int = 20

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def __call__(
        self,
        clf: Classifier | nn.Module,
        x: Tensor,
        y: Tensor | None = None,
        *,
        goal: Goal | None = None,
        indices: Sequence[int] | None = None,
    ) -> AttackResult:
        """Attack the samples `x` `(N, *shape)`.

        y:       labels `(N,)`; by default the classifier's own decisions.
        goal:    what counts as success; by default any decision but `y`.
        indices: the samples' numbers in their data set, which seed their randomness; 0..N-1 by
                 default.

        A sample that meets the goal as it is gets distance 0. Raises `ValueError` for inputs
        that `Classifier.validate` refuses.
        """
        clf = as_classifier(clf)
        x, y = clf.validate(x, y)
        goal = goal or Misclassified(y)
        rng = SampleRng(self.seed, indices if indices is not None else range(len(x)))
        if len(rng) != len(x):
            raise ValueError(f"{len(rng)} indices for {len(x)} samples")
        with clf.metered() as spent:
            there_already = goal.met(clf.logits(x))
            found = clf.clamp(self.search(clf, x, goal, rng).detach())
            found = torch.where(per_sample(found.isfinite().flatten(1).all(1), x), found, x)
            found = torch.where(per_sample(there_already, x), x, found)
            if self.line_search_steps:
                found = shorten(clf, x, found, goal, self.line_search_steps)
            # An attack never marks its own homework: one plain forward pass decides.
            success = goal.met(clf.logits(found))
            distance = self.norm.length(found.double() - x.double())
            return AttackResult(
                adversarial=found,
                distance=torch.where(success, distance, torch.inf),
                success=success,
                norm=self.norm,
                cost=spent(),
            )

    @abstractmethod
    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        """The best points `(N, *shape)` this attack finds; unchanged or hopeless ones may fail."""
