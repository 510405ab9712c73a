"""Attacks that move the latent code instead of the sample, and so never leave the manifold."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbowroom.attacks.ball import uniform_in_distance
from elbowroom.attacks.pgd import descend
from elbowroom.classifier import Classifier, as_classifier
from elbowroom.goals import Goal, Misclassified
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.manifold.decoder import Codes, Decoder
from elbowroom.norms import L2, Linf, Norm
from elbowroom.optimise import Adam, Best
from elbowroom.results import Cost
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, eq=False)
class OnManifoldResult:
    """Examples on the manifold.

    codes:    of the examples. adversarial: `(N, *shape)`, decoded from them; the sample's own code
              where none was found.
    success:  `(N,)` bool, re-checked by a plain forward pass.
    correct:  `(N,)` bool: the sample that was attacked does not meet the goal as it is; success
              rates are of these.
    latent_distance: `(N,)`, from the sample's code in `norm`; `inf` where the attack failed.
    distance: `(N,)`, L2 between the samples decoded from both codes; `inf` likewise.
    """

    codes: Codes
    adversarial: Tensor
    success: Tensor
    correct: Tensor
    latent_distance: Tensor
    distance: Tensor
    norm: Norm
    cost: Cost


class LatentClassifier(Classifier):
    """The classifier behind a decoder: its inputs are the latent codes of one batch.

    The rows are those of `context`, in this order.
    """

    def __init__(self, clf: Classifier, decoder: Decoder, context: Tensor) -> None:
        super().__init__(
            _Decoded(decoder, context, clf.network),
            bounds=(decoder.lower, decoder.upper),
            device=clf.device,
            dtype=clf.dtype,
            name=clf.name,
        )
        self.behind, self.decoder, self.context = clf, decoder, context

    def take(self, rows: Tensor) -> LatentClassifier:
        return LatentClassifier(self.behind, self.decoder, self.context[rows])


class _Decoded(nn.Module):
    def __init__(self, decoder: Decoder, context: Tensor, network: nn.Module) -> None:
        super().__init__()
        self.decoder, self.context, self.network = decoder, context, network

    def forward(self, z: Tensor) -> Tensor:
        logits: Tensor = self.network(self.decoder.decode(z, self.context))
        return logits


@dataclass(frozen=True, kw_only=True)
class LatentAttack(ABC):
    """Searches a code near a sample's own whose decoded sample meets a goal (Manifold, 3.3).

    Whether such a sample still has its label is for the decoder to say: those of FONTS and of
    single classes keep it (Definition 1).

    norm: of the change of the code. seed: of everything random.
    """

    norm: Norm = Linf
    seed: int = 0

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def __call__(
        self,
        clf: Classifier | nn.Module,
        decoder: Decoder,
        codes: Codes,
        y: Tensor,
        *,
        goal: Goal | None = None,
        indices: Sequence[int] | None = None,
    ) -> OnManifoldResult:
        """Attack the samples of `codes`, with labels `y` `(N,)`.

        goal:    what counts as success; by default any decision but `y`.
        indices: the samples' numbers in their data set, which seed their randomness.

        Raises `ValueError` for codes that `Decoder.samples` refuses.
        """
        clf = as_classifier(clf)
        goal = goal or Misclassified(y)
        rng = SampleRng(self.seed, indices if indices is not None else range(len(codes)))
        if len(rng) != len(codes) or len(y) != len(codes):
            raise ValueError(f"{len(codes)} codes, {len(y)} labels and {len(rng)} indices")
        own = decoder.samples(codes)
        codes = codes.at(decoder.clamp(codes.z).to(clf.dtype))
        latent = LatentClassifier(clf, decoder, codes.context)
        with clf.session(), latent.metered() as spent:
            correct = ~goal.met(latent.logits(codes.z))
            z = latent.clamp(self.search(latent, codes.z, goal, rng).detach())
            z = torch.where((correct & z.isfinite().all(dim=1))[:, None], z, codes.z)
            success = goal.met(latent.logits(z))
            found = codes.at(torch.where(success[:, None], z, codes.z))
            adversarial = decoder.samples(found)
            moved = self.norm.length(found.z.double() - codes.z.double())
            apart = L2.length(adversarial.double() - own.double())
            return OnManifoldResult(
                codes=found,
                adversarial=adversarial,
                success=success,
                correct=correct,
                latent_distance=torch.where(success, moved, torch.inf),
                distance=torch.where(success, apart, torch.inf),
                norm=self.norm,
                cost=spent(),
            )

    @abstractmethod
    def search(self, clf: LatentClassifier, z: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        """The best codes `(N, k)` found."""


@dataclass(frozen=True, kw_only=True)
class _InBall(LatentAttack):
    """Attacks in a ball around the code, run after run for samples that have not succeeded.

    eta: its radius. restarts: runs from codes uniform in distance and direction (eq. 19).
    """

    eta: float = 0.3
    restarts: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in (L2, Linf):
            raise ValueError(f"{type(self).__name__} works in L2 and Linf, not {self.norm}")
        if not 0 < self.eta < math.inf:
            raise ValueError(f"eta must be positive and finite, not {self.eta}")

    def search(self, clf: LatentClassifier, z: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        best, done = z.clone(), goal.met(clf.logits(z))
        for run in range(self.restarts):
            rows = (~done).nonzero().flatten()
            if not len(rows):
                break
            some = z[rows]
            radius = some.new_full((len(rows),), self.eta)
            streams = rng.children(rows, torch.full_like(rows, run))
            noise = uniform_in_distance(some, self.norm, radius, streams)
            found, part = Best(some, self.norm), clf.take(rows)
            self.run(part, some, goal.take(rows), noise, radius, found)
            best[rows], done[rows] = found.point, found.met
            clf.cost += part.cost
        return best

    @abstractmethod
    def run(
        self,
        clf: LatentClassifier,
        z: Tensor,
        goal: Goal,
        noise: Tensor,
        radius: Tensor,
        found: Best,
    ) -> None:
        """One run from `z + noise`, which offers its points to `found`."""


@dataclass(frozen=True, kw_only=True)
class LatentPGD(_InBall):
    """Adam on the loss of the decoded sample, projected to the ball (eq. 3, with eq. 18 corrected).

    Defaults as in 3.1 and 3.3 of the Manifold paper. A sample is done at its first success.

    steps: of Adam. learning_rate: its.
    """

    steps: int = 40
    learning_rate: float = 0.005

    def run(
        self,
        clf: LatentClassifier,
        z: Tensor,
        goal: Goal,
        noise: Tensor,
        radius: Tensor,
        found: Best,
    ) -> None:
        def observe(point: Tensor, logits: Tensor) -> Tensor:
            found.offer(point, logits, goal, where=~found.met)
            return found.met

        descend(
            clf, z, noise, goal.loss, norm=self.norm, radius=radius, steps=self.steps,
            step_size=torch.full_like(radius, self.learning_rate), rule="adam", observe=observe,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RandomCodes(_InBall):
    """Random codes in the ball, the first that succeeds: what any search has to beat."""

    restarts: int = 200

    def run(
        self,
        clf: LatentClassifier,
        z: Tensor,
        goal: Goal,
        noise: Tensor,
        radius: Tensor,
        found: Best,
    ) -> None:
        point = clf.clamp(z + noise)
        found.offer(point, clf.logits(point), goal)


@dataclass(frozen=True, kw_only=True)
class LatentCarliniWagner(LatentAttack):
    """Adam on `max(-confidence, margin) + weight |change of the code|` (suppl. E, eq. 20, 21).

    Of all codes that succeed the nearest counts.

    steps, learning_rate: of Adam. confidence, weight: kappa and lambda of the paper.
    """

    norm: Norm = L2
    steps: int = 120
    learning_rate: float = 0.005
    confidence: float = 1.5
    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm != L2:
            raise ValueError(f"the Carlini-Wagner attack works in L2, not {self.norm}")

    def search(self, clf: LatentClassifier, z: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        best, adam, point = Best(z, L2), Adam(), z
        for _ in range(self.steps):
            logits, gradient = clf.gradient(
                point, lambda logits: goal.margin(logits).clamp(min=-self.confidence)
            )
            best.offer(point, logits, goal)
            gradient = gradient + self.weight * L2.steepest(point - z)
            point = clf.clamp(point - self.learning_rate * adam.step(gradient))
        best.offer(point, clf.logits(point), goal)
        return best.point


LATENT_ATTACKS: dict[str, type[LatentAttack]] = {
    "pgd": LatentPGD,
    "carlini-wagner": LatentCarliniWagner,
    "random": RandomCodes,
}
"""Name -> attack. A new one is one dataclass and one entry here."""
