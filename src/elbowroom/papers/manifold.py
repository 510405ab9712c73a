"""Robustness and generalisation over the number of training images (Manifold, Fig. 5 and 6)."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from torch import nn

from elbowroom import data
from elbowroom.classifier import Classifier
from elbowroom.files import write_atomically
from elbowroom.manifold.rates import Rate, rate
from elbowroom.papers.lra import Advance
from elbowroom.papers.manifold_attacks import ATTACKS, DATA_ETA, Success, Trial, decisions
from elbowroom.training import (
    Adversarial,
    Combined,
    Objective,
    OnManifold,
    Plain,
    Recipe,
    TrainingRun,
)

REACH = 0.2  # 40 Adam steps of 0.005: what fewer steps have to cover as well
SURROGATE_IMAGES = 10_000  # of the network that examples are transferred from (suppl. E)
SURROGATE_SEED = 1_000_003  # no other network has it


@dataclass(frozen=True)
class Trained:
    """One network: how it was trained, on how many images, and what was measured of it.

    error:   on test images. success: attack of `ATTACKS` -> of those classified correctly.
    """

    training: str
    images: int
    seed: int
    error: Rate
    success: dict[str, Success]

    def rate(self, name: str) -> Rate:
        """The test error for "error", else the success rate of the attack."""
        return self.error if name == "error" else self.success[name].rate


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is trained and measured; the defaults are the paper's (3.1), except `images`.

    trainings, attacks: names in `TRAININGS` and `ATTACKS`.
    images:   of each training set. seeds: networks for each of them.
    model:    by name. data: a data set whose manifold `manifold` decodes, for both splits.
    data_manifold: decodes images of all classes without knowing which; only "on-data-manifold"
              needs it.
    epochs:   whole passes. steps: of the inner attacks.
    tested:   test images. attacked: of these, with `restarts` runs of each attack.
    """

    trainings: Sequence[str] = (
        "normal", "adversarial", "on-manifold", "transformations", "random transformations",
    )  # fmt: skip
    attacks: Sequence[str] = ("on-manifold", "regular")
    images: Sequence[int] = (250, 500, 1000, 2500, 5000, 10_000)
    seeds: int = 5
    model: str = "fonts-cnn"
    data: str = "fonts"
    manifold: str = "fonts"
    data_manifold: str = ""
    epochs: int = 20
    steps: int = 40
    tested: int = 10_000
    attacked: int = 1000
    restarts: int = 5

    def __post_init__(self) -> None:
        for what, names, known in (
            ("training", self.trainings, TRAININGS), ("attack", self.attacks, ATTACKS),
        ):  # fmt: skip
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"unknown {what} {unknown[0]!r}; choose {', '.join(known)}")
            if not names:
                raise ValueError(f"there must be at least one {what}")
        for name in ("seeds", "epochs", "steps", "tested", "attacked", "restarts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.images or min(self.images) < 2:
            raise ValueError(f"images must be at least 2 each, got {list(self.images)}")
        needs = [name for name in (*self.trainings, *self.attacks) if name == "on-data-manifold"]
        if needs and not self.data_manifold:
            raise ValueError(
                "on-data-manifold needs data_manifold, the folder of a VAE-GAN of all classes: "
                "elbowroom manifold train --all-classes makes it"
            )

    @property
    def rate(self) -> float:
        """The learning rate with which the inner steps go as far as the paper's."""
        return REACH / self.steps

    def recipe(self, training: str, images: int, seed: int) -> Recipe:
        return Recipe(
            model=self.model,
            data=self.data,
            count=images,
            validation_count=min(self.tested, 1000),
            objective=TRAININGS[training](self),
            settings=TrainingRun(epochs=self.epochs, seed=seed),
        )


def _adversarial(plan: Sweep, **options: Any) -> Objective:
    return Adversarial(eps=0.3, steps=plan.steps, rule="adam", step_size=plan.rate, **options)


def _on_manifold(plan: Sweep, decoder: str, **options: Any) -> Objective:
    return OnManifold(decoder=decoder, steps=plan.steps, learning_rate=plan.rate, **options)


#: Training -> its objective (3.1, 3.4.1, 3.6 and suppl. G, H).
TRAININGS: dict[str, Callable[[Sweep], Objective]] = {
    "normal": lambda plan: Plain(),
    "adversarial": lambda plan: _adversarial(plan),
    "on-manifold": lambda plan: _on_manifold(plan, plan.manifold),
    "transformations": lambda plan: _on_manifold(plan, "transformations"),
    "random transformations": lambda plan: _on_manifold(plan, "transformations", search="random"),
    "random perturbations": lambda plan: _adversarial(plan, search="random"),
    "combined": lambda plan: Combined(
        eps=0.3,
        decoder=plan.manifold,
        steps=plan.steps,
        learning_rate=plan.rate,
    ),
    "adversarial, full": lambda plan: _adversarial(plan, weight=1.0),
    "adversarial, weak": lambda plan: _adversarial(plan, search="first"),
    "on-manifold, full": lambda plan: _on_manifold(plan, plan.manifold, weight=1.0),
    "on-manifold, weak": lambda plan: _on_manifold(plan, plan.manifold, search="first"),
    "on-data-manifold": lambda plan: _on_manifold(plan, plan.data_manifold, eta=DATA_ETA),
}


def sweep(
    plan: Sweep,
    folder: Path,
    *,
    seed: int = 0,
    advance: Advance | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Trained]:
    """Train and measure every network; what `folder` has already is taken from there.

    An interrupted training goes on after its last epoch, and each measurement is kept.
    """
    for training in plan.trainings:
        plan.recipe(training, 2, seed)  # a decoder that is missing shows before anything long
    test = data.load(plan.data, "test", plan.tested)
    attacked = data.load(plan.data, "test", min(plan.attacked, plan.tested))

    def network(training: str, images: int, number: int) -> _Network:
        name = f"{training.replace(', ', '-').replace(' ', '-')}-{images}-seed{number}"
        recipe = plan.recipe(training, images, number)
        place = folder / f"{name}-{_digest(_determines(recipe))}"
        return _Network(recipe, place, f"{training}, {images} images, seed {number}", say)

    trial = Trial(
        attacked,
        manifold=plan.manifold,
        data_manifold=plan.data_manifold,
        restarts=plan.restarts,
        seed=seed,
        surrogate=lambda: network("normal", SURROGATE_IMAGES, SURROGATE_SEED).model,
    )
    wanted = [
        (training, images, seed + n)
        for images in plan.images
        for n in range(plan.seeds)
        for training in plan.trainings
    ]
    found = []
    for training, images, number in wanted:
        one = network(training, images, number)
        success = {name: _kept(one, name, trial, plan) for name in plan.attacks}
        found.append(Trained(training, images, number, _error(one, test, plan), success))
        if advance is not None:
            advance(len(found), len(wanted))
    return found


class _Network:
    """A network that is trained when it is first needed."""

    def __init__(
        self, recipe: Recipe, folder: Path, name: str, say: Callable[[str], None] | None
    ) -> None:
        self.recipe, self.folder, self.name, self.say = recipe, folder, name, say
        self._model: nn.Module | None = None

    @property
    def model(self) -> nn.Module:
        if self._model is None:
            if self.say is not None:
                self.say(self.name)
            self._model = self.recipe.run(self.folder, accelerator="cpu").model
        return self._model


def _error(network: _Network, test: data.Dataset, plan: Sweep) -> Rate:
    file = network.folder / f"error-{plan.tested}.json"
    if not file.exists():
        clf = Classifier(network.model, bounds=test.bounds)
        found = rate(decisions(clf, test.x) != test.y)
        write_atomically(file, json.dumps(asdict(found)).encode())
    return Rate(**json.loads(file.read_text(encoding="utf-8")))


def _kept(network: _Network, attack: str, trial: Trial, plan: Sweep) -> Success:
    through = [_version(spec) for spec in (plan.manifold, plan.data_manifold)]
    options = [plan.attacked, plan.restarts, trial.seed, *through]
    file = network.folder / f"{attack.replace(' ', '-')}-{_digest(options)}.json"
    if not file.exists():
        clf = trial.classifier(network.model)
        right = decisions(clf, trial.x) == trial.y
        found = ATTACKS[attack](trial, clf).among(right)
        values = asdict(found)
        # JSON has no NaN.
        values["length"] = None if math.isnan(found.length) else found.length
        write_atomically(file, json.dumps(values).encode())
    values = json.loads(file.read_text(encoding="utf-8"))
    length = math.nan if values["length"] is None else values["length"]
    return Success(Rate(**values["rate"]), length)


def _determines(recipe: Recipe) -> dict[str, Any]:
    """What a network depends on, beside what its folder is named after."""
    found = {"model": recipe.model, "data": recipe.data, "epochs": recipe.settings.epochs}
    objective = recipe.objective.describe()
    if "decoder" in objective:
        objective["decoder"] = _version(objective["decoder"])
    return {**found, **objective}


def _version(spec: str) -> str:
    """A decoder's name, with a digest of its weights: another VAE-GAN is another manifold."""
    files = sorted(Path(spec).rglob("*.safetensors")) if spec and Path(spec).is_dir() else []
    weights = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return f"{spec} {_digest(weights)}" if weights else spec


def _digest(options: Any) -> str:
    return hashlib.sha256(json.dumps(options).encode()).hexdigest()[:8]


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
    """Training -> number of images -> the mean of `Trained.rate(name)`."""
    groups: dict[str, dict[int, list[Rate]]] = {}
    for one in found:
        groups.setdefault(one.training, {}).setdefault(one.images, []).append(one.rate(name))
    return {
        training: {images: mean_of(rates) for images, rates in sorted(group.items())}
        for training, group in groups.items()
    }


@dataclass(frozen=True)
class Correlation:
    """How a success rate follows the test error. NaN for fewer than three, or constant rates.

    networks, means: Spearman's, over all networks of a training, and over the means of the seeds.
    slope: by how much success falls if the error falls by 1, by least squares over the networks:
           ranks say nothing of size, and find an order in rates that are all near 1.
    """

    networks: float
    means: float
    slope: float


def rank_correlations(found: Sequence[Trained]) -> Mapping[str, dict[str, Correlation]]:
    """Training -> attack -> its correlation."""
    means = by_training(found, "error")
    correlations: dict[str, dict[str, Correlation]] = {training: {} for training in means}
    for attack in found[0].success:
        middle = by_training(found, attack)
        for training in means:
            own = [one for one in found if one.training == training]
            errors = [one.error.value for one in own]
            rates = [one.rate(attack).value for one in own]
            correlations[training][attack] = Correlation(
                _spearman(errors, rates),
                _spearman(
                    [mean.value for mean in means[training].values()],
                    [mean.value for mean in middle[training].values()],
                ),
                _slope(errors, rates),
            )
    return correlations


def images_needed(found: Sequence[Trained]) -> dict[str, dict[int, float]]:
    """Training -> its images -> times as many of them, with which normal training is as accurate.

    Sample complexity (3.6, Fig. 7): 0.5 where a training needs twice the images of normal
    training. Mean errors of normal training are interpolated over the logarithm of the images;
    what lies outside of them is left out.
    """
    means = by_training(found, "error")
    normal = means.pop("normal", {})
    sizes = [math.log(images) for images in normal]
    # More images never count as worse, so that errors have one place each.
    errors = list(itertools.accumulate((mean.value for mean in normal.values()), min))
    needed: dict[str, dict[int, float]] = {}
    for training, own in means.items():
        needed[training] = {}
        for images, mean in own.items():
            if len(errors) > 1 and errors[-1] <= mean.value <= errors[0]:
                there = float(np.interp(-mean.value, [-error for error in errors], sizes))
                needed[training][images] = math.exp(there) / images
    return needed


def _spearman(a: Sequence[float], b: Sequence[float]) -> float:
    if len(a) < 3 or len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    return float(stats.spearmanr(a, b).statistic)


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    if len(x) < 3 or len(set(x)) < 2:
        return math.nan
    return float(stats.linregress(x, y).slope)
