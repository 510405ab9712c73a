"""Random layers for the rules of the sound certificates, and what these claim of them.

The claims come from the certificates' own readings of the traced layer: a violation would be a
mistake in one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn

from elbowroom.certificates.base import Certificate
from elbowroom.certificates.gain import gains, tails
from elbowroom.certificates.hunt import Case, LayerRule
from elbowroom.certificates.layer_wise import LayerWise
from elbowroom.certificates.lipschitz import GlobalLipschitz
from elbowroom.certificates.modulus import Modulus, largest_radius
from elbowroom.certificates.random_layers import POINTS, frozen, spread, uniform, whole
from elbowroom.certificates.rounding import layer_errors, rounding
from elbowroom.classifier import Classifier
from elbowroom.graph import Graph, trace
from elbowroom.graph.evaluate import evaluate
from elbowroom.norms import L2

Layer = tuple[nn.Module, Tensor]
"""A layer and `POINTS` inputs of it."""
Claim = Callable[[Graph, Tensor, Tensor], Tensor]


class Residual(nn.Module):
    """`x + inner(x)`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.inner(x)
        return x + inner


class Dense(Residual):
    """`x` and `inner(x)` beside each other."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], dim=1)


def _images(g: Generator, channels: int, low: float = -1.0) -> Tensor:
    return spread(g, 0.1, 10) * uniform(g, low, 1, POINTS, channels, whole(g, 5, 7), 6)


def _dense(g: Generator) -> Layer:
    inputs = whole(g, 1, 6)
    layer = frozen(nn.Linear(inputs, whole(g, 1, 6)), g)
    return layer, uniform(g, -1, 1, POINTS, inputs)


def _convolution(g: Generator) -> Layer:
    kernel, groups = whole(g, 1, 3), whole(g, 1, 2)
    layer = nn.Conv2d(
        2, 2 * whole(g, 1, 2), kernel, whole(g, 1, 3), whole(g, 0, 2), whole(g, 1, 2), groups
    )
    return frozen(layer, g, float(uniform(g, -1, 1))), _images(g, 2)


def _normalised(g: Generator) -> nn.BatchNorm2d:
    layer = frozen(nn.BatchNorm2d(3), g)
    assert layer.running_var is not None
    layer.running_var.copy_(spread(g, 1e-2, 1e2, 3))
    return layer


def _batch_norm(g: Generator) -> Layer:
    parts: list[nn.Module] = [_normalised(g)]
    if whole(g, 0, 1):
        parts.insert(whole(g, 0, 1), frozen(nn.Conv2d(3, 3, 2, padding=1), g))
    return nn.Sequential(*parts), _images(g, 3)


def _max_pool(g: Generator) -> Layer:
    kernel = whole(g, 2, 3)
    layer = nn.MaxPool2d(kernel, whole(g, 1, 3), whole(g, 0, 1), whole(g, 1, 2))
    return layer, _images(g, 1)


def _average_pool(g: Generator) -> Layer:
    kernel, include = whole(g, 2, 3), bool(whole(g, 0, 1))
    ceil = bool(whole(g, 0, 1))
    layer = nn.AvgPool2d(kernel, whole(g, 1, 3), whole(g, 0, 1), ceil, include)
    return layer, _images(g, 1)


def _lp_pool(g: Generator) -> Layer:
    p = [1.0, 1.5, 2.0, 3.0, 4.0][whole(g, 0, 4)]
    layer = nn.LPPool2d(p, whole(g, 2, 3), whole(g, 1, 3), bool(whole(g, 0, 1)))
    return nn.Sequential(nn.ReLU(), layer), _images(g, 1, low=-0.2)


def _response_norm(g: Generator) -> Layer:
    alpha, beta, k = (float(spread(g, low, high)) for low, high in ((1e-4, 10), (0.1, 1), (0.5, 2)))
    layer = nn.LocalResponseNorm(whole(g, 2, 5), alpha, beta, k)
    return layer, spread(g, 0.1, 30) * uniform(g, -1, 1, POINTS, 5, 2, 1)


def _activated(*activations: Callable[[], nn.Module]) -> Callable[[Generator], Layer]:
    """A dense layer with one of the activations: many units near kinks or where they saturate."""

    def draw(g: Generator) -> Layer:
        inputs, units = whole(g, 1, 4), whole(g, 1, 24)
        layer = frozen(nn.Linear(inputs, units), g, -2, 2)
        activation = activations[whole(g, 0, len(activations) - 1)]().double()
        model = nn.Sequential(layer, activation.requires_grad_(False))
        return model, uniform(g, -1, 1, POINTS, inputs)

    return draw


def _branches(g: Generator) -> Layer:
    inner = nn.Sequential(frozen(nn.Conv2d(2, 2, 3, padding=1), g), nn.Tanh())
    return (Residual if whole(g, 0, 1) else Dense)(inner), _images(g, 2)


LAYERS: dict[str, Callable[[Generator], Layer]] = {
    "linear": _dense,
    "convolution": _convolution,
    "batch norm": _batch_norm,
    "max pooling": _max_pool,
    "average pooling": _average_pool,
    "Lp pooling, p >= 1": _lp_pool,
    "response norm": _response_norm,
    "piecewise affine": _activated(nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.PReLU, nn.ReLU6),
    "smooth": _activated(nn.Tanh, nn.Sigmoid, nn.Softplus, nn.SiLU, nn.GELU, nn.ELU),
    "sum, concatenation": _branches,
}


def lipschitz_claim(graph: Graph, x: Tensor, kappa: Tensor) -> Tensor:
    """`(N,)`: `kappa` over the global Lipschitz constant."""
    return kappa / gains(graph, L2)[-1].settled()


def modulus_claim(graph: Graph, x: Tensor, kappa: Tensor) -> Tensor:
    """`(N,)`: the largest radius at which the modulus of the output is at most `kappa`."""
    known = gains(graph, L2)
    values = evaluate(graph, x)
    off = rounding(graph, values, known, tails(graph), layer_errors(graph, torch.float64))
    modulus = Modulus(graph, known, values, off.nodes)
    return largest_radius(lambda r: modulus(r)[-1] <= kappa, lipschitz_claim(graph, x, kappa))


def _rules(claim: Claim) -> list[LayerRule]:
    def rule(name: str, layer: Callable[[Generator], Layer]) -> LayerRule:
        def draw(g: Generator) -> Case:
            model, x = layer(g)
            graph = trace(model, x.shape[1:], dtype=torch.float64)
            kappa = spread(g, 0.01, 10, POINTS)
            words = " ".join(str(model).split())
            return Case(model, words, x, kappa, claim(graph, x, kappa))

        return LayerRule(name, True, draw)

    return [rule(name, layer) for name, layer in LAYERS.items()]


def _decision(certificate: Certificate) -> LayerRule:
    """The certificate itself, on networks of two layers: how their margins are bounded."""
    hidden = _activated(nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.Softplus)

    def draw(g: Generator) -> Case:
        first, x = hidden(g)
        features = first(x).shape[1]
        model = nn.Sequential(first, frozen(nn.Linear(features, whole(g, 2, 4)), g))
        claim = certificate(Classifier(model, bounds=(-math.inf, math.inf)), x).radius
        return Case(model, " ".join(str(model).split()), x, torch.zeros(POINTS).double(), claim)

    return LayerRule("decision of two layers", True, draw, ("decision",))


LIPSCHITZ_RULES = [*_rules(lipschitz_claim), _decision(GlobalLipschitz())]
MODULUS_RULES = [*_rules(modulus_claim), _decision(LayerWise())]
