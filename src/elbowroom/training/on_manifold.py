"""Training on examples of the data manifold (Manifold paper, 3.4.1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from elbowroom.classifier import Bound, Classifier
from elbowroom.manifold.attacks import LatentClassifier
from elbowroom.manifold.decoder import Decoder
from elbowroom.manifold.registry import decoder
from elbowroom.norms import L2, Linf, Norm
from elbowroom.training.objectives import Adversarial, Objective, Perturbed
from elbowroom.training.search import search, uniform_in_distance

# One decoder for all objectives: that of FONTS knows the images that it has compared.
_decoder = cache(decoder)


@dataclass(frozen=True, kw_only=True)
class OnManifold(Perturbed):
    """Cross-entropy on a batch of which a part is moved along the manifold first (eq. 4 and 5).

    The latent codes (`enc(x)`: eq. 4 has a slip) are moved by Adam within a ball, from starts
    uniform in distance and direction (eq. 19).

    decoder: as for `elbowroom.manifold.registry.decoder`: "fonts" for the true manifold of FONTS,
             "transformations" for affine ones of any image (adversarial transformations).
    split:   of the training data, whose codes the decoder of FONTS knows.
    norm, eta: of the ball around the code.
    steps, learning_rate: of Adam.
    """

    name = "on-manifold"
    decoder: str = "fonts"
    split: str = "train"
    norm: Norm = Linf
    eta: float = 0.3
    steps: int = 40
    learning_rate: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in (L2, Linf):
            raise ValueError(f"on-manifold training works in L2 and Linf, not {self.norm}")
        if not self.eta > 0 or self.steps < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"eta, steps and learning_rate must be positive, got eta={self.eta}, "
                f"steps={self.steps}, learning_rate={self.learning_rate}"
            )
        self.manifold()  # which says what is wrong with the name

    def manifold(self) -> Decoder:
        return _decoder(self.decoder, self.split)

    def perturbed(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[Bound, Bound],
        generator: Generator,
    ) -> Tensor:
        """Samples `(N, *shape)` whose codes are within `eta` of those of `x`."""
        if len(x) == 0:
            return x
        manifold = self.manifold()
        codes = manifold.encode(x, y)
        latent = LatentClassifier(Classifier(model, bounds=bounds), manifold, codes.context)
        radius = codes.z.new_full((len(x),), self.eta)
        with latent.session():
            z = search(
                latent,
                codes.z,
                uniform_in_distance(codes.z, self.norm, radius, generator),
                y,
                norm=self.norm,
                radius=radius,
                steps=self.steps,
                step_size=self.learning_rate,
                rule="adam",
                how=self.search,
            )
            return manifold.samples(codes.at(z)).to(x)


@dataclass(frozen=True, kw_only=True)
class Combined(Objective):
    """A part of the batch attacked as in regular adversarial training, as much along the manifold.

    Manifold paper, 3.6 and Fig. 7, which does not give the shares. A quarter each and half of the
    batch as it is follow the other objectives; without any samples as they are, networks of a few
    hundred FONTS images learn next to nothing.

    Both attacks are Adam's, with the same number of steps and the same learning rate, as in 3.1.

    weight: of both attacked parts together.
    eps:    of the regular attack, in Linf. The other fields are those of `OnManifold`.
    """

    name = "combined"
    weight: float = 0.5
    eps: float = 0.3
    decoder: str = "fonts"
    split: str = "train"
    eta: float = 0.3
    steps: int = 40
    learning_rate: float = 0.005

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight must lie in (0, 1], got {self.weight}")
        self._regular()
        self._along()

    def _regular(self) -> Adversarial:
        return Adversarial(
            eps=self.eps, steps=self.steps, rule="adam", step_size=self.learning_rate, weight=1.0
        )

    def _along(self) -> OnManifold:
        return OnManifold(
            decoder=self.decoder, split=self.split, eta=self.eta, steps=self.steps,
            learning_rate=self.learning_rate, weight=1.0,
        )  # fmt: skip

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[Bound, Bound],
        generator: Generator,
    ) -> Tensor:
        both = round(self.weight * len(x))
        regular, along = slice(0, both // 2), slice(both // 2, both)
        attacked = self._regular().perturbed(model, x[regular], y[regular], bounds, generator)
        moved = self._along().perturbed(model, x[along], y[along], bounds, generator)
        return F.cross_entropy(model(torch.cat([attacked, moved, x[both:]])), y)
