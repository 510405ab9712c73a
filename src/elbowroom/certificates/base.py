"""What every certificate shares: checking inputs, and no radius for misclassified samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.norms import L1, L2, Linf, Norm
from elbowroom.results import CertificateResult


@dataclass(frozen=True, kw_only=True)
class Certificate(ABC):
    """Finds a radius within which the decision cannot change: a lower bound.

    A subclass is one frozen dataclass with one method, `bound`.

    sound: whether that is a theorem. norms: those it has a bound in; others are a `ValueError`.

    norm: of the ball.
    """

    sound: ClassVar[bool] = True
    norms: ClassVar[tuple[Norm, ...]] = (L1, L2, Linf)

    norm: Norm = L2

    def __post_init__(self) -> None:
        check_hyperparameters(self)
        if self.norm not in self.norms:
            known = ", ".join(map(str, self.norms))
            raise ValueError(
                f"{type(self).__name__} is for {known}, not {self.norm}; GlobalLipschitz has a "
                "bound in every norm"
            )

    def __call__(
        self, clf: Classifier | nn.Module, x: Tensor, y: Tensor | None = None
    ) -> CertificateResult:
        """Certify the samples `x` `(N, *shape)` with labels `y` `(N,)` (its own decisions if None).

        The radius is 0 where the decision is not `y`. Raises `ValueError` for inputs that
        `Classifier.validate` refuses, `UnsupportedOperationError` for layers without a bound.
        """
        clf = as_classifier(clf)
        x, y = clf.validate(x, y)
        with clf.metered() as spent:
            right = clf.logits(x).argmax(dim=1) == y
            radius = self.bound(clf, x, y).clamp(min=0)
            return CertificateResult(
                radius=torch.where(right, radius, 0.0),
                sound=self.sound,
                norm=self.norm,
                cost=spent(),
            )

    @abstractmethod
    def bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        """Radii `(N,)` in float64; negative or zero where nothing can be said."""
