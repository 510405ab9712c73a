"""The *rounding* reading: how far the computed logits can be from the exact ones.

The classifier that a user runs is computed in floating point; a certificate about real numbers
says nothing about it unless the rounding of every layer is bounded. Sums of n products are off
by at most `gamma(n)` times the sum of the absolute products, in any order of summation (Higham,
Accuracy and Stability of Numerical Algorithms, section 3.1). The error of a layer is carried to
the logits by the Lipschitz constant of the layers behind it. Outside of this model are overflow,
underflow (but for that of powers) and convolutions by Winograd's or Fourier's transform, which GPU
libraries may choose in float32; PyTorch's CPU convolutions are direct sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from elbowroom.certificates.gain import Gain, layer_norm, node_factor, response_norm
from elbowroom.certificates.operator_norms import absolute_sums
from elbowroom.certificates.pooling import average_sums
from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import (
    Add,
    AvgPool,
    ChannelAffine,
    Concat,
    Conv,
    Input,
    Linear,
    LocalResponseNorm,
    LpPool,
    MaxPool,
    PiecewiseAffine,
    Reshape,
    Smooth,
)
from elbowroom.norms import L2

# Roundings in one evaluation of an elementwise function or of batch norm; generous.
ELEMENTWISE = 16


@dataclass(frozen=True)
class LayerError:
    """A layer's own rounding.

    at:       the new error of every unit, `(N, *shape)`, from the exact values of its inputs.
    relative: new error (L2) per unit of L2 change of its inputs.
    amplify:  factor on the L2 error of its inputs.
    """

    at: Callable[..., Tensor] | None
    relative: float
    amplify: float


@dataclass(frozen=True)
class Rounding:
    """Bounds on the L2 distance of the computed logits from the exact ones.

    At a point within L2 distance d of the sample: `here + per_l2_distance * d`.

    here:            `(N,)`, at the sample itself.
    per_l2_distance: per unit of distance.
    nodes:           `(N,)` for every node: the same as `here`, of its value.
    """

    here: Tensor
    per_l2_distance: float
    nodes: list[Tensor]


def gamma(operations: int, dtype: torch.dtype) -> float:
    """Higham's `gamma_n = n u / (1 - n u)`; infinite where the bound breaks down."""
    product = operations * torch.finfo(dtype).eps / 2
    return product / (1 - product) if product < 1 else math.inf


def rounding(
    graph: Graph,
    values: Sequence[Tensor],
    gains: Sequence[Gain],
    tails: Sequence[float],
    errors: Sequence[LayerError],
) -> Rounding:
    """Add up the layers' errors as they arrive at the logits.

    values: every node at the samples, in float64. gains, tails: Lipschitz constants in L2 from
    the input to each node and from each node to the logits.
    """
    zero = values[0].new_zeros(len(values[0]))
    error_of: list[Tensor] = [zero]  # of each node's value, all layers before it included
    growth_of: list[float] = [0.0]
    here, growth = zero, 0.0
    for node in graph.nodes[1:]:
        layer, inputs = errors[node.index], node.inputs
        incoming = torch.stack([error_of[i] for i in inputs]).sum(dim=0)
        incoming_growth = sum(growth_of[i] for i in inputs)
        slope = sum(gains[i].settled() for i in inputs)
        # What the layer is given differs from the exact values by the error so far.
        own = layer.relative * incoming
        if layer.at is not None:
            own = own + L2.length(layer.at(node, *(values[i] for i in inputs)))
        own_growth = layer.relative * (slope + incoming_growth)
        here = here + tails[node.index] * own
        growth += tails[node.index] * own_growth
        error_of.append(layer.amplify * incoming + own)
        growth_of.append(layer.amplify * incoming_growth + own_growth)
    return Rounding(here, growth, error_of)


def layer_errors(graph: Graph, dtype: torch.dtype) -> list[LayerError]:
    """The rounding of every layer of `graph` (in float64) when computed in `dtype`."""
    shapes = [graph.nodes[node.inputs[0]].shape if node.inputs else () for node in graph.nodes]
    return [
        _layer_error(node, shape, dtype) for node, shape in zip(graph.nodes, shapes, strict=True)
    ]


def _layer_error(node: Node, shape: tuple[int, ...], dtype: torch.dtype) -> LayerError:
    op = node.op
    few = gamma(ELEMENTWISE, dtype)
    if isinstance(op, Input):
        return LayerError(None, 0.0, 0.0)
    if isinstance(op, Concat | Reshape):
        return LayerError(None, 0.0, 1.0)
    if isinstance(op, MaxPool):
        return LayerError(None, 0.0, node_factor(node, shape, L2))
    if isinstance(op, Add):
        g = gamma(1, dtype)
        return LayerError(lambda _, a, b: g * (a + b).abs(), g, 1.0)
    if isinstance(op, Linear | Conv):
        return _weighted_sum(op, shape, gamma(op.weight[0].numel() + 1, dtype))
    if isinstance(op, ChannelAffine):
        scale = layer_norm(op, shape, L2)
        return LayerError(_of_channel_affine(few), few * scale, scale)
    if isinstance(op, AvgPool):
        g = gamma(math.prod(op.kernel) + 1, dtype)
        size = math.sqrt(math.prod(average_sums(op, shape)))
        return LayerError(lambda n, x: g * evaluate.avg_pool(n, x.abs()), g * size, size)
    slope = node_factor(node, shape, L2)
    if isinstance(op, LpPool):
        g = gamma(math.prod(op.kernel) + 2 * ELEMENTWISE, dtype)
        # Powers of small numbers underflow: |(s + e)^(1/p) - s^(1/p)| <= e^(1/p).
        lost = math.pow(2 * math.prod(op.kernel) * torch.finfo(dtype).tiny, 1 / op.p)
        return LayerError(lambda n, x: g * evaluate.lp_pool(n, x.abs()) + lost, g * slope, slope)
    if isinstance(op, PiecewiseAffine):
        if bool(((op.slopes == 0) | (op.slopes.abs() == 1)).all()):
            return LayerError(None, 0.0, slope)  # comparisons and copies do not round
        offset = float(op.intercepts.abs().max())
        return LayerError(lambda _, z: few * (slope * z.abs() + offset), few * slope, slope)
    if isinstance(op, Smooth):
        start, jump = op.at_zero, op.deviation
        return LayerError(lambda _, z: few * (slope * z.abs() + start) + jump, few * slope, slope)
    g = gamma(cast(LocalResponseNorm, op).size + 2 * ELEMENTWISE, dtype)
    share = g * math.pow(cast(LocalResponseNorm, op).k, -cast(LocalResponseNorm, op).beta)
    return LayerError(
        lambda _, x: share * x.abs(), share, response_norm(cast(LocalResponseNorm, op))
    )


def _weighted_sum(op: Linear | Conv, shape: tuple[int, ...], g: float) -> LayerError:
    bias = None if op.bias is None else op.bias.abs()
    positive = replace(op, weight=op.weight.abs(), bias=bias)
    if isinstance(op, Linear):
        columns, rows = (float(positive.weight.sum(dim=d).max()) for d in (0, 1))
    else:
        columns, rows = absolute_sums(op, shape)
    apply = evaluate.linear if isinstance(op, Linear) else evaluate.conv

    def at(node: Node, x: Tensor) -> Tensor:
        return g * apply(replace(node, op=positive), x.abs())

    return LayerError(at, g * math.sqrt(columns * rows), layer_norm(op, shape, L2))


def _of_channel_affine(g: float) -> Callable[[Node, Tensor], Tensor]:
    def at(node: Node, x: Tensor) -> Tensor:
        op = cast(ChannelAffine, node.op)
        return g * ((op.scale * x).abs() + op.magnitude)

    return at
