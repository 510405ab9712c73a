"""What every inversion shares: checking inputs, the re-check, the distances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.goals import SameLogits
from elbowroom.norms import L2, Linf, per_sample
from elbowroom.optimise import require_counts
from elbowroom.results import InversionResult
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class Inversion(ABC):
    """Searches a point with the logits of one input, close to another input.

    A subclass is one frozen dataclass of hyperparameters with one method, `descend`.

    tolerance: largest mean squared difference of logits that counts as the same.
    seed:      of everything random; with the sample's index it fixes every draw.
    """

    tolerance: float = 1e-8
    seed: int = 0

    def __post_init__(self) -> None:
        require_counts(self)

    def __call__(
        self,
        clf: Classifier | nn.Module,
        *,
        start: Tensor,
        toward: Tensor,
        indices: Sequence[int] | None = None,
    ) -> InversionResult:
        """Find points with the logits of `start`, close to `toward`, both `(N, *shape)`.

        Where the search finds none that is nearer, the answer is `start` itself.

        indices: the samples' numbers in their data set, which seed their randomness.
        Raises `ValueError` for inputs that `Classifier.validate` refuses.
        """
        clf = as_classifier(clf)
        if start.shape != toward.shape:
            raise ValueError(
                f"start and toward must have one shape, got {tuple(start.shape)} and "
                f"{tuple(toward.shape)}"
            )
        start, _ = clf.validate(start)
        toward, _ = clf.validate(toward)
        rng = SampleRng(self.seed, indices if indices is not None else range(len(start)))
        if len(rng) != len(start):
            raise ValueError(f"{len(rng)} indices for {len(start)} samples")
        with clf.metered() as spent:
            wanted = clf.logits(start)
            goal = SameLogits(wanted, torch.full_like(wanted[:, 0], self.tolerance))
            example = clf.clamp(self.descend(clf, start, toward, goal, rng).detach())
            # `start` has the wanted logits itself: no answer need be farther away than it is.
            farther = L2.length(example - toward) > L2.length(start - toward)
            missed = ~goal.met(clf.logits(example)) | farther
            example = torch.where(per_sample(missed, example), start, example)
            # As with attacks, one plain forward pass decides.
            logits = clf.logits(example)
            success = goal.met(logits)
            move = example.double() - toward.double()
            return InversionResult(
                example=example,
                distance=torch.where(success, L2.length(move), torch.inf),
                distance_linf=torch.where(success, Linf.length(move), torch.inf),
                feature_mse=goal.loss(logits).double(),
                success=success,
                cost=spent(),
            )

    @abstractmethod
    def descend(
        self,
        clf: Classifier,
        start: Tensor,
        toward: Tensor,
        goal: SameLogits,
        rng: SampleRng,
    ) -> Tensor:
        """The closest points `(N, *shape)` to `toward` that meet `goal`; misses are dropped."""
