"""The plain reading: the value of every node. The other interpreters are checked against it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import (
    Add,
    AvgPool,
    ChannelAffine,
    Concat,
    Conv,
    Linear,
    LocalResponseNorm,
    LpPool,
    MaxPool,
    Operation,
    PiecewiseAffine,
    Reshape,
    Smooth,
)

Table = Mapping[type[Operation], Callable[..., Any]]

# PyTorch has one function per number of spatial dimensions.
CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d}
AVG_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d}
MAX_POOL: dict[int, Callable[..., Any]] = {1: F.max_pool1d, 2: F.max_pool2d}
LP_POOL: dict[int, Callable[..., Tensor]] = {1: F.lp_pool1d, 2: F.lp_pool2d}


def linear(node: Node, x: Tensor) -> Tensor:
    op = cast(Linear, node.op)
    return F.linear(x, op.weight, op.bias)


def conv(node: Node, x: Tensor) -> Tensor:
    op = cast(Conv, node.op)
    apply = CONV[len(op.stride)]
    return apply(x, op.weight, op.bias, op.stride, op.padding, op.dilation, op.groups)


def channel_affine(node: Node, x: Tensor) -> Tensor:
    op = cast(ChannelAffine, node.op)
    return x * op.scale + op.shift


def add(_: Node, a: Tensor, b: Tensor) -> Tensor:
    return a + b


def concat(node: Node, *xs: Tensor) -> Tensor:
    return torch.cat(xs, dim=cast(Concat, node.op).dim)


def reshape(node: Node, x: Tensor) -> Tensor:
    return x.reshape(len(x), *cast(Reshape, node.op).shape)


def avg_pool(node: Node, x: Tensor) -> Tensor:
    op = cast(AvgPool, node.op)
    apply = AVG_POOL[len(op.kernel)]
    return apply(x, op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad)


def max_pool(node: Node, x: Tensor) -> Tensor:
    return max_pool_with_indices(node, x)[0]


def max_pool_with_indices(node: Node, x: Tensor) -> tuple[Tensor, Tensor]:
    """Maxima, and where they are: flat indices into the spatial dimensions of `x`."""
    op = cast(MaxPool, node.op)
    apply = MAX_POOL[len(op.kernel)]
    values, indices = apply(
        x, op.kernel, op.stride, op.padding, op.dilation, op.ceil_mode, return_indices=True
    )
    return values, indices


def lp_pool(node: Node, x: Tensor) -> Tensor:
    op = cast(LpPool, node.op)
    one = len(op.kernel) == 1  # lp_pool1d takes plain numbers
    kernel, stride = (op.kernel[0], op.stride[0]) if one else (op.kernel, op.stride)
    return LP_POOL[len(op.kernel)](x, op.p, kernel, stride, op.ceil_mode)


def pieces_of(op: PiecewiseAffine, z: Tensor) -> Tensor:
    """The piece each unit of `z` is on, as uint8."""
    return torch.bucketize(z.contiguous(), op.breaks).to(torch.uint8)


def select(table: Tensor, pieces: Tensor) -> Tensor:
    """`table[pieces]` for a table `(pieces, ...)` that broadcasts against a sample."""
    chosen = table[0].expand(pieces.shape)
    for piece in range(1, len(table)):
        chosen = torch.where(pieces == piece, table[piece], chosen)
    return chosen


def piecewise_affine(node: Node, z: Tensor) -> Tensor:
    op = cast(PiecewiseAffine, node.op)
    pieces = pieces_of(op, z)
    return select(op.slopes, pieces) * z + select(op.intercepts, pieces)


def smooth(node: Node, z: Tensor) -> Tensor:
    return cast(Smooth, node.op).function(z)


def local_response_norm(node: Node, x: Tensor) -> Tensor:
    op = cast(LocalResponseNorm, node.op)
    return F.local_response_norm(x, op.size, op.alpha, op.beta, op.k)


# The operations that are affine everywhere; the readings of affine maps share them.
LINEAR_TABLE: Table = {
    Linear: linear,
    Conv: conv,
    ChannelAffine: channel_affine,
    Add: add,
    Concat: concat,
    Reshape: reshape,
    AvgPool: avg_pool,
}

TABLE: Table = {
    **LINEAR_TABLE,
    MaxPool: max_pool,
    LpPool: lp_pool,
    PiecewiseAffine: piecewise_affine,
    Smooth: smooth,
    LocalResponseNorm: local_response_norm,
}


def evaluate(graph: Graph, x: Tensor) -> list[Tensor]:
    """The value `(N, *node.shape)` of every node at `x` `(N, *shape)`."""
    return graph.interpret(TABLE, x, "plain evaluation")
