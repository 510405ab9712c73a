"""The *magnitude* reading: how large the sums of absolute terms behind each unit can get.

Back-substitution, wherever it begins and whatever slopes it takes, adds up products of weights,
slopes and values whose absolute sum is at most that of the network with absolute weights at the
largest absolute input. Its rounding is therefore at most `gamma(n)` times that sum, n being the
operations in a row (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Nets of
huge weights that cancel (Zombori et al. 2021) have a huge sum, and so no certificate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from elbowroom.certificates.rounding import ELEMENTWISE, gamma
from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import (
    Add,
    AvgPool,
    ChannelAffine,
    Concat,
    Conv,
    Linear,
    LocalResponseNorm,
    MaxPool,
    Operation,
    PiecewiseAffine,
    Reshape,
    Smooth,
)

# Weights between this and its inverse have products of a few layers well within float32.
TINY = 1e-12


def magnitudes(graph: Graph, size: Tensor) -> list[Tensor]:
    """For every node `(N, *shape)`, from the largest absolute inputs `size` `(N, *shape)`."""
    table: evaluate.Table = {
        Linear: weighted_magnitude,
        Conv: weighted_magnitude,
        ChannelAffine: lambda node, a: node.op.scale.abs() * a + node.op.magnitude,
        Add: evaluate.add,
        Concat: evaluate.concat,
        Reshape: evaluate.reshape,
        AvgPool: evaluate.avg_pool,
        MaxPool: evaluate.max_pool,
        PiecewiseAffine: lambda node, a: (
            float(node.op.slopes.abs().max()) * a + float(node.op.intercepts.abs().max())
        ),
        Smooth: lambda node, a: node.op.lipschitz * a + node.op.at_zero,
        LocalResponseNorm: lambda node, a: math.pow(node.op.k, -node.op.beta) * a,
    }
    return graph.interpret(table, size, "bound on its magnitude")


def absolute_part(graph: Graph) -> Graph:
    """The linear part of a network with absolute weights; activations stay what they are."""

    def absolute(node: Node) -> Node:
        op = node.op
        if isinstance(op, Linear | Conv):
            op = replace(op, weight=op.weight.abs(), bias=None)
        elif isinstance(op, ChannelAffine):
            none = torch.zeros_like(op.shift)
            op = replace(op, scale=op.scale.abs(), shift=none, magnitude=none)
        return replace(node, op=op)

    return Graph(tuple(map(absolute, graph.nodes)), graph.dtype)


def weighted_magnitude(node: Node, a: Tensor) -> Tensor:
    """A linear layer with absolute weights."""
    op = cast(Linear | Conv, node.op)
    bias = None if op.bias is None else op.bias.abs()
    positive = replace(node, op=replace(op, weight=op.weight.abs(), bias=bias))
    apply = cast(Callable[..., Tensor], evaluate.TABLE[type(op)])
    return apply(positive, a)


def rounding_shares(graph: Graph, dtype: torch.dtype) -> list[float]:
    """For every node, the rounding of back-substitution in `dtype` relative to its magnitude.

    Sums over whole layers and over the input are in float64 in any case.
    """
    operations, curved, widest, shares = 0, 0, 0, []
    for node in graph.nodes:
        widest = max(widest, math.prod(node.shape))
        curved += type(node.op) not in evaluate.LINEAR_TABLE and node.index > 0
        operations += _terms(node.op) + 2 * ELEMENTWISE
        total = gamma(operations, dtype) + gamma(8 * widest + operations, torch.float64)
        # Every curved layer on the way adds intercepts of up to twice its magnitude.
        shares.append((1 + 2 * curved) * total)
    return shares


def _terms(op: Operation) -> int:
    """How many products add up to one number of a layer's transpose."""
    if isinstance(op, Linear):
        return len(op.weight)
    if isinstance(op, Conv):
        kernel, steps = op.weight.shape[2:], zip(op.stride, op.dilation, strict=True)
        reached = [
            min(k, -(-((k - 1) * d + 1) // s)) for k, (s, d) in zip(kernel, steps, strict=True)
        ]
        return len(op.weight) // op.groups * math.prod(reached)
    return math.prod(op.kernel) if isinstance(op, AvgPool | MaxPool) else 1


def fits_float32(graph: Graph) -> bool:
    """Whether no product of the network's numbers can leave the range of float32 unnoticed."""
    numbers = [
        value.abs()
        for node in graph.nodes
        for value in vars(node.op).values()
        if isinstance(value, Tensor) and value.is_floating_point()
    ]
    return all(bool(((v == 0) | ((v > TINY) & (v < 1 / TINY))).all()) for v in numbers)
