"""Robustness and generalisation over the number of training images (Manifold, Fig. 5 and 6)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from scipy import stats

from elbowroom import data
from elbowroom.attacks import PGD
from elbowroom.classifier import Classifier
from elbowroom.data import Dataset
from elbowroom.files import write_atomically
from elbowroom.manifold import LatentPGD
from elbowroom.manifold.rates import Rate, rate
from elbowroom.manifold.registry import decoder
from elbowroom.norms import Linf
from elbowroom.papers.lra import Advance
from elbowroom.training import (
    Adversarial,
    Objective,
    OnManifold,
    Plain,
    Recipe,
    TrainingRun,
)

REACH = 0.2  # 40 Adam steps of 0.005: what fewer steps have to cover as well
RESULT_FILE = "measured.json"
BATCH = 500

#: Training -> its objective, of the number of inner steps and the decoder of the manifold.
TRAININGS: dict[str, Callable[[int, str], Objective]] = {
    "normal": lambda steps, manifold: Plain(),
    "adversarial": lambda steps, manifold: Adversarial(
        eps=0.3, steps=steps, rule="adam", step_size=REACH / steps
    ),
    "on-manifold": lambda steps, manifold: OnManifold(
        decoder=manifold, steps=steps, learning_rate=REACH / steps
    ),
    "transformations": lambda steps, manifold: OnManifold(
        decoder="transformations", steps=steps, learning_rate=REACH / steps
    ),
    "random transformations": lambda steps, manifold: OnManifold(
        decoder="transformations", search="random"
    ),
    "random perturbations": lambda steps, manifold: Adversarial(
        eps=0.3, steps=steps, search="random"
    ),
}


@dataclass(frozen=True)
class Trained:
    """One network: how it was trained, on how many images, and what was measured of it.

    error:       on test images. regular, on_manifold: success rates of attacks on those that are
                 classified correctly.
    perturbation: mean length (Linf) of the regular examples found.
    """

    training: str
    images: int
    seed: int
    error: Rate
    regular: Rate
    on_manifold: Rate
    perturbation: float


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is trained and measured; the defaults are the paper's (3.1), except `images`.

    images:   of each training set. seeds: networks for each of them.
    model:    by name. data: a data set whose manifold `manifold` decodes, for both splits.
    epochs:   whole passes. steps: of the inner attacks.
    tested:   test images. attacked: of these, with `restarts` runs of each attack.
    """

    trainings: Sequence[str] = tuple(TRAININGS)
    images: Sequence[int] = (250, 500, 1000, 2500, 5000, 10_000)
    seeds: int = 5
    model: str = "fonts-cnn"
    data: str = "fonts"
    manifold: str = "fonts"
    epochs: int = 20
    steps: int = 40
    tested: int = 10_000
    attacked: int = 1000
    restarts: int = 5

    def __post_init__(self) -> None:
        unknown = [name for name in self.trainings if name not in TRAININGS]
        if unknown:
            raise ValueError(f"unknown training {unknown[0]!r}; choose {', '.join(TRAININGS)}")
        for name in ("seeds", "epochs", "steps", "tested", "attacked", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.images or min(self.images) < 2:
            raise ValueError(f"images must be at least 2 each, got {list(self.images)}")

    def recipe(self, training: str, images: int, seed: int) -> Recipe:
        return Recipe(
            model=self.model,
            data=self.data,
            count=images,
            validation_count=min(self.tested, 1000),
            objective=TRAININGS[training](self.steps, self.manifold),
            settings=TrainingRun(epochs=self.epochs, seed=seed),
        )

    def measured_by(self) -> dict[str, Any]:
        """The options that results depend on beside those of one training."""
        varying = ("trainings", "images", "seeds")
        return {name: value for name, value in asdict(self).items() if name not in varying}


def sweep(
    plan: Sweep,
    folder: Path,
    *,
    seed: int = 0,
    advance: Advance | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Trained]:
    """Train and measure every network; what `folder` has already is taken from there.

    An interrupted training goes on after its last epoch.
    """
    test = data.load(plan.data, "test", plan.tested)
    wanted = [
        (training, images, seed + n)
        for images in plan.images
        for n in range(plan.seeds)
        for training in plan.trainings
    ]
    found = []
    for training, images, number in wanted:
        name = f"{training.replace(' ', '-')}-{images}-seed{number}-{_digest(plan)}"
        file = folder / name / RESULT_FILE
        if not file.exists():
            if say is not None:
                say(f"{training}, {images} images, seed {number}")
            one = _measured(plan, training, images, number, folder / name, test)
            write_atomically(file, json.dumps(asdict(one)).encode())
        found.append(_read(file))
        if advance is not None:
            advance(len(found), len(wanted))
    return found


def _digest(plan: Sweep) -> str:
    return hashlib.sha256(json.dumps(plan.measured_by()).encode()).hexdigest()[:8]


def _read(file: Path) -> Trained:
    values = json.loads(file.read_text(encoding="utf-8"))
    rates = {name: Rate(**values[name]) for name in ("error", "regular", "on_manifold")}
    return Trained(**{**values, **rates})


def _measured(
    plan: Sweep, training: str, images: int, seed: int, folder: Path, test: Dataset
) -> Trained:
    recipe = plan.recipe(training, images, seed)
    model = recipe.run(folder, accelerator="cpu").model
    clf = Classifier(model, bounds=test.bounds)
    with clf.session():
        decisions = torch.cat([clf.logits(x).argmax(dim=1) for x in torch.split(test.x, BATCH)])
    x, y = test.x[: plan.attacked], test.y[: plan.attacked]
    right = decisions[: plan.attacked] == y
    regular = replace(PGD.published_manifold(Linf, seed=seed), restarts=plan.restarts)
    along = LatentPGD(restarts=plan.restarts, seed=seed)
    manifold = decoder(plan.manifold, "test")
    off = regular(clf, x, y)
    on = along(clf, manifold, manifold.encode(x, y), y)
    lengths = off.distance[off.success & right]
    return Trained(
        training=training,
        images=images,
        seed=seed,
        error=rate(decisions != test.y),
        regular=rate(off.success, right),
        on_manifold=rate(on.success, right & on.correct),
        perturbation=float(lengths.mean()) if len(lengths) else math.nan,
    )


@dataclass(frozen=True)
class Mean:
    """Over the seeds: a mean and its 95 % interval (Student's; of one seed, Wilson's)."""

    value: float
    lower: float
    upper: float


def mean_of(rates: Sequence[Rate]) -> Mean:
    values = [one.value for one in rates]
    if len(values) == 1:
        return Mean(rates[0].value, rates[0].lower, rates[0].upper)
    middle = sum(values) / len(values)
    error = float(stats.sem(values)) * float(stats.t.ppf(0.975, len(values) - 1))
    return Mean(middle, middle - error, middle + error)


def by_training(found: Sequence[Trained], name: str) -> dict[str, dict[int, Mean]]:
    """Training -> number of images -> the mean of `name`, a rate of `Trained`."""
    groups: dict[str, dict[int, list[Rate]]] = {}
    for one in found:
        groups.setdefault(one.training, {}).setdefault(one.images, []).append(getattr(one, name))
    return {
        training: {images: mean_of(rates) for images, rates in sorted(group.items())}
        for training, group in groups.items()
    }


def rank_correlations(found: Sequence[Trained]) -> Mapping[str, tuple[float, float]]:
    """Training -> Spearman's correlations of test error with the on-manifold and the regular
    success rate, over its networks; NaN where there are fewer than three, or a rate is constant.
    """
    correlations = {}
    for training in dict.fromkeys(one.training for one in found):
        own = [one for one in found if one.training == training]
        errors = [one.error.value for one in own]
        correlations[training] = (
            _spearman(errors, [one.on_manifold.value for one in own]),
            _spearman(errors, [one.regular.value for one in own]),
        )
    return correlations


def _spearman(a: Sequence[float], b: Sequence[float]) -> float:
    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    return float(stats.spearmanr(a, b).statistic)
