"""Named training runs: which network on which data, with which objective and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elbowroom import data, models
from elbowroom.norms import L2, Linf
from elbowroom.training.loop import EpochReport, TrainingResult, TrainingRun, train
from elbowroom.training.objectives import Adversarial, Objective, Plain


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything a training run starts from.

    model, model_options: for `elbowroom.models.build`; its weights are drawn from the seed.
    data:                 for `elbowroom.data.load`.
    split, count:         the training samples: of which split, and how many (None for all).
    validation_split, validation_count: the samples whose accuracy is reported.
    """

    model: str
    model_options: Mapping[str, Any] = field(default_factory=dict)
    data: str
    split: str = "train"
    count: int | None = None
    validation_split: str = "test"
    validation_count: int | None = None
    objective: Objective = field(default_factory=Plain)
    settings: TrainingRun = field(default_factory=TrainingRun)

    def build(self) -> nn.Module:
        """The untrained network; the same for the same seed."""
        with torch.random.fork_rng([]):
            torch.manual_seed(self.settings.seed)
            return models.build(self.model, **self.model_options)

    def run(
        self,
        folder: str | Path | None = None,
        *,
        progress: Callable[[EpochReport], None] | None = None,
        accelerator: str = "auto",
        metadata: Mapping[str, str] | None = None,
    ) -> TrainingResult:
        """Train as `elbowroom.training.train` does, which see for the arguments and errors."""
        return train(
            self.build(),
            data.load(self.data, self.split, self.count),
            self.objective,
            self.settings,
            validation=data.load(self.data, self.validation_split, self.validation_count),
            folder=folder,
            progress=progress,
            accelerator=accelerator,
            metadata={
                "architecture": self.model,
                **{f"option {name}": str(value) for name, value in self.model_options.items()},
                **(metadata or {}),
            },
        )


# Madry et al. 2018 train 100,000 steps of 50 samples, that is 83 1/3 epochs of the 60,000.
_MADRY = TrainingRun(
    epochs=84, batch_size=50, learning_rate=1e-4, learning_rate_decay=1.0, weight_decay=0.0
)

# More images and a faster decay than in the Manifold paper, whose settings are the defaults of
# `TrainingRun`: with those and 60,000 images the plain network gets 94 % of the test images.
_FONTS = TrainingRun(epochs=10, learning_rate_decay=0.6, weight_decay=1e-5)

# Bounds thesis: 10,000 iterations of Adam for LeNet-LRN (5.4.1), 1,000 in each epoch. Neither the
# size of a batch nor the step size is given: Caffe's LeNet has batches of 64; 0.001 is Adam's own.
_LENET = TrainingRun(
    epochs=10, batch_size=60, learning_rate=1e-3, learning_rate_decay=1.0, weight_decay=0.0
)
_MLP = TrainingRun(epochs=60, batch_size=10, learning_rate_decay=0.97, weight_decay=0.0)


def _tabular(data: str, *sizes: int, settings: TrainingRun = _MLP) -> Recipe:
    """An MLP of the Bounds thesis, Table 4.3; how it was trained is not given."""
    options = {"sizes": list(sizes), "activation": "tanh"}
    return Recipe(
        model="mlp", model_options=options, data=data, validation_split="val", settings=settings
    )


RECIPES: dict[str, Recipe] = {
    # The two networks that come with the package; only the objective differs.
    "fonts-plain": Recipe(model="fonts-cnn", data="fonts", count=240_000, settings=_FONTS),
    "fonts-adversarial": Recipe(
        model="fonts-cnn",
        data="fonts",
        count=240_000,
        objective=Adversarial(norm=Linf, eps=0.1, steps=5),
        settings=_FONTS,
    ),
    # LRA, 5.1: the models of the MNIST challenge, and one trained in L2 with the same code.
    "madry-mnist-plain": Recipe(model="madry-mnist", data="mnist", settings=_MADRY),
    "madry-mnist-l2": Recipe(
        model="madry-mnist",
        data="mnist",
        objective=Adversarial(norm=L2, eps=2.0, steps=40, weight=1.0),
        settings=_MADRY,
    ),
    "madry-mnist-linf": Recipe(
        model="madry-mnist",
        data="mnist",
        objective=Adversarial(norm=Linf, eps=0.3, steps=40, step_size=0.01, weight=1.0),
        settings=_MADRY,
    ),
    # Bounds thesis, Tables 4.3, 5.1 and 5.3.
    "bounds-iris": _tabular("iris", 4, 5, 3),
    "bounds-wine": _tabular("wine", 13, 5, 3, 3),
    "bounds-spambase": _tabular(
        "spambase", 57, 7, 5, 3, 2, settings=replace(_MLP, epochs=20, batch_size=50)
    ),
    **{
        f"bounds-{name}": Recipe(model=name, data="mnist", settings=_LENET)
        for name in ("lenet5", "lenet5-lrn1", "lenet5-lrn2", "lenet5-lrn3")
    },
    # 120,000 iterations, as Caffe's model zoo has it, but of Adam, and on CIFAR-10 (JPEG 75).
    "bounds-cifar-nin": Recipe(
        model="cifar-nin",
        data="cifar10-jpeg75",
        settings=TrainingRun(
            epochs=300, batch_size=125, learning_rate=1e-3, learning_rate_decay=0.99
        ),
    ),
}
