"""Multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from elbowroom.models.initialise import he_normal

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky-relu": nn.LeakyReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}


def mlp(*, sizes: Sequence[int] = (784, 100, 10), activation: str = "relu") -> nn.Sequential:
    """A multilayer perceptron on the flattened input.

    sizes:      number of input features, units of each hidden layer, number of classes. An input
                of another number of features is an error of the first layer, which names both.
    activation: a name in `ACTIVATIONS`, after every layer but the last.

    `sizes=(4, 5, 3)`, `(13, 5, 3, 3)` and `(57, 7, 5, 3, 2)` with tanh are the networks of the
    Bounds thesis (Table 4.3) on Iris, Wine and Spambase.
    """
    sizes = list(sizes)
    if len(sizes) < 2 or any(not isinstance(size, int) or size < 1 for size in sizes):
        raise ValueError(
            f"sizes must be at least two positive integers (features, ..., classes), got {sizes}"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}; choose {', '.join(ACTIVATIONS)}")
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def fonts_mlp(
    *, features: int = 784, classes: int = 10, width: int = 128, depth: int = 4
) -> nn.Sequential:
    """The multilayer perceptron of the Manifold paper (supplement F): 784-128-128-128-128-10.

    Every hidden layer is followed by ReLU and then batch norm.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        layers += [nn.Linear(features, width), nn.ReLU(), nn.BatchNorm1d(width)]
        features = width
    return he_normal(nn.Sequential(*layers, nn.Linear(features, classes)))


def raghunathan_mnist() -> nn.Sequential:
    """784-500-10 with ReLU (Raghunathan, Steinhardt, Liang 2018, "Certified Defenses").

    Its published weights are a folder of `.npy` files, which `elbowroom.models.load` reads.
    """
    return mlp(sizes=(784, 500, 10))
