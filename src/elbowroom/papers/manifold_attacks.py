"""The attacks of the Manifold paper, by name, as its figures count them (3.1, suppl. E and G)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from elbowroom.attacks import PGD
from elbowroom.attacks.ball import uniform_in_distance
from elbowroom.attacks.pgd import descend
from elbowroom.classifier import Classifier
from elbowroom.data import Dataset
from elbowroom.goals import Misclassified
from elbowroom.manifold import (
    Codes,
    Decoder,
    LatentAttack,
    LatentCarliniWagner,
    LatentPGD,
    Pixels,
)
from elbowroom.manifold.attacks import LatentClassifier
from elbowroom.manifold.rates import Rate, rate
from elbowroom.manifold.registry import decoder
from elbowroom.norms import L2, Linf, Norm
from elbowroom.sampling import SampleRng

DATA_ETA = 0.1  # in class-agnostic codes, so that classes are seldom left (suppl. G)


@dataclass(frozen=True)
class Success:
    """rate: of the rightly classified samples. length: mean size of the changes, NaN of none."""

    rate: Rate
    length: float


class Trial:
    """Test images to be attacked, with what all networks share.

    test:      the images. manifold, data_manifold: decoders of single classes and of all together,
               by name; the second one only if an attack needs it.
    restarts:  runs of the attacks in balls. seed: of everything random.
    surrogate: makes the network that examples are transferred from, if an attack needs it.
    """

    def __init__(
        self,
        test: Dataset,
        *,
        manifold: str,
        data_manifold: str = "",
        restarts: int = 5,
        seed: int = 0,
        surrogate: Callable[[], nn.Module] | None = None,
    ) -> None:
        self.x, self.y, self.bounds, self.split = test.x, test.y, test.bounds, test.split
        self.restarts, self.seed = restarts, seed
        self._manifold, self._data_manifold, self._surrogate = manifold, data_manifold, surrogate

    def classifier(self, model: nn.Module) -> Classifier:
        return Classifier(model, bounds=self.bounds)

    @cached_property
    def manifold(self) -> tuple[Decoder, Codes]:
        return self._codes(self._manifold)

    @cached_property
    def data_manifold(self) -> tuple[Decoder, Codes]:
        return self._codes(self._data_manifold)

    @cached_property
    def pixels(self) -> tuple[Decoder, Codes]:
        every = Pixels(self.x.shape[1:], self.bounds)
        return every, every.encode(self.x, self.y)

    def _codes(self, name: str) -> tuple[Decoder, Codes]:
        found = decoder(name, self.split)
        return found, found.encode(self.x, self.y)

    @cached_property
    def surrogate(self) -> tuple[Classifier, Tensor]:
        """What examples are transferred from, and `(N,)` bool: what it classifies rightly."""
        if self._surrogate is None:
            raise ValueError("there is no network to transfer examples from")
        clf = self.classifier(self._surrogate())
        return clf, decisions(clf, self.x) == self.y

    @cached_property
    def transferred_regular(self) -> Found:
        return _regular(self, self.surrogate[0], Linf)

    @cached_property
    def transferred_on_manifold(self) -> Found:
        return _along(self, self.surrogate[0], self.manifold, LatentPGD())


@dataclass(frozen=True, eq=False)
class Found:
    """One row a sample: the example, whether there is one, the size of the change, and whether the
    sample counts at all.
    """

    examples: Tensor
    success: Tensor
    length: Tensor
    counts: Tensor

    def among(self, right: Tensor) -> Success:
        """Of the samples that `right` `(N,)` bool has."""
        counts = right & self.counts
        lengths = self.length[self.success & counts]
        mean = float(lengths.mean()) if len(lengths) else math.nan
        return Success(rate(self.success, counts), mean)


def decisions(clf: Classifier, x: Tensor, batch: int = 500) -> Tensor:
    """`(N,)`: the classes of the samples `x`."""
    with clf.session():
        return torch.cat([clf.logits(some).argmax(dim=1) for some in torch.split(x, batch)])


def _regular(trial: Trial, clf: Classifier, norm: Norm) -> Found:
    attack = replace(PGD.published_manifold(norm, seed=trial.seed), restarts=trial.restarts)
    found = attack(clf, trial.x, trial.y)
    every = torch.ones_like(found.success)
    return Found(found.adversarial, found.success, found.distance, every)


def _along(
    trial: Trial, clf: Classifier, where: tuple[Decoder, Codes], attack: LatentAttack
) -> Found:
    attack = replace(attack, seed=trial.seed)
    if isinstance(attack, LatentPGD):
        attack = replace(attack, restarts=trial.restarts)
    found = attack(clf, *where, trial.y)
    # What a decoder makes of a sample's own code may be wrong already: that is no example.
    return Found(found.adversarial, found.success, found.latent_distance, found.correct)


def _to_the_end(
    trial: Trial, clf: Classifier, where: tuple[Decoder, Codes], radius: float
) -> Found:
    """One run of all steps, without an end at the first success: what eq. 2 and 3 ask for.

    The attacks of the paper end as soon as they succeed, which says little of how far an example
    lies that is as bad as can be.
    """
    manifold, codes = where
    latent = LatentClassifier(clf, manifold, codes.context)
    goal, radii = Misclassified(trial.y), torch.full((len(codes),), radius)
    rng = SampleRng(trial.seed, range(len(codes)))
    noise = uniform_in_distance(codes.z, Linf, radii, rng)
    with latent.session():
        correct = ~goal.met(latent.logits(codes.z))
        z = descend(
            latent, codes.z, noise, goal.loss, norm=Linf, radius=radii, steps=40,
            step_size=torch.full_like(radii, 0.005), rule="adam",
        )  # fmt: skip
        success = goal.met(latent.logits(z))
    return Found(manifold.samples(codes.at(z)), success, Linf.length(z - codes.z), correct)


def _transferred(trial: Trial, clf: Classifier, made: Found) -> Found:
    """Counted where both networks are right, as the paper does."""
    fooled = decisions(clf, made.examples) != trial.y
    counts = made.counts & trial.surrogate[1]
    return replace(made, success=made.success & fooled, counts=counts)


#: Attack -> what it finds against a network. Those of Carlini and Wagner are eq. 21 in both cases,
#: with steps clamped to the bounds.
ATTACKS: dict[str, Callable[[Trial, Classifier], Found]] = {
    "on-manifold": lambda t, clf: _along(t, clf, t.manifold, LatentPGD()),
    "regular": lambda t, clf: _regular(t, clf, Linf),
    "on-manifold L2": lambda t, clf: _along(t, clf, t.manifold, LatentPGD(norm=L2)),
    "regular L2": lambda t, clf: _regular(t, clf, L2),
    "on-manifold CW": lambda t, clf: _along(t, clf, t.manifold, LatentCarliniWagner()),
    "regular CW": lambda t, clf: _along(t, clf, t.pixels, LatentCarliniWagner()),
    "on-manifold transfer": lambda t, clf: _transferred(t, clf, t.transferred_on_manifold),
    "regular transfer": lambda t, clf: _transferred(t, clf, t.transferred_regular),
    "on-manifold, all steps": lambda t, clf: _to_the_end(t, clf, t.manifold, LatentPGD().eta),
    "regular, all steps": lambda t, clf: _to_the_end(
        t, clf, t.pixels, PGD.published_manifold(Linf).eps
    ),
    "on-data-manifold": lambda t, clf: _along(t, clf, t.data_manifold, LatentPGD(eta=DATA_ETA)),
}
