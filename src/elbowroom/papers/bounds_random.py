"""Tables 3.1 and 4.2 of the Bounds thesis: random linear classifiers and random MLPs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from elbowroom import models
from elbowroom.attacks import FGS, Attack, Closest, DeepFool
from elbowroom.certificates import Certificate
from elbowroom.classifier import Classifier
from elbowroom.norms import L2
from elbowroom.papers.bounds_compare import FastGradient, Measured, joined, measure
from elbowroom.papers.lra import Advance


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A row of Table 3.1 (without hidden layers) or 4.2.

    networks, samples: how many, and samples for each network.
    layers, units:     hidden layers, and units in each. The thesis has "units per MLP", which
                       does not divide by the layers; units per layer is how it is read here.
    sample_range:      samples are uniform in [-a, a]. parameter_range: weights and biases too.
    published:         mean, median and standard deviation of the deviations in the thesis.
    """

    networks: int
    samples: int
    features: int
    layers: int = 0
    units: int = 0
    classes: int
    sample_range: float = 1.0
    parameter_range: float = 1.0
    published: tuple[float, float, float]

    def describe(self) -> str:
        """In a few words, as the rows of a table are called."""
        hidden = f"{self.layers} x {self.units} units, " if self.layers else ""
        return (
            f"{self.features} features, {hidden}{self.classes} classes, "
            f"x in ±{self.sample_range:g}, W in ±{self.parameter_range:g}"
        )


_LINEAR = Setting(
    networks=100, samples=10, features=2, classes=5, published=(0.9283, 0.8637, 0.5558)
)
TABLE_3_1 = (
    _LINEAR,
    replace(_LINEAR, features=20, published=(3.783, 3.782, 0.5845)),
    replace(_LINEAR, classes=50, published=(1.015, 0.9544, 0.5454)),
    replace(_LINEAR, sample_range=10.0, published=(4.937, 4.498, 2.6364)),
    replace(_LINEAR, parameter_range=10.0, published=(1.061, 1.076, 0.5376)),
)

_MLP = Setting(
    networks=100,
    samples=10,
    features=2,
    layers=3,
    units=10,
    classes=5,
    published=(0.6323, 0.5547, 0.3359),
)
TABLE_4_2 = (
    _MLP,
    replace(_MLP, sample_range=100.0, published=(0.6405, 0.5849, 0.4164)),
    replace(_MLP, parameter_range=100.0, published=(0.4336, 0.3039, 0.4211)),
    replace(_MLP, features=20, published=(1.1929, 0.9920, 0.9067)),
    replace(_MLP, units=30, published=(0.6533, 0.6304, 0.3058)),
    replace(_MLP, classes=50, published=(0.6276, 0.6121, 0.2673)),
    replace(_MLP, layers=6, units=20, published=(0.6631, 0.6051, 0.2996)),
    replace(_MLP, networks=10, samples=100, sample_range=10.0, published=(0.6561, 0.6170, 0.3213)),
)


def random_network(
    setting: Setting, activation: str, seed: Sequence[int]
) -> tuple[Classifier, Tensor]:
    """A network of `setting` in float64, without input bounds, and samples `(N, features)`.

    seed: numbers that fix both.
    """
    state = np.random.SeedSequence(list(seed)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> 1))
    sizes = [setting.features, *[setting.units] * setting.layers, setting.classes]
    network = models.build("mlp", sizes=sizes, activation=activation).double()
    with torch.no_grad():
        for values in network.parameters():
            a = setting.parameter_range
            values.uniform_(-a, a, generator=generator)
    x = torch.rand(setting.samples, setting.features, dtype=torch.float64, generator=generator)
    name = f"random {'MLP' if setting.layers else 'linear classifier'}"
    clf = Classifier(network, bounds=(-torch.inf, torch.inf), name=name)
    return clf, (2 * x - 1) * setting.sample_range


def measure_random(
    settings: Sequence[Setting],
    *,
    attacks: Mapping[str, Attack],
    bounds: Mapping[str, Certificate],
    activation: str = "tanh",
    exact_seconds: float | None = None,
    seed: int = 0,
    advance: Advance | None = None,
) -> list[Measured]:
    """Each setting's samples, all networks together; `Measured.networks` tells them apart.

    activation: one of `models.mlp`. The others are as for `bounds_compare.measure`.
    """
    found, done = [], 0
    total = sum(setting.networks for setting in settings)
    for row, setting in enumerate(settings):
        parts = []
        for network in range(setting.networks):
            clf, x = random_network(setting, activation, (seed, row, network))
            parts.append(
                measure(
                    clf,
                    x,
                    attacks=attacks,
                    bounds=bounds,
                    exact_seconds=exact_seconds,
                    network=network,
                )
            )
            done += 1
            if advance is not None:
                advance(done, total)
        found.append(joined(parts))
    return found


def table_3_1(
    bounds: Mapping[str, Certificate],
    *,
    settings: Sequence[Setting] = TABLE_3_1,
    seed: int = 0,
    advance: Advance | None = None,
) -> list[Measured]:
    """Table 3.1 and Fig. 3.2: FGS with a search for the smallest step, and the exact distance.

    For linear classifiers the bound of Theorem 3.6 *is* the distance, so that the deviations of FGS
    from it say how far FGS is from the best: its direction, the sign of the gradient, is minimal in
    Linf and for two classes only.
    """
    attacks = {
        "FGS": FGS(norm=L2),
        "DeepFool": DeepFool(candidates=max(setting.classes for setting in settings)),
    }
    return measure_random(
        settings, attacks=attacks, bounds=bounds, exact_seconds=10.0, seed=seed, advance=advance
    )


def table_4_2(
    bounds: Mapping[str, Certificate],
    *,
    settings: Sequence[Setting] = TABLE_4_2,
    activation: str = "tanh",
    max_eps: float | None = 1.0,
    budget: int = 300,
    exact_seconds: float | None = None,
    seed: int = 0,
    advance: Advance | None = None,
) -> list[Measured]:
    """Table 4.2 and Fig. 4.1: FGS or FGV as in the thesis, and the strongest attack.

    activation:    the thesis does not say which one the random MLPs have. By default that of its
                   trained ones; deviations with "relu" are of the same size.
    max_eps:       of FGS; that the thesis stops at 1 follows from 5.3.1 ("instead of 1"). Only so
                   are deviations below 1 where samples lie in [-100, 100]; what needs longer
                   steps is left out of them.
    budget:        of `Closest`.
    exact_seconds: also the exact distance, for piecewise affine activations.
    """
    attacks = {"FGS or FGV": FastGradient(max_eps=max_eps), "Closest": Closest(budget=budget)}
    return measure_random(
        settings,
        attacks=attacks,
        bounds=bounds,
        activation=activation,
        exact_seconds=exact_seconds,
        seed=seed,
        advance=advance,
    )
