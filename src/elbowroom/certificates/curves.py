"""Lines around curved functions: smooth activations, and local response normalisation."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import LocalResponseNorm, Smooth
from elbowroom.regions.envelopes import Envelope
from elbowroom.regions.units import Elementwise, Sloped, UnitEnvelope

# Points at which a smooth function is looked at between the ends of an interval.
POINTS = 32


def smooth_rest(op: Smooth, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds on `f(z) - slope z` over `[low, high]`, for any smooth activation.

    Between points at a distance h, a function with second derivative of at most B differs from
    its chord by at most `B h^2 / 8`; one that is only Lipschitz, by at most `L h / 2`.
    """
    step = (high - low) / POINTS
    least = greatest = None
    for k in range(POINTS + 1):
        z = low + k * step
        rest = op.function(z) - slope * z
        least = rest if least is None else torch.minimum(least, rest)
        greatest = rest if greatest is None else torch.maximum(greatest, rest)
    if math.isinf(op.curvature):
        between = (op.lipschitz + slope.abs()) * step / 2
    else:
        between = op.curvature * step.square() / 8
    between = between + op.deviation
    return cast(Tensor, least) - between, cast(Tensor, greatest) + between


class Undecided(Elementwise):
    """A function without pieces: nothing is ever decided."""

    def possible(self, low: Tensor, high: Tensor) -> Tensor:
        return torch.ones(*low.shape, 2, dtype=torch.bool, device=low.device)

    def pieces_at(self, z: Tensor) -> Tensor:
        return torch.full_like(z, -1, dtype=torch.int64)


class Curves(Undecided, Sloped):
    """A smooth activation."""

    def __init__(self, graph: Graph, node: Node) -> None:
        super().__init__(graph, node)
        self.op = cast(Smooth, node.op)

    @property
    def steepest(self) -> tuple[float, float]:
        return -self.op.lipschitz, self.op.lipschitz

    def slope_at(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.op.function(z).sum(), z)
        return slope

    def rest(self, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        return smooth_rest(self.op, slope, low, high)


def normaliser(op: LocalResponseNorm, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds on `(k + alpha mean of squares)^-beta` for inputs in `[low, high]` `(N, C, ...)`."""

    def factor(squares: Tensor) -> Tensor:
        flat = F.pad(squares.flatten(2)[:, None], (0, 0, op.size // 2, (op.size - 1) // 2))
        mean = F.avg_pool2d(flat, (op.size, 1), stride=1).view_as(squares)
        return (op.k + op.alpha * mean).pow(-op.beta)

    ends = torch.minimum(low.abs(), high.abs()), torch.maximum(low.abs(), high.abs())
    least = torch.where((low < 0) & (high > 0), 0.0, ends[0])
    return factor(ends[1].square()), factor(least.square())


class Responses(Undecided):
    """Local response normalisation: each input times a factor between two bounds.

    Above is the chord of the larger product, which is convex, below that of the smaller one.
    """

    def __init__(self, graph: Graph, node: Node) -> None:
        super().__init__(graph, node)
        self.norm = cast(LocalResponseNorm, node.op)

    def envelope(self, pieces: Tensor, low: Tensor, high: Tensor, centre: Tensor) -> Envelope:
        low, high, _ = self.interval(low, high, centre)
        least, most = normaliser(self.norm, low, high)
        width = (high - low).clamp(min=torch.finfo(low.dtype).tiny)

        def chord(at_low: Tensor, at_high: Tensor) -> tuple[Tensor, Tensor]:
            slope = torch.where(high > low, (at_high - at_low) / width, least)
            return slope, at_low - slope * low

        below = chord(
            torch.minimum(low * least, low * most), torch.minimum(high * least, high * most)
        )
        above = chord(
            torch.maximum(low * least, low * most), torch.maximum(high * least, high * most)
        )
        return UnitEnvelope(below, above)
