"""The *Lipschitz* reading: how much each node can change per unit of change of the input.

Linear layers that follow each other directly are joined before their norm is taken: batch norm
scales the weights of the convolution before it, or of the layer after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from elbowroom.certificates.operator_norms import SAFETY, conv_norm, dense_norm
from elbowroom.graph.evaluate import AVG_POOL
from elbowroom.graph.graph import Graph, Node, UnsupportedOperationError
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
from elbowroom.norms import L1, L2, Linf, Norm


@dataclass(frozen=True)
class Pending:
    """A linear layer whose norm has not been taken yet, and the shape of its input."""

    op: Linear | Conv | ChannelAffine
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Gain:
    """The node is `pending` after a map with Lipschitz constant `constant`."""

    norm: Norm
    constant: float
    pending: Pending | None = None

    def settled(self) -> float:
        """The Lipschitz constant with the pending layer included."""
        return self.constant * self._pending_norm

    @cached_property
    def _pending_norm(self) -> float:
        if self.pending is None:
            return 1.0
        return layer_norm(self.pending.op, self.pending.shape, self.norm)

    def then(self, factor: float) -> Gain:
        """After a layer with Lipschitz constant `factor`."""
        return Gain(self.norm, self.settled() * factor)

    def before(self, op: Linear | Conv | ChannelAffine, shape: tuple[int, ...]) -> Gain:
        """With a linear layer put on top, joined with the pending one where they fit."""
        joined = None if self.pending is None else _joined(self.pending, op)
        if joined is None:
            return Gain(self.norm, self.settled(), Pending(op, shape))
        return replace(self, pending=joined)


def layer_norm(op: Linear | Conv | ChannelAffine, shape: tuple[int, ...], norm: Norm) -> float:
    """An upper bound on the operator norm of a linear layer on samples of `shape`."""
    if isinstance(op, Linear):
        return dense_norm(op.weight, norm)
    if isinstance(op, Conv):
        return conv_norm(op, shape, norm)
    return float(op.scale.abs().max()) * SAFETY


def _joined(first: Pending, second: Linear | Conv | ChannelAffine) -> Pending | None:
    """One layer that does what `first` and then `second` do, or None where that is none."""
    op = first.op
    if isinstance(op, ChannelAffine):
        scale = op.scale
        if isinstance(second, ChannelAffine):
            return Pending(replace(second, scale=scale * second.scale), first.shape)
        if isinstance(second, Linear):
            return Pending(replace(second, weight=second.weight * scale), first.shape)
        if _per_channel(scale, first.shape) and second.groups == 1:
            channels = scale.reshape(1, -1, *[1] * len(second.stride))
            return Pending(replace(second, weight=second.weight * channels), first.shape)
        return None
    if isinstance(op, Linear) and isinstance(second, Linear):
        return Pending(replace(second, weight=second.weight @ op.weight), first.shape)
    if isinstance(op, Linear) and isinstance(second, ChannelAffine):
        rows = second.scale.expand(len(op.weight))[:, None]
        return Pending(replace(op, weight=op.weight * rows), first.shape)
    if isinstance(op, Conv) and isinstance(second, ChannelAffine):
        if second.scale.ndim and second.scale.numel() != len(op.weight):
            return None
        rows = second.scale.reshape(-1, *[1] * (op.weight.ndim - 1))
        return Pending(replace(op, weight=op.weight * rows), first.shape)
    return None


def _per_channel(scale: Tensor, shape: tuple[int, ...]) -> bool:
    return scale.numel() == 1 or tuple(scale.shape) == (shape[0], *[1] * (len(shape) - 1))


def pool_overlap(op: MaxPool) -> int:
    """The number of windows of a max pool that one input can belong to (rho)."""
    counts = [
        min(kernel, -(-((kernel - 1) * dilation + 1) // stride))
        for kernel, stride, dilation in zip(op.kernel, op.stride, op.dilation, strict=True)
    ]
    return math.prod(counts)


def average_sums(op: AvgPool, shape: tuple[int, ...]) -> tuple[float, float]:
    """Largest column and row sum of the pooling's matrix, padding and partial windows included."""
    ones = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    apply = AVG_POOL[len(op.kernel)]
    with torch.enable_grad():
        rows = apply(ones, op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad)
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    return float(columns.max()), float(rows.detach().max())


def pool_norm(op: AvgPool, shape: tuple[int, ...], norm: Norm) -> float:
    """An upper bound on average pooling's operator norm; exact for L1 and Linf."""
    columns, rows = average_sums(op, shape)
    return {L1: columns, L2: math.sqrt(columns * rows), Linf: rows}[norm] * SAFETY


def response_norm(op: LocalResponseNorm) -> float:
    """An upper bound on the L2 slope of local response normalisation, for beta <= 1."""
    n, beta = op.size, op.beta
    if not (0 < beta <= 1 and op.k > 0 and op.alpha >= 0):
        raise UnsupportedOperationError(
            "the bound for local response normalisation needs 0 < beta <= 1, k > 0, alpha >= 0"
        )
    curved = 1 + 2 * math.sqrt(n) * math.pow(beta / (beta + 1), beta + 1)
    return math.pow(op.k, -beta) * min(math.sqrt(n), curved)


def gains(graph: Graph, norm: Norm) -> list[Gain]:
    """One `Gain` for every node of `graph`."""
    shape_of = [node.shape for node in graph.nodes]

    def linear_layer(node: Node, x: Gain) -> Gain:
        return x.before(cast(Linear | Conv | ChannelAffine, node.op), shape_of[node.inputs[0]])

    def add(_: Node, a: Gain, b: Gain) -> Gain:
        return Gain(norm, a.settled() + b.settled())

    def concat(_: Node, *xs: Gain) -> Gain:
        parts = torch.tensor([[x.settled() for x in xs]], dtype=torch.float64)
        return Gain(norm, float(norm.length(parts)))

    def reshape(node: Node, x: Gain) -> Gain:
        if x.pending is None or not isinstance(x.pending.op, ChannelAffine):
            return x.then(1.0)
        # A scale per channel becomes a scale per feature.
        op = x.pending.op
        source = shape_of[node.inputs[0]]
        scale = op.scale.expand(source).reshape(node.shape)
        return replace(x, pending=Pending(replace(op, scale=scale), node.shape))

    def max_pool(node: Node, x: Gain) -> Gain:
        overlap = pool_overlap(cast(MaxPool, node.op))
        return x.then({L1: float(overlap), L2: math.sqrt(overlap), Linf: 1.0}[norm])

    def avg_pool(node: Node, x: Gain) -> Gain:
        return x.then(pool_norm(cast(AvgPool, node.op), shape_of[node.inputs[0]], norm))

    def piecewise_affine(node: Node, x: Gain) -> Gain:
        return x.then(float(cast(PiecewiseAffine, node.op).slopes.abs().max()))

    def smooth(node: Node, x: Gain) -> Gain:
        return x.then(cast(Smooth, node.op).lipschitz)

    def local_response_norm(node: Node, x: Gain) -> Gain:
        if norm != L2:
            raise UnsupportedOperationError(
                f"layer {node.name!r} (LocalResponseNorm) has a Lipschitz bound in L2 only"
            )
        return x.then(response_norm(cast(LocalResponseNorm, node.op)))

    table: dict[type[Operation], Callable[..., Gain]] = {
        Linear: linear_layer,
        Conv: linear_layer,
        ChannelAffine: linear_layer,
        Add: add,
        Concat: concat,
        Reshape: reshape,
        AvgPool: avg_pool,
        MaxPool: max_pool,
        PiecewiseAffine: piecewise_affine,
        Smooth: smooth,
        LocalResponseNorm: local_response_norm,
    }
    return graph.interpret(table, Gain(norm, 1.0), "Lipschitz bound")
