"""Fig. 5.12 and 5.13 of the Bounds thesis: how bounds grow with layers, computed and measured."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbowroom.attacks import Attack
from elbowroom.certificates import Certificate
from elbowroom.classifier import Classifier
from elbowroom.papers.bounds_compare import BEST, Measured, measure, radii_or_reason
from elbowroom.papers.lra import Advance

SCALE = 0.9
ALPHA, DELTA, KAPPA = 0.01, 0.1, 2.0
# Layers of their own in Algorithm 5.1; what follows the flattening is one more.
LAYERS = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.LocalResponseNorm, nn.BatchNorm2d)


def increase_by_scaling(kernels: int, scale: float = SCALE) -> float:
    """`(1 - eps)^-n`, the curve of Fig. 5.12: the bound's factor with n kernels scaled (5.4).

    It leaves out that the margin of the logits, which the bound is proportional to, shrinks too.
    """
    return scale**-kernels


def increase_by_layers(
    layers: int, *, alpha: float = ALPHA, delta: float = DELTA, kappa: float = KAPPA
) -> float:
    """`1 + delta (1 - alpha^-L) / (kappa_L (1 - alpha^-1))`, the curve of Fig. 5.13.

    alpha: `kappa_l / kappa_(l+1)`, other than 1. delta: what every layer's bound is raised by.
    kappa: that of the last layer.
    """
    return 1 + delta * (1 - alpha**-layers) / (kappa * (1 - 1 / alpha))


def increase(kappas: Tensor, delta: Tensor) -> Tensor:
    """`(L, N)`: eq. 5.13, `1 + delta sum_l 1 / kappa_l`, for the last 1, ..., L layers.

    kappas: `(L, N)`: bounds at the inputs of L layers, the last first. delta: `(N,)`.
    """
    return 1 + delta * (1 / kappas).cumsum(dim=0)


@dataclass(frozen=True)
class ScaledKernels:
    """A network with its first 0, ..., n kernels scaled.

    measured: one for each number of kernels. accuracy: on the same samples.
    margins:  medians of the difference between the two largest logits.
    """

    scale: float
    measured: tuple[Measured, ...]
    accuracy: tuple[float, ...]
    margins: tuple[float, ...]

    def relative(self, bound: str | None = None) -> list[float]:
        """Medians of a bound, or of the nearest distance found, relative to no kernel scaled."""
        medians = [
            float((m.distance(BEST) if bound is None else m.radii[bound]).nanquantile(0.5))
            for m in self.measured
        ]
        return [value / medians[0] if medians[0] else torch.nan for value in medians]


def scaled_kernels(
    clf: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    attacks: Mapping[str, Attack],
    bounds: Mapping[str, Certificate],
    scale: float = SCALE,
    advance: Advance | None = None,
) -> ScaledKernels:
    """Fig. 5.12 on a network: its convolutions scaled one after another, biases left alone."""
    network = copy.deepcopy(clf.network)
    kernels = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    if not kernels:
        raise ValueError(f"{clf.name} has no convolutions to scale: choose another network")
    found, right, margins = [], [], []
    for count in range(len(kernels) + 1):
        if count:
            with torch.no_grad():
                kernels[count - 1].weight.mul_(scale)
        # A classifier keeps the graph that it has traced, so that each has a copy of its own.
        scaled = Classifier(copy.deepcopy(network), bounds=(clf.lower, clf.upper), name=clf.name)
        found.append(measure(scaled, x, attacks=attacks, bounds=bounds, network=count))
        with scaled.session():
            logits = scaled.logits(x)
        right.append(float((logits.argmax(dim=1) == y).double().mean()))
        best = logits.topk(2, dim=1).values
        margins.append(float((best[:, 0] - best[:, 1]).double().quantile(0.5)))
        if advance is not None:
            advance(count + 1, len(kernels) + 1)
    return ScaledKernels(scale, tuple(found), tuple(right), tuple(margins))


@dataclass(frozen=True)
class LayerBounds:
    """A bound at the input of every layer of a network: kappa_1, ..., kappa_L.

    layers: names, the first layer first; the last is all that follows the flattening.
    kappas: name of a bound -> `(L, N)`, in the order of `layers`; bounds that refuse a part of
            the network are left out, with the reason in `refused`.
    """

    layers: tuple[str, ...]
    kappas: dict[str, Tensor]
    refused: dict[str, str]

    def relative(self, bound: str, share: float = DELTA / KAPPA) -> list[float]:
        """Eq. 5.13 for the last 1, ..., L layers: medians over samples whose bounds are positive.

        share: delta by kappa_L, so that no unit matters; 0.05 in Fig. 5.13.
        """
        kappas = self.kappas[bound].flip(0)
        kappas = kappas[:, (kappas > 0).all(dim=0)]
        if not kappas.shape[1]:
            return [torch.nan] * len(kappas)
        return increase(kappas, share * kappas[0]).quantile(0.5, dim=1).tolist()

    def ratios(self, bound: str) -> list[float]:
        """Medians of `kappa_l / kappa_(l+1)`, which Fig. 5.13 takes to be 0.01 for all layers."""
        kappas = self.kappas[bound]
        return (kappas[:-1] / kappas[1:]).nanquantile(0.5, dim=1).tolist()


def layer_bounds(clf: Classifier, x: Tensor, *, bounds: Mapping[str, Certificate]) -> LayerBounds:
    """Bound the rest of the network behind each layer, at what the samples `x` are there.

    Raises `ValueError` for networks that are not an `nn.Sequential` with a convolution or pooling.
    """
    network = clf.network
    if not isinstance(network, nn.Sequential):
        raise ValueError(f"{clf.name} is not a chain of layers (nn.Sequential)")
    children = list(network.named_children())
    places = [n for n, (_, layer) in enumerate(children) if isinstance(layer, LAYERS)]
    if not places:
        raise ValueError(f"{clf.name} has no convolution and no pooling: choose another network")
    flat = [n for n, (_, layer) in enumerate(children) if isinstance(layer, nn.Flatten)]
    # A network that ends in its flattening has no part of its own behind it.
    places += [n + 1 for n in flat if n + 1 < len(children)]
    kappas: dict[str, list[Tensor]] = {name: [] for name in bounds}
    refused: dict[str, str] = {}
    with clf.session():
        inputs = _inputs([layer for _, layer in children], x)
    for place in places:
        rest = nn.Sequential(*(layer for _, layer in children[place:]))
        tail = Classifier(rest, bounds=(-torch.inf, torch.inf), name=clf.name)
        for name, bound in bounds.items():
            radii, reason = radii_or_reason(bound, tail, inputs[place])
            kappas[name].append(radii)
            if reason is not None:
                refused.setdefault(name, reason)
    names = tuple(children[place][0] for place in places)
    stacked = {name: torch.stack(rows) for name, rows in kappas.items() if name not in refused}
    return LayerBounds(names, stacked, refused)


def _inputs(layers: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """What enters each layer."""
    found = [x]
    with torch.no_grad():
        for layer in layers[:-1]:
            found.append(layer(found[-1]))
    return found
