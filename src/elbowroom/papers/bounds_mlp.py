"""Table 4.3 and Fig. 4.3 of the Bounds thesis: MLPs trained on Iris, Wine and Spambase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from elbowroom import data
from elbowroom.attacks import Closest
from elbowroom.certificates import Certificate
from elbowroom.classifier import Classifier
from elbowroom.data import Dataset
from elbowroom.papers.bounds_compare import FastGradient, Measured, Spread, measure
from elbowroom.papers.lra import Advance
from elbowroom.training import RECIPES, OutputMargin, Recipe, accuracy

#: Data set -> mean, median and standard deviation in Table 4.3.
TABLE_4_3 = {
    "iris": (0.7153, 0.5579, 0.4792),
    "wine": (1.263, 1.131, 0.7758),
    "spambase": (3.413, 3.083, 1.4993),
}
#: Data set -> accuracy on the test split in the thesis.
ACCURACY = {"iris": 1.0, "wine": 1.0, "spambase": 0.9326}
WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
PARTS = ("train", "test", "val")


@dataclass(frozen=True)
class Trained:
    """A trained MLP: its accuracy on the test split, and bounds beside distances."""

    accuracy: float
    measured: Measured


def table_4_3(
    bounds: Mapping[str, Certificate],
    *,
    sets: Sequence[str] = tuple(TABLE_4_3),
    samples: int = 100,
    budget: int = 300,
    folder: Path | None = None,
    seed: int = 0,
    advance: Advance | None = None,
) -> dict[str, Trained]:
    """Train the MLP of each data set, and measure the first `samples` of its test split.

    Inputs are standardised; perturbations are not held in any box, as in the thesis, and the
    decisions are those of the network. FGS stops at 1, and longer steps are left out.

    budget: of `Closest`. folder: keeps what is trained (see `train`).
    """
    found = {}
    for done, name in enumerate(sets):
        recipe = _seeded(RECIPES[f"bounds-{name}"], seed)
        kept = folder and folder / f"bounds-{name}-seed{seed}"
        model = recipe.run(kept, accelerator="cpu").model
        test = data.load(name, "test")
        chosen = test.take(min(samples, len(test)))
        attacks = {
            "FGS or FGV": FastGradient(max_eps=1.0),
            "Closest": Closest(budget=budget, seed=seed),
        }
        measured = measure(_free(model, name), chosen.x.double(), attacks=attacks, bounds=bounds)
        found[name] = Trained(accuracy(model, test), measured)
        if advance is not None:
            advance(done + 1, len(sets))
    return found


@dataclass(frozen=True)
class Regularised:
    """Fig. 4.3 for one data set: a network for each of W weights of the output margin.

    accuracy:  on all data, training samples too, as in the thesis.
    error:     share of all samples that FGS or FGV perturb to another decision, with steps up to 1.
    distances: statistics of those perturbations, L2; None where there are none.
    test:      accuracy on the test split.
    """

    weights: tuple[float, ...]
    accuracy: tuple[float, ...]
    error: tuple[float, ...]
    distances: tuple[Spread | None, ...]
    test: tuple[float, ...]


def figure_4_3(
    *,
    sets: Sequence[str] = tuple(TABLE_4_3),
    weights: Sequence[float] = WEIGHTS,
    max_eps: float = 1.0,
    seed: int = 0,
    advance: Advance | None = None,
) -> dict[str, Regularised]:
    """Train with `OutputMargin` of each of `weights`, and attack all data (section 4.4).

    max_eps: of FGS; the thesis gives neither it nor the weights.
    """
    found = {}
    for row, name in enumerate(sets):
        every = everything(name)
        columns: list[tuple[float, float, Spread | None, float]] = []
        for weight in weights:
            recipe = _seeded(RECIPES[f"bounds-{name}"], seed)
            recipe = replace(recipe, objective=OutputMargin(weight=weight))
            model = recipe.run(accelerator="cpu").model
            attack = FastGradient(max_eps=max_eps)(_free(model, name), every.x.double())
            columns.append(
                (
                    accuracy(model, every),
                    float(attack.success.double().mean()),
                    Spread.of(attack.distance),
                    accuracy(model, data.load(name, "test")),
                )
            )
            if advance is not None:
                advance(row * len(weights) + len(columns), len(sets) * len(weights))
        found[name] = Regularised(tuple(weights), *zip(*columns, strict=True))
    return found


def everything(name: str) -> Dataset:
    """All splits of a data set as one."""
    parts = [data.load(name, part) for part in PARTS]
    return replace(
        parts[0],
        split="all",
        x=torch.cat([part.x for part in parts]),
        y=torch.cat([part.y for part in parts]),
    )


def _free(model: nn.Module, name: str) -> Classifier:
    """In float64 and without input bounds, as Theorem 4.2 has it."""
    return Classifier(
        model, bounds=(-torch.inf, torch.inf), dtype=torch.float64, name=f"MLP on {name}"
    )


def _seeded(recipe: Recipe, seed: int) -> Recipe:
    return replace(recipe, settings=replace(recipe.settings, seed=seed))
