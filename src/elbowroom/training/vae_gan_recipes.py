"""VAE-GANs by name: data, settings, and what single classes have of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from elbowroom.training.vae_gan import VaeGanTraining


@dataclass(frozen=True, kw_only=True)
class VaeGanRecipe:
    """data, split, count: the images. by_label: options of `settings` that a class has."""

    data: str
    split: str = "train"
    count: int | None = None
    settings: VaeGanTraining = field(default_factory=VaeGanTraining)
    by_label: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, label: int | None) -> VaeGanTraining:
        """The settings of a class, or of all together (None)."""
        own = self.by_label.get(label, {}) if label is not None else {}
        return replace(self.settings, **own)


# A fraction of the published work: half the channels, smaller steps of smaller batches.
_QUICK = VaeGanTraining(
    widths=(32, 64, 128), batch_size=50, learning_rate=0.002, learning_rate_decay=0.65, epochs=5
)

VAE_GANS: dict[str, VaeGanRecipe] = {
    # Manifold paper, suppl. B.2.
    "fonts-published": VaeGanRecipe(data="fonts", count=960_000),
    "emnist-digits-published": VaeGanRecipe(
        data="emnist-digits",
        settings=VaeGanTraining(reconstruction=2.5, epochs=30),
        by_label={
            0: {"reconstruction": 2.75},
            1: {"reconstruction": 5.6},
            8: {"reconstruction": 2.25},
        },
    ),
    "fashion-mnist-published": VaeGanRecipe(
        data="fashion-mnist", settings=VaeGanTraining(reconstruction=2.75, epochs=60)
    ),
    # Four layers; the paper does not say how many channels the fourth has.
    "celeba-published": VaeGanRecipe(
        data="celeba", settings=VaeGanTraining(widths=(64, 128, 256, 512), epochs=30)
    ),
    # Ours: less than an hour on one core.
    "fonts": VaeGanRecipe(data="fonts", count=240_000, settings=replace(_QUICK, moving=True)),
    "mnist": VaeGanRecipe(
        data="mnist",
        settings=replace(_QUICK, size=16, reconstruction=5.0, epochs=12, learning_rate_decay=0.75),
    ),
}
