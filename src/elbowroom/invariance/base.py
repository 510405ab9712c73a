"""What every inversion shares: checking inputs, what is compared, the re-check, the distances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.features import features_of
from elbowroom.goals import SameLogits
from elbowroom.graph.ops import Linear
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.norms import L2, Linf, per_sample
from elbowroom.results import Cost, InversionResult
from elbowroom.sampling import SampleRng

NEARER = 1 - 1e-3  # of the way from start to toward: what is farther counts as start itself


@dataclass(frozen=True)
class Problem:
    """N inversions.

    clf:    the classifier whose outputs are the features compared.
    start:  `(N, *shape)`: has the wanted features if `known`; else the corner of the input box
            farthest from `toward` (Invariance thesis, 3.2.2, "Setting Logits Directly"; `toward`
            itself along features without bounds).
    toward: `(N, *shape)`. goal: the wanted features, and how exactly.
    """

    clf: Classifier
    start: Tensor
    toward: Tensor
    goal: SameLogits
    rng: SampleRng
    known: bool

    def __len__(self) -> int:
        return len(self.toward)

    @property
    def width(self) -> Tensor:
        """`(N, *shape)`: of the input box; else the spread of start and toward, or 1."""
        width = (self.clf.upper - self.clf.lower).expand(self.toward.shape)
        spread = (self.start - self.toward).flatten(1).abs().amax(dim=1)
        spread = torch.where(spread > 0, spread, 1.0)
        return torch.where(width.isfinite(), width, per_sample(spread, self.toward))

    def take(self, rows: Tensor) -> Problem:
        """The inversions `rows` (indices, repeats allowed), their random streams begun anew."""
        goal = self.goal.take(rows)
        assert isinstance(goal, SameLogits)
        rng = self.rng.children(rows, torch.zeros_like(rows))
        return Problem(self.clf, self.start[rows], self.toward[rows], goal, rng, self.known)


@dataclass(frozen=True)
class Found:
    """What a search has to offer.

    example: `(N, *shape)`: the nearest point to `toward` that meets the goal, or else the one that
             comes nearest to meeting it.
    path:    `(P, N, *shape)`: see `InversionResult`.
    """

    example: Tensor
    path: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Inversion(ABC):
    """Searches a point with the logits of one input, close to another input.

    A subclass is one frozen dataclass of hyperparameters with one method, `descend`.

    tolerance:   largest mean squared difference of features that counts as the same.
    layer:       name of the layer whose output is compared; the logits by default
                 (`elbowroom.features.layer_names` lists them).
    up_to_shift: compare up to a common shift of all logits, which softmax does not see.
    seed:        of everything random; with the sample's index it fixes every draw.
    """

    tolerance: float = 1e-8
    layer: str | None = None
    up_to_shift: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_hyperparameters(self)
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance must be a number from 0 upwards, not {self.tolerance}")

    def __call__(
        self,
        clf: Classifier | nn.Module,
        *,
        toward: Tensor,
        start: Tensor | None = None,
        target: Tensor | None = None,
        indices: Sequence[int] | None = None,
    ) -> InversionResult:
        """Find points with the features of `start`, close to `toward`, both `(N, *shape)`.

        target:  the wanted features themselves, `(N, K)` or `(K,)`, instead of those of `start`;
                 of a layer, its flattened output. With `up_to_shift`, still all K of them.
        indices: the samples' numbers in their data set, which seed their randomness.

        Where the search finds nothing that is nearer than `start`, the answer is `start` itself,
        and `nearer` is False.
        Where there is no start, and no point with these features is found, `success` is False and
        the answer the point that came nearest to them. Raises `ValueError` for inputs that
        `Classifier.validate` refuses, unless exactly one of `start` and `target` is given, and for
        targets of the wrong length.
        """
        clf = as_classifier(clf)
        if (start is None) == (target is None):
            raise ValueError("give either start or target: what has the wanted features, or these")
        toward = _validated(clf, toward, "toward")
        if start is not None:
            if start.shape != toward.shape:
                raise ValueError(
                    f"start and toward must have one shape, got {tuple(start.shape)} and "
                    f"{tuple(toward.shape)}"
                )
            start = _validated(clf, start, "start")
        rng = SampleRng(self.seed, indices if indices is not None else range(len(toward)))
        if len(rng) != len(toward):
            raise ValueError(f"{len(rng)} indices for {len(toward)} samples")
        shape = toward.shape[1:]
        part = features_of(clf, shape, layer=self.layer, up_to_shift=self.up_to_shift)
        with clf.session(), part.metered() as spent:
            if start is not None:
                wanted = part.logits(start)
            else:
                assert target is not None
                wanted = self._wanted(clf, part, toward, target)
            result = self._answer(part, start, toward, wanted, rng)
            result = replace(result, cost=spent())
        if part is not clf:
            clf.cost += result.cost
        return result

    def _wanted(self, clf: Classifier, part: Classifier, toward: Tensor, target: Tensor) -> Tensor:
        """The features `(N, K)` to be compared, from those that the caller gave."""
        whole = features_of(clf, toward.shape[1:], layer=self.layer)
        count = whole.logits(toward[:1]).shape[1]
        if not isinstance(target, Tensor) or not target.dtype.is_floating_point:
            raise ValueError("target must be a floating-point tensor of features")
        if target.shape not in ((count,), (len(toward), count)):
            raise ValueError(
                f"target has shape {tuple(target.shape)}, but {self.layer or 'the network'} has "
                f"{count} features: it must be ({count},) or ({len(toward)}, {count})"
            )
        if not bool(target.isfinite().all()):
            raise ValueError("target has NaN or infinite values")
        target = target.to(toward).expand(len(toward), count)
        if not self.up_to_shift:
            return target
        basis = part.graph(toward.shape[1:]).nodes[-1].op
        assert isinstance(basis, Linear)
        return target @ basis.weight.T

    def _answer(
        self,
        clf: Classifier,
        start: Tensor | None,
        toward: Tensor,
        wanted: Tensor,
        rng: SampleRng,
    ) -> InversionResult:
        goal = SameLogits(wanted, torch.full_like(wanted[:, 0], self.tolerance))
        begin = _farthest_corner(clf, toward) if start is None else start
        found = self.descend(Problem(clf, begin, toward, goal, rng, start is not None))
        example = clf.clamp(found.example.detach())
        if start is not None:
            # It has the wanted features itself: no answer need be farther away than it is.
            farther = L2.length(example - toward) > L2.length(start - toward)
            missed = ~goal.met(clf.logits(example)) | farther
            example = torch.where(per_sample(missed, example), start, example)
        # As with attacks, one plain forward pass decides.
        logits = clf.logits(example)
        success = goal.met(logits)
        move = example.double() - toward.double()
        moved = L2.length(move)
        nearer = success
        if start is not None:
            nearer = success & (moved < NEARER * L2.length(start.double() - toward.double()))
        return InversionResult(
            example=example,
            distance=torch.where(success, moved, torch.inf),
            distance_linf=torch.where(success, Linf.length(move), torch.inf),
            moved=moved,
            feature_mse=goal.loss(logits).double(),
            success=success,
            nearer=nearer,
            path=found.path,
            cost=Cost(),
        )

    @abstractmethod
    def descend(self, problem: Problem) -> Found:
        """The points that the search offers; misses and those farther than `start` are dropped."""


def _validated(clf: Classifier, x: Tensor, name: str) -> Tensor:
    try:
        return clf.validate(x)[0]
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _farthest_corner(clf: Classifier, toward: Tensor) -> Tensor:
    lower, upper = clf.lower.expand(toward.shape), clf.upper.expand(toward.shape)
    corner = torch.where(toward - lower > upper - toward, lower, upper)
    return torch.where(corner.isfinite(), corner, toward)
