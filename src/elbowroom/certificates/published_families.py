"""Random layers for the Bounds thesis's formulas, of the kinds where they are most in danger.

Kernels that overlap, batch norms of spread variances, units just below a kink or where they are
curved most, many inputs, local response normalisation of large values, powers below 1.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Generator, Tensor, nn

from elbowroom.certificates import published
from elbowroom.certificates.hunt import Case, LayerRule, Premise
from elbowroom.certificates.random_layers import POINTS, frozen, spread, uniform, whole
from elbowroom.graph.ops import LocalResponseNorm
from elbowroom.norms import L2

BOTH: tuple[Premise, ...] = ("norm", "change")


class Affine(nn.Module):
    """`gamma (x - mean) / sqrt(variance) + beta`, feature by feature."""

    gamma: Tensor
    beta: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, **terms: Tensor) -> None:
        super().__init__()
        for name, term in terms.items():
            self.register_buffer(name, term)

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * (x - self.mean) / self.variance.sqrt() + self.beta


class Magnitude(nn.Module):
    """Absolute values: Lp pooling is of them in the thesis."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def _linear(g: Generator) -> Case:
    inputs, classes = whole(g, 2, 8), whole(g, 2, 5)
    layer = frozen(nn.Linear(inputs, classes), g)
    x = uniform(g, -1, 1, POINTS, inputs)
    logits = layer(x)
    claim = published.published_linear(logits, layer.weight, logits.argmax(dim=1))
    return Case(layer, f"linear, {inputs} to {classes}", x, torch.zeros(POINTS).double(), claim)


def _convolution(g: Generator) -> Case:
    channels, kernel = whole(g, 1, 2), whole(g, 2, 4)
    stride, size = whole(g, 1, kernel - 1), whole(g, kernel + 2, 9)
    convolution = frozen(nn.Conv2d(channels, whole(g, 1, 2), kernel, stride, bias=False), g, 0.5, 1)
    x = uniform(g, 0, 1, POINTS, channels, size, size)
    kappa = spread(g, 0.1, 10, POINTS)
    weight = convolution.weight
    words = f"convolution {tuple(weight.shape)}, stride {stride}, of {size} x {size}, with ReLU"
    claim = published.published_convolution(kappa, weight)
    return Case(nn.Sequential(convolution, nn.ReLU()), words, x, kappa, claim)


def _dense(activation: nn.Module, name: str, depth: int = 1, inputs: int = 3) -> LayerRule:
    def draw(g: Generator) -> Case:
        sizes = [whole(g, 1, inputs), *(whole(g, 1, 3) for _ in range(depth))]
        layers = [frozen(nn.Linear(a, b), g) for a, b in pairwise(sizes)]
        model = nn.Sequential(*(part for layer in layers for part in (layer, activation)))
        x = uniform(g, -2, 2, POINTS, sizes[0])
        m = published.published_m([layer.weight for layer in layers], [name] * depth)
        return _theorem_4_2(g, model, f"{name} layers {sizes}", x, m)

    words = f"4.2 {name}" if depth == 1 else f"4.2 {name}, {depth} layers"
    return LayerRule(words, False, draw, BOTH)


def _below_the_kink(g: Generator) -> Case:
    inputs, units = whole(g, 1, 3), whole(g, 1, 3)
    layer = frozen(nn.Linear(inputs, units), g)
    x = uniform(g, -1, 1, 1, inputs).expand(POINTS, -1)
    # All inputs are the same; every unit is a little below 0.
    layer.bias.copy_(-(layer.weight @ x[0]) - spread(g, 1e-4, 1e-2, units))
    m = published.published_m([layer.weight], ["relu"])
    model = nn.Sequential(layer, nn.ReLU())
    return _theorem_4_2(g, model, f"ReLU layer [{inputs}, {units}]", x, m)


def _elementwise(g: Generator) -> Case:
    """One softplus unit of many inputs, M the largest of its second derivatives."""
    inputs = 4 ** whole(g, 2, 5)
    layer = frozen(nn.Linear(inputs, 1), g, 0.5, 1.0)
    layer.bias.fill_(float(uniform(g, -8, -2)))
    x = uniform(g, -1, 1, POINTS, inputs) / inputs
    model = nn.Sequential(layer, nn.Softplus())
    m = float(layer.weight.abs().max()) ** 2 / 4
    return _theorem_4_2(g, model, f"softplus of {inputs} inputs", x, m)


def _theorem_4_2(g: Generator, model: nn.Module, words: str, x: Tensor, m: float) -> Case:
    jacobian = torch.func.vmap(torch.func.jacrev(model))(x)
    kappa = spread(g, 0.02, 3, POINTS)
    norm = torch.linalg.matrix_norm(jacobian, ord=2)
    claim = published.published_dense(kappa, norm, jacobian.shape[1], m)
    return Case(model, words, x, kappa, claim)


def _pool(kind: type[nn.MaxPool2d | nn.AvgPool2d]) -> LayerRule:
    def draw(g: Generator) -> Case:
        kernel = whole(g, 2, 3)
        stride, size = whole(g, 1, kernel), whole(g, 4, 7)
        x, kappa = uniform(g, -1, 1, POINTS, 2, size, size), spread(g, 0.1, 10, POINTS)
        layer = kind(kernel, stride)
        words = f"{kind.__name__}({kernel}, {stride}) of {size} x {size}"
        return Case(layer, words, x, kappa, published.published_pooling(kappa, layer(x).shape[-1]))

    name = "max" if kind is nn.MaxPool2d else "average"
    return LayerRule(f"5.3 {name} pooling", False, draw, BOTH)


def _lp_pool(low: float, high: float, name: str) -> LayerRule:
    def draw(g: Generator) -> Case:
        p, kernel = float(uniform(g, low, high)), 2
        size = 2 * whole(g, 1, 2)
        # A few large inputs beside small ones.
        x = spread(g, 1e-6, 1e3, POINTS, 1, size, size)
        kappa = spread(g, 0.1, 10, POINTS)
        layer = nn.Sequential(Magnitude(), nn.LPPool2d(p, kernel))
        claim = published.published_lp_pooling(kappa, size // 2, kernel, p)
        return Case(layer, f"Lp pooling, p={p:.3g}, of {size} x {size}", x, kappa, claim)

    return LayerRule(name, False, draw, BOTH)


def _batch_norm(g: Generator) -> Case:
    features = whole(g, 2, 6)
    gamma, beta = spread(g, 0.3, 3, features), uniform(g, -0.5, 0.5, features)
    mean, variance = uniform(g, -1, 1, features), spread(g, 1e-2, 1e2, features)
    x, kappa = uniform(g, -1, 1, POINTS, features), spread(g, 0.1, 10, POINTS)
    claim = published.published_batch_norm(kappa, x, gamma, beta, mean, variance)
    layer = Affine(gamma=gamma, beta=beta, mean=mean, variance=variance)
    return Case(layer, f"batch norm of {features} features", x, kappa, claim)


def _response_norm(g: Generator) -> Case:
    """AlexNet's constants; values of about 10, some channels silent."""
    channels = whole(g, 2, 6)
    x = 10 * uniform(g, 0.5, 1.5, POINTS, channels, 1, 1)
    x = x * (uniform(g, 0, 1, POINTS, channels, 1, 1) < 0.6)
    x[:, 0] += 5.0
    op = LocalResponseNorm(5, 5e-4, 0.75, 2.0)
    layer = nn.LocalResponseNorm(op.size, op.alpha, op.beta, op.k)
    kappa = spread(g, 0.1, 3, POINTS) * L2.length(layer(x)) / 3
    claim = published.published_response_norm(kappa, x, op)
    return Case(layer, f"local response normalisation of {channels} channels", x, kappa, claim)


PUBLISHED_RULES = [
    LayerRule("3.6 linear", True, _linear, ("decision",)),
    _dense(nn.Sigmoid(), "sigmoid", depth=2),
    _dense(nn.Softplus(), "softplus", depth=2),
    _dense(nn.Tanh(), "tanh", inputs=1),
    LayerRule("4.2 ReLU", False, _below_the_kink, BOTH),
    LayerRule("4.2 elementwise M", False, _elementwise, BOTH),
    LayerRule("5.1 convolution", False, _convolution, BOTH),
    _pool(nn.MaxPool2d),
    _pool(nn.AvgPool2d),
    _lp_pool(1.0, 4.0, "5.3 Lp pooling, p >= 1"),
    _lp_pool(0.3, 0.9, "5.3 Lp pooling, p < 1"),
    LayerRule("5.6 batch norm", False, _batch_norm, BOTH),
    LayerRule("5.9 response norm", False, _response_norm, BOTH),
]
