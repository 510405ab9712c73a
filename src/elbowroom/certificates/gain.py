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
from elbowroom.certificates.pooling import lp_pool_norm, pool_norm, pool_overlap
from elbowroom.graph.graph import Graph, Node, UnsupportedOperationError
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
from elbowroom.norms import L1, L2, Linf, Norm


@dataclass(frozen=True)
class Pending:
    """A linear layer whose norm has not been taken yet, and the shape of its input."""

    op: Linear | Conv | ChannelAffine
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Gain:
    """The node is `pending` after the node `base`, which has the Lipschitz constant `constant`.

    Without a pending layer it is the node `base` itself.
    """

    norm: Norm
    constant: float
    base: int
    pending: Pending | None = None

    def settled(self) -> float:
        """The Lipschitz constant with the pending layer included."""
        return self.constant * self.pending_norm

    @cached_property
    def pending_norm(self) -> float:
        """An upper bound on the operator norm of the pending layer; 1 without one."""
        if self.pending is None:
            return 1.0
        return layer_norm(self.pending.op, self.pending.shape, self.norm)

    def then(self, node: Node, factor: float) -> Gain:
        """After `node`, a layer with Lipschitz constant `factor`."""
        return Gain(self.norm, self.settled() * factor, node.index)

    def before(self, node: Node, layer: Pending) -> Gain:
        """With the linear layer of `node` on top, joined with the pending one where they fit."""
        joined = None if self.pending is None else _joined(self.pending, layer)
        if joined is None:
            return Gain(self.norm, self.settled(), node.inputs[0], layer)
        return replace(self, pending=joined)


def layer_norm(op: Linear | Conv | ChannelAffine, shape: tuple[int, ...], norm: Norm) -> float:
    """An upper bound on the operator norm of a linear layer on samples of `shape`."""
    if isinstance(op, Linear):
        return dense_norm(op.weight, norm)
    if isinstance(op, Conv):
        return conv_norm(op, shape, norm)
    return float(op.scale.abs().max()) * SAFETY


def _joined(first: Pending, second: Pending) -> Pending | None:
    """One layer that does what `first` and then `second` do, or None where that is none."""
    op, then = first.op, second.op
    if isinstance(op, ChannelAffine):
        scale = op.scale
        if isinstance(then, Linear):  # perhaps behind a flattening
            features = scale.expand(first.shape).reshape(-1)
            return Pending(replace(then, weight=then.weight * features), second.shape)
        if first.shape != second.shape:
            return None
        if isinstance(then, ChannelAffine):
            return Pending(replace(then, scale=scale * then.scale), second.shape)
        if _per_channel(scale, first.shape) and then.groups == 1:
            channels = scale.reshape(1, -1, *[1] * len(then.stride))
            return Pending(replace(then, weight=then.weight * channels), second.shape)
        return None
    if isinstance(op, Linear) and isinstance(then, Linear):
        return Pending(replace(then, weight=then.weight @ op.weight), first.shape)
    if isinstance(op, Linear) and isinstance(then, ChannelAffine):
        rows = then.scale.expand(len(op.weight))[:, None]
        return Pending(replace(op, weight=op.weight * rows), first.shape)
    if isinstance(op, Conv) and isinstance(then, ChannelAffine):
        if not _per_channel(then.scale, second.shape):
            return None
        rows = then.scale.reshape(-1, *[1] * (op.weight.ndim - 1))
        return Pending(replace(op, weight=op.weight * rows), first.shape)
    return None


def _per_channel(scale: Tensor, shape: tuple[int, ...]) -> bool:
    return scale.numel() == 1 or tuple(scale.shape) == (shape[0], *[1] * (len(shape) - 1))


def response_norm(op: LocalResponseNorm) -> float:
    """An upper bound on the L2 slope of local response normalisation, for beta <= 1."""
    n, beta = op.size, op.beta
    if not (0 < beta <= 1 and op.k > 0 and op.alpha >= 0):
        raise UnsupportedOperationError(
            "the bound for local response normalisation needs 0 < beta <= 1, k > 0, alpha >= 0"
        )
    curved = 1 + 2 * math.sqrt(n) * math.pow(beta / (beta + 1), beta + 1)
    return math.pow(op.k, -beta) * min(math.sqrt(n), curved)


def node_factor(node: Node, shape: tuple[int, ...], norm: Norm) -> float:
    """The Lipschitz constant of a node with one input of `shape` that is no linear layer."""
    op = node.op
    if isinstance(op, MaxPool):
        overlap = pool_overlap(op)
        return {L1: float(overlap), L2: math.sqrt(overlap), Linf: 1.0}[norm]
    if isinstance(op, AvgPool):
        return pool_norm(op, shape, norm)
    if isinstance(op, PiecewiseAffine):
        return float(op.slopes.abs().max())
    if isinstance(op, Smooth):
        return op.lipschitz
    try:
        if isinstance(op, LpPool):
            return lp_pool_norm(op, shape, norm)
        if isinstance(op, LocalResponseNorm) and norm == L2:
            return response_norm(op)
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(f"layer {node.name!r}: {error}") from None
    raise UnsupportedOperationError(
        f"layer {node.name!r} ({type(op).__name__}) has no Lipschitz bound in {norm}"
    )


def gains(graph: Graph, norm: Norm) -> list[Gain]:
    """One `Gain` for every node of `graph`."""
    shape_of = [node.shape for node in graph.nodes]

    def linear_layer(node: Node, x: Gain) -> Gain:
        op = cast(Linear | Conv | ChannelAffine, node.op)
        return x.before(node, Pending(op, shape_of[node.inputs[0]]))

    def add(node: Node, a: Gain, b: Gain) -> Gain:
        return Gain(norm, a.settled() + b.settled(), node.index)

    def concat(node: Node, *xs: Gain) -> Gain:
        parts = torch.tensor([[x.settled() for x in xs]], dtype=torch.float64)
        return Gain(norm, float(norm.length(parts)), node.index)

    def reshape(node: Node, x: Gain) -> Gain:
        # Norms do not see the shape; a pending scale may still join a linear layer behind it.
        keeps = x.pending is not None and isinstance(x.pending.op, ChannelAffine)
        return x if keeps else x.then(node, 1.0)

    def simple(node: Node, x: Gain) -> Gain:
        return x.then(node, node_factor(node, shape_of[node.inputs[0]], norm))

    table: dict[type[Operation], Callable[..., Gain]] = {
        Linear: linear_layer,
        Conv: linear_layer,
        ChannelAffine: linear_layer,
        Add: add,
        Concat: concat,
        Reshape: reshape,
        AvgPool: simple,
        MaxPool: simple,
        LpPool: simple,
        PiecewiseAffine: simple,
        Smooth: simple,
        LocalResponseNorm: simple,
    }
    return graph.interpret(table, Gain(norm, 1.0, 0), "Lipschitz bound")


def tails(graph: Graph) -> list[float]:
    """For every node, how much the logits can change per unit of L2 change of its output.

    The same reading from the other end: an error that arises at a node passes only the layers
    behind it.
    """
    nodes = graph.nodes
    constants: list[float] = [0.0] * len(nodes)
    pending: list[Pending | None] = [None] * len(nodes)  # the layer behind a node's output
    readers: list[list[Node]] = [[] for _ in nodes]
    for node in nodes:
        for source in set(node.inputs):
            readers[source].append(node)

    def settled(index: int) -> float:
        layer = pending[index]
        return constants[index] * (layer_norm(layer.op, layer.shape, L2) if layer else 1.0)

    constants[-1] = 1.0
    for node in reversed(nodes[:-1]):
        index = node.index
        if len(readers[index]) != 1 or len(readers[index][0].inputs) != 1:
            # Add and concat pass the error of each input on; several readers add up.
            constants[index] = sum(
                settled(reader.index) * _through(reader, index, node.shape)
                for reader in readers[index]
            )
            continue
        (reader,) = readers[index]
        behind = pending[reader.index]
        if isinstance(reader.op, Reshape):
            # A linear layer behind a flattening may still join a scale before it.
            keeps = behind is not None and isinstance(behind.op, Linear)
            constants[index] = constants[reader.index] if keeps else settled(reader.index)
            pending[index] = behind if keeps else None
        elif isinstance(reader.op, Linear | Conv | ChannelAffine):
            own = Pending(reader.op, node.shape)
            joined = None if behind is None else _joined(own, behind)
            constants[index] = constants[reader.index] if joined else settled(reader.index)
            pending[index] = joined or own
        else:
            constants[index] = settled(reader.index) * node_factor(reader, node.shape, L2)
    return [settled(index) for index in range(len(nodes))]


def _through(reader: Node, source: int, shape: tuple[int, ...]) -> float:
    """How much of an error at node `source` passes `reader`."""
    if isinstance(reader.op, Add | Concat):
        return float(reader.inputs.count(source))
    if isinstance(reader.op, Reshape):
        return 1.0
    if isinstance(reader.op, Linear | Conv | ChannelAffine):
        return layer_norm(reader.op, shape, L2)
    return node_factor(reader, shape, L2)
