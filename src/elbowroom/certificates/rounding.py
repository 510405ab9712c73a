"""The *rounding* reading: how far the computed logits can be from the exact ones.

The classifier that a user runs is computed in floating point; a certificate about real numbers
says nothing about it unless the rounding of every layer is bounded. Sums of n products are off
by at most `gamma(n)` times the sum of the absolute products, in any order of summation (Higham,
Accuracy and Stability of Numerical Algorithms, section 3.1). Magnitudes are L2 norms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from elbowroom.certificates.gain import (
    Gain,
    average_sums,
    layer_norm,
    pool_overlap,
    response_norm,
)
from elbowroom.certificates.operator_norms import absolute_sums
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
    MaxPool,
    Operation,
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

    amplify:  factor on the error of its inputs (an L2 operator norm).
    relative: new error per unit of L2 norm of its inputs.
    absolute: new error in any case.
    """

    amplify: float
    relative: float = 0.0
    absolute: float = 0.0


@dataclass(frozen=True)
class Rounding:
    """Bounds on the L2 distance of the computed logits from the exact ones.

    At a point within L2 distance d of the sample: `here + per_l2_distance * d`.

    here:            `(N,)`, at the sample itself.
    per_l2_distance: per unit of distance.
    """

    here: Tensor
    per_l2_distance: float


def gamma(operations: int, dtype: torch.dtype) -> float:
    """Higham's `gamma_n = n u / (1 - n u)`; infinite where the bound breaks down."""
    product = operations * torch.finfo(dtype).eps / 2
    return product / (1 - product) if product < 1 else math.inf


def layer_errors(graph: Graph, dtype: torch.dtype) -> list[LayerError]:
    """The rounding of every layer of `graph` (in float64) when computed in `dtype`."""
    table: dict[type[Operation], Callable[..., LayerError]] = {
        Linear: _linear,
        Conv: _conv,
        ChannelAffine: _channel_affine,
        Add: lambda node, shape, dtype: LayerError(1.0, gamma(1, dtype)),
        Concat: lambda node, shape, dtype: LayerError(1.0),
        Reshape: lambda node, shape, dtype: LayerError(1.0),
        AvgPool: _avg_pool,
        MaxPool: _max_pool,
        PiecewiseAffine: _piecewise_affine,
        Smooth: _smooth,
        LocalResponseNorm: _local_response_norm,
        Input: lambda node, shape, dtype: LayerError(0.0),
    }
    shapes = [graph.nodes[node.inputs[0]].shape if node.inputs else () for node in graph.nodes]
    return [
        table[type(node.op)](node, shape, dtype)
        for node, shape in zip(graph.nodes, shapes, strict=True)
    ]


def rounding(
    graph: Graph,
    values: Sequence[Tensor],
    gains: Sequence[Gain],
    errors: Sequence[LayerError],
) -> Rounding:
    """Propagate the layers' errors from the input to the logits.

    values: every node at the samples, in float64. gains: in L2.
    """
    zero = values[0].new_zeros(len(values[0]))
    here: list[Tensor] = [zero]
    growth: list[float] = [0.0]
    for node in graph.nodes[1:]:
        error = errors[node.index]
        inputs = node.inputs
        incoming = torch.stack([here[i] for i in inputs]).sum(dim=0)
        magnitude = torch.stack([L2.length(values[i]) for i in inputs]).sum(dim=0)
        slope = sum(gains[i].settled() for i in inputs)
        here.append(
            error.amplify * incoming + error.relative * (magnitude + incoming) + error.absolute
        )
        incoming_growth = sum(growth[i] for i in inputs)
        growth.append(error.amplify * incoming_growth + error.relative * (slope + incoming_growth))
    return Rounding(here[-1], growth[-1])


def _spread(tensor: Tensor, shape: tuple[int, ...]) -> float:
    """The L2 norm of a tensor that is broadcast against samples of `shape`."""
    return float(torch.linalg.vector_norm(tensor.expand(shape)))


def _linear(node: Node, shape: tuple[int, ...], dtype: torch.dtype) -> LayerError:
    op = cast(Linear, node.op)
    g = gamma(op.weight.shape[1] + 1, dtype)
    absolute = op.weight.abs()
    size = math.sqrt(float(absolute.sum(dim=0).max()) * float(absolute.sum(dim=1).max()))
    bias = 0.0 if op.bias is None else g * float(op.bias.norm())
    return LayerError(layer_norm(op, shape, L2), g * size, bias)


def _conv(node: Node, shape: tuple[int, ...], dtype: torch.dtype) -> LayerError:
    op = cast(Conv, node.op)
    g = gamma(op.weight[0].numel() + 1, dtype)
    size = math.sqrt(math.prod(absolute_sums(op, shape)))
    bias = 0.0
    if op.bias is not None:
        bias = g * float(op.bias.norm()) * math.sqrt(math.prod(node.shape[1:]))
    return LayerError(layer_norm(op, shape, L2), g * size, bias)


def _channel_affine(node: Node, shape: tuple[int, ...], dtype: torch.dtype) -> LayerError:
    op = cast(ChannelAffine, node.op)
    g = gamma(ELEMENTWISE, dtype)
    scale = layer_norm(op, shape, L2)
    return LayerError(scale, g * scale, g * _spread(op.magnitude, node.shape))


def _avg_pool(node: Node, shape: tuple[int, ...], dtype: torch.dtype) -> LayerError:
    op = cast(AvgPool, node.op)
    size = math.sqrt(math.prod(average_sums(op, shape)))
    return LayerError(size, gamma(math.prod(op.kernel) + 1, dtype) * size)


def _max_pool(node: Node, shape: tuple[int, ...], dtype: torch.dtype) -> LayerError:
    return LayerError(math.sqrt(pool_overlap(cast(MaxPool, node.op))))


def _piecewise_affine(node: Node, shape: tuple[int, ...], dtype: torch.dtype) -> LayerError:
    op = cast(PiecewiseAffine, node.op)
    slope = float(op.slopes.abs().max())
    if bool(((op.slopes == 0) | (op.slopes.abs() == 1)).all()):
        return LayerError(slope)  # comparisons and copies do not round
    g = gamma(ELEMENTWISE, dtype)
    offset = g * float(op.intercepts.abs().max()) * math.sqrt(math.prod(node.shape))
    return LayerError(slope, g * slope, offset)


def _smooth(node: Node, shape: tuple[int, ...], dtype: torch.dtype) -> LayerError:
    op = cast(Smooth, node.op)
    g = gamma(ELEMENTWISE, dtype)
    absolute = (g * op.at_zero + op.deviation) * math.sqrt(math.prod(node.shape))
    return LayerError(op.lipschitz, g * op.lipschitz, absolute)


def _local_response_norm(node: Node, shape: tuple[int, ...], dtype: torch.dtype) -> LayerError:
    op = cast(LocalResponseNorm, node.op)
    return LayerError(response_norm(op), gamma(op.size + 2 * ELEMENTWISE, dtype) * op.k**-op.beta)
