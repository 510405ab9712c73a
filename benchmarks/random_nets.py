"""Random small networks of every kind of layer, with inputs near their decision boundaries.

Used by `benchmarks/soundness.py` and by the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from elbowroom import Classifier

INPUTS = 8  # of each network

PIECEWISE: list[Callable[[], nn.Module]] = [
    nn.ReLU, nn.ReLU, nn.ReLU, lambda: nn.LeakyReLU(0.1), nn.PReLU, nn.ReLU6,
    lambda: nn.Hardtanh(-0.5, 0.8),
]  # fmt: skip
SMOOTH: list[Callable[[], nn.Module]] = [
    nn.Tanh, nn.Sigmoid, nn.Softplus, lambda: nn.Softplus(3.0), nn.ELU, lambda: nn.ELU(0.5),
    nn.SiLU, nn.GELU, lambda: nn.GELU("tanh"),
]  # fmt: skip


@dataclass(frozen=True)
class RandomNet:
    """clf: in float32 or float64. x: `(INPUTS, *shape)`. words: its layers, for messages."""

    seed: int
    clf: Classifier
    x: Tensor
    words: str


class Residual(nn.Module):
    """`x + inner(x)`."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Beside(Residual):
    """`x` and `inner(x)`, concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.inner(x)], dim=1)


class Draw:
    """Random choices of one network; the same seed gives the same network."""

    def __init__(self, seed: int) -> None:
        self.generator = Generator().manual_seed(seed)
        self.activations = PIECEWISE if self.chance(0.5) else PIECEWISE + SMOOTH
        self.all_layers = self.activations is not PIECEWISE

    def whole(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def chance(self, share: float) -> bool:
        return float(torch.rand((), generator=self.generator)) < share

    def one(self, choices: Sequence[Callable[[], nn.Module]]) -> nn.Module:
        return choices[self.whole(0, len(choices) - 1)]()

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def between(self, low: float, high: float) -> float:
        """Uniform in its logarithm."""
        share = float(torch.rand((), generator=self.generator))
        return math.exp(math.log(low) + share * math.log(high / low))

    def initialise(self, model: nn.Module) -> None:
        """Normal weights of a random size in every layer, random statistics in batch norms."""
        with torch.no_grad():
            for module in model.modules():
                for name, parameter in module.named_parameters(recurse=False):
                    fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
                    size = self.between(0.5, 2.5) / math.sqrt(fan_in)
                    shift = 1.0 if name == "bias" or parameter.ndim > 1 else 0.5
                    parameter.copy_(size * shift * self.normal(*parameter.shape))
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                    module.running_mean.copy_(0.5 * self.normal(*module.running_mean.shape))
                    module.running_var.copy_((1.5 * self.normal(*module.running_var.shape)).exp())


def random_net(seed: int) -> RandomNet:
    """The network of that number: vectors or images, chains, sums and concatenations."""
    draw = Draw(seed)
    layers, shape = (_images if draw.chance(0.5) else _vectors)(draw)
    classes = draw.whole(2, 4)
    model = nn.Sequential(*layers).double().eval()
    features = model(torch.zeros(1, *shape, dtype=torch.float64)).flatten(1).shape[1]
    head: list[nn.Module] = [nn.Flatten(), nn.Linear(features, classes)]
    if draw.chance(0.3):
        hidden = draw.whole(2, 6)
        head = [nn.Flatten(), nn.Linear(features, hidden), draw.one(draw.activations),
                nn.Linear(hidden, classes)]  # fmt: skip
    model = nn.Sequential(*layers, *head).double().eval().requires_grad_(False)
    draw.initialise(model)
    low, high = (0.0, 1.0) if draw.chance(0.5) else (-3.0, 3.0)
    x = torch.rand(64, *shape, generator=draw.generator, dtype=torch.float64)
    x = low + (high - low) * x
    # The classes share the inputs between them, and those nearest to a boundary are taken.
    logits = model(x)
    model[-1].bias -= logits.median(dim=0).values
    top = model(x).topk(2, dim=1).values
    x = x[(top[:, 0] - top[:, 1]).argsort()[: 3 * INPUTS : 3]]
    dtype = torch.float32 if draw.chance(0.5) else torch.float64
    clf = Classifier(model, bounds=(low, high), dtype=dtype)
    return RandomNet(seed, clf, clf.clamp(x.to(dtype)), " ".join(str(model).split()))


def _wrapped(draw: Draw, part: list[nn.Module], width: int, same: bool) -> tuple[nn.Module, int]:
    """The layers alone, beside their input, or (where they keep the shape) added to it."""
    inner = nn.Sequential(*part)
    if same and draw.chance(0.4):
        return (Residual(inner), width) if draw.chance(0.5) else (Beside(inner), 2 * width)
    return inner, width


def _vectors(draw: Draw) -> tuple[list[nn.Module], tuple[int, ...]]:
    features = width = draw.whole(1, 6)
    layers: list[nn.Module] = []
    for _ in range(draw.whole(0, 2)):
        out = width if draw.chance(0.4) else draw.whole(1, 8)
        part: list[nn.Module] = [nn.Linear(width, out)]
        if draw.chance(0.25):
            part.append(nn.BatchNorm1d(out))
        part.append(draw.one(draw.activations))
        block, width = _wrapped(draw, part, out, same=out == width)
        layers.append(block)
    return layers, (features,)


def _images(draw: Draw) -> tuple[list[nn.Module], tuple[int, ...]]:
    channels = width = draw.whole(1, 2)
    size = draw.whole(4, 6)
    shape = (channels, size, size + draw.whole(0, 1))
    layers: list[nn.Module] = []
    spatial = size
    for _ in range(draw.whole(1, 2)):
        groups = 2 if width % 2 == 0 and draw.chance(0.3) else 1
        same = draw.chance(0.4)
        out = width if same else groups * draw.whole(1, 3 - groups)
        kernel = 3 if same else draw.whole(1, 3)
        stride, dilation = (1, 1) if same else (draw.whole(1, 2), draw.whole(1, 2))
        padding = 1 if same else draw.whole(0, 1)
        after = (spatial + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        if after < 1:
            break
        part: list[nn.Module] = [nn.Conv2d(width, out, kernel, stride, padding, dilation, groups)]
        if draw.chance(0.4):
            part.append(nn.BatchNorm2d(out))
        part.append(draw.one(draw.activations))
        block, width = _wrapped(draw, part, out, same)
        layers.append(block)
        spatial = after
        if spatial >= 3 and draw.chance(0.6):
            layers += _pool(draw)
            break
    return layers, shape


def _pool(draw: Draw) -> list[nn.Module]:
    kernel, stride = draw.whole(2, 3), draw.whole(1, 2)
    padding, ceil = draw.whole(0, 1), draw.chance(0.5)
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil),
        lambda: nn.AvgPool2d(kernel, stride, padding, ceil, draw.chance(0.5)),
    ]
    if draw.all_layers:
        alpha, beta, k = draw.between(0.01, 5), draw.between(0.2, 1), draw.between(0.5, 2)
        kinds += [
            lambda: nn.LPPool2d([1, 2, 4][draw.whole(0, 2)], kernel, stride, ceil),
            lambda: nn.Sequential(nn.ReLU(), nn.LPPool2d(draw.between(1, 4), kernel, stride)),
            lambda: nn.LocalResponseNorm(draw.whole(2, 5), alpha, beta, k),
        ]
    return [draw.one(kinds)]
