"""The *affine* reading: the exact affine map of the linear region each sample lies in.

Products with the map's matrix cost as much memory as the network itself; the matrix is never
formed. Each sample of a batch has a region of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import (
    ChannelAffine,
    Conv,
    Linear,
    MaxPool,
    PiecewiseAffine,
)
from elbowroom.graph.pattern import Pattern, pattern


class AffineMap:
    """`z -> A z + b`, equal to the network on the linear region of each sample.

    Every method takes one row per sample, in the order of the batch the map was made for.
    """

    def __init__(self, graph: Graph, regions: Pattern) -> None:
        self.graph = graph
        self.regions = regions

    @classmethod
    def at(cls, graph: Graph, x: Tensor) -> AffineMap:
        """The maps of the regions that the points `x` `(N, *shape)` lie in."""
        return cls(graph, pattern(graph, x))

    def take(self, rows: Tensor) -> AffineMap:
        """The maps of the samples `rows` (indices, repeats allowed)."""
        return AffineMap(self.graph, self.regions.take(rows))

    def values(self, z: Tensor) -> list[Tensor]:
        """What every node would be at `z` `(N, *shape)` if the region reached that far."""
        return self._run(z, linear_part_only=False)

    def __call__(self, z: Tensor) -> Tensor:
        """`A z + b` `(N, K)`."""
        return self.values(z)[-1]

    def tangents(self, v: Tensor, last: int | None = None) -> list[Tensor]:
        """The derivative of every node, up to the node `last`, along `v` `(N, *shape)`."""
        return self._run(v, linear_part_only=True, last=last)

    def jvp(self, v: Tensor) -> Tensor:
        """`A v` `(N, K)` for `v` `(N, *shape)`."""
        return self.tangents(v)[-1]

    def vjp(self, cotangents: Tensor | Mapping[int, Tensor]) -> Tensor:
        """`u A` `(N, *shape)`.

        cotangents: `u` `(N, K)` at the logits, or tensors `(N, *node.shape)` by index of the
        node they belong to, whose products are summed.
        """
        if isinstance(cotangents, Tensor):
            cotangents = {len(self.graph.nodes) - 1: cotangents}
        some = next(iter(cotangents.values()))
        with torch.enable_grad():
            # The map is linear, so the point of differentiation does not matter.
            zero = some.new_zeros(len(some), *self.graph.input_shape).requires_grad_()
            nodes = list(cotangents)
            tangents = self.tangents(zero, last=max(nodes))
            (product,) = torch.autograd.grad(
                [tangents[node] for node in nodes],
                zero,
                [cotangents[node] for node in nodes],
                allow_unused=True,
                materialize_grads=True,
            )
        return product

    def rows(self, units: Tensor, node: int = -1) -> Tensor:
        """Rows `(N, R, *shape)` of the Jacobian of a node, the logits by default.

        units: `(N, R)`, flat indices into the node's units, chosen separately for each sample.
        """
        node %= len(self.graph.nodes)
        samples, count = units.shape
        shape = self.graph.nodes[node].shape
        one_hot = torch.zeros(
            samples * count, math.prod(shape), device=units.device, dtype=self.graph.dtype
        )
        one_hot.scatter_(1, units.reshape(-1, 1), 1.0)
        repeated = self.take(torch.arange(samples, device=units.device).repeat_interleave(count))
        product = repeated.vjp({node: one_hot.reshape(-1, *shape)})
        return product.reshape(samples, count, *self.graph.input_shape)

    def _run(self, z: Tensor, *, linear_part_only: bool, last: int | None = None) -> list[Tensor]:
        def without_bias(node: Node, z: Tensor) -> Tensor:
            op = cast(Linear | Conv, node.op)
            if linear_part_only:
                node = replace(node, op=replace(op, bias=None))
            return cast(Tensor, evaluate.TABLE[type(op)](node, z))

        def channel_affine(node: Node, z: Tensor) -> Tensor:
            op = cast(ChannelAffine, node.op)
            return z * op.scale if linear_part_only else z * op.scale + op.shift

        def activation(node: Node, z: Tensor) -> Tensor:
            op = cast(PiecewiseAffine, node.op)
            pieces = self.regions.pieces[node.index]
            scaled = evaluate.select(op.slopes, pieces) * z
            if linear_part_only:
                return scaled
            return scaled + evaluate.select(op.intercepts, pieces)

        def max_pool(node: Node, z: Tensor) -> Tensor:
            winners = self.regions.pieces[node.index]
            spatial = len(cast(MaxPool, node.op).kernel)
            start = winners.ndim - spatial
            return z.flatten(start).gather(-1, winners.flatten(start)).reshape(winners.shape)

        table = {
            **evaluate.LINEAR_TABLE,
            Linear: without_bias,
            Conv: without_bias,
            ChannelAffine: channel_affine,
            PiecewiseAffine: activation,
            MaxPool: max_pool,
        }
        return self.graph.interpret(table, z, "affine map", last)
