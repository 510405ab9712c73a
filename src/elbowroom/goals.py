"""What counts as success: a goal looks at logits and says whether they are where we want them.

`met` decides; `margin` and `loss` are what an attack lowers on the way there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Goal(ABC):
    """A goal for each sample of a batch; every field is a tensor with one row per sample."""

    @abstractmethod
    def met(self, logits: Tensor) -> Tensor:
        """Whether each row of `logits` `(N, K)` meets the goal, `(N,)` bool; NaN never does."""

    @abstractmethod
    def margin(self, logits: Tensor) -> Tensor:
        """`(N,)`: how far the goal is, in logits; negative once it is met."""

    @abstractmethod
    def loss(self, logits: Tensor) -> Tensor:
        """`(N,)`: the smooth loss of the literature that falls as the goal comes nearer."""

    def take(self, rows: Tensor) -> Goal:
        """The goal of the samples `rows` (indices, repeats allowed)."""
        return replace(self, **{f.name: getattr(self, f.name)[rows] for f in fields(self)})


def _finite(logits: Tensor) -> Tensor:
    return logits.isfinite().all(dim=1)


def _largest_other(logits: Tensor, label: Tensor) -> Tensor:
    return logits.scatter(1, label[:, None], -torch.inf).amax(dim=1)


def _at(logits: Tensor, label: Tensor) -> Tensor:
    return logits.gather(1, label[:, None]).squeeze(1)


@dataclass(frozen=True)
class Misclassified(Goal):
    """Any decision but `labels` `(N,)`."""

    labels: Tensor

    def met(self, logits: Tensor) -> Tensor:
        return (logits.argmax(dim=1) != self.labels) & _finite(logits)

    def margin(self, logits: Tensor) -> Tensor:
        return _at(logits, self.labels) - _largest_other(logits, self.labels)

    def loss(self, logits: Tensor) -> Tensor:
        return -F.cross_entropy(logits, self.labels, reduction="none")


@dataclass(frozen=True)
class ClassifiedAs(Goal):
    """Exactly the decision `targets` `(N,)`."""

    targets: Tensor

    def met(self, logits: Tensor) -> Tensor:
        return (logits.argmax(dim=1) == self.targets) & _finite(logits)

    def margin(self, logits: Tensor) -> Tensor:
        return _largest_other(logits, self.targets) - _at(logits, self.targets)

    def loss(self, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, self.targets, reduction="none")


@dataclass(frozen=True)
class SameLogits(Goal):
    """The given `logits` `(N, K)` up to a mean squared error of `tolerance` `(N,)`."""

    logits: Tensor
    tolerance: Tensor

    def met(self, logits: Tensor) -> Tensor:
        return (self.loss(logits) <= self.tolerance) & _finite(logits)

    def margin(self, logits: Tensor) -> Tensor:
        return self.loss(logits) - self.tolerance

    def loss(self, logits: Tensor) -> Tensor:
        return (logits - self.logits).square().mean(dim=1)


@dataclass(frozen=True)
class SameConfidence(Goal):
    """The given class `probabilities` `(N, K)`, each to within `tolerance` `(N,)`."""

    probabilities: Tensor
    tolerance: Tensor

    def met(self, logits: Tensor) -> Tensor:
        return (self._gap(logits) <= self.tolerance) & _finite(logits)

    def margin(self, logits: Tensor) -> Tensor:
        return self._gap(logits) - self.tolerance

    def loss(self, logits: Tensor) -> Tensor:
        return (logits.softmax(dim=1) - self.probabilities).square().mean(dim=1)

    def _gap(self, logits: Tensor) -> Tensor:
        return (logits.softmax(dim=1) - self.probabilities).abs().amax(dim=1)
