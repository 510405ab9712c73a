"""Linear functions of nodes, bounded from below by linear functions of the input.

Affine operations are pulled back exactly, the others through the lines of an `Envelope`
(CROWN's backward substitution, Zhang et al. 2018): one vector-Jacobian product per row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import ChannelAffine, Conv, Linear, Reshape
from elbowroom.regions.envelopes import Envelope
from elbowroom.regions.transposed_convolution import transposed_convolution, without_padding
from elbowroom.results import Cost


class Substitution:
    """The backward pass over a graph, in its precision; sums over whole layers are in float64.

    curved: indices of the nodes that are bounded by envelopes.
    cost:   passes so far; a row is a VJP.
    """

    def __init__(self, graph: Graph, curved: Mapping[int, object], like: Tensor) -> None:
        self.graph, self.curved, self.like = graph, curved, like
        self.cost = Cost()
        # What the affine operations add to their inputs' images, `(1, *shape)`.
        affine = [node for node in graph.nodes[1:] if node.index not in curved]
        self.shifts = {node.index: self._apply(node, self._zeros(node, 1)) for node in affine}

    def _apply(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        return cast(Tensor, evaluate.LINEAR_TABLE[type(node.op)](node, *inputs))

    def _zeros(self, node: Node, count: int) -> list[Tensor]:
        return [self.like.new_zeros(count, *self.graph.nodes[i].shape) for i in node.inputs]

    def pull(
        self, cotangents: Mapping[int, Tensor], envelopes: Mapping[int, Envelope]
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Rows `(B, R, d)` and constants `(B, R)` of the input that bound `sum of u . node`
        from below, for cotangents u `(B, R, *shape)` by node; and what arrived at each envelope.
        """
        some = next(iter(cotangents.values()))
        lead = some.shape[:2]
        self.cost += Cost(vjp=lead.numel())
        waiting = dict(cotangents)
        constant = some.new_zeros(lead, dtype=torch.float64)
        seen: dict[int, Tensor] = {}
        for node in reversed(self.graph.nodes[1:]):
            u = waiting.pop(node.index, None)
            if u is None:
                continue
            if node.index in self.curved:
                seen[node.index] = u
                v, added = envelopes[node.index].pull(u)
                inputs, constant = [v], constant + added
            else:
                shifted = (u * self.shifts[node.index][:, None]).flatten(2)
                constant = constant + shifted.sum(dim=2, dtype=torch.float64)
                inputs = [v.view(*lead, *v.shape[1:]) for v in self._transposed(node, u)]
            for index, v in zip(node.inputs, inputs, strict=True):
                waiting[index] = waiting[index] + v if index in waiting else v
        rows = waiting.get(0)
        if rows is None:
            rows = some.new_zeros(*lead, *self.graph.input_shape)
        return rows.flatten(2), constant, seen

    def _transposed(self, node: Node, u: Tensor) -> list[Tensor]:
        """The cotangents of an affine node's inputs, samples and rows in one dimension."""
        u, op = u.flatten(0, 1), node.op
        if isinstance(op, Linear):
            return [u @ op.weight]
        shape = self.graph.nodes[node.inputs[0]].shape
        if isinstance(op, Reshape):
            return [u.reshape(len(u), *shape)]
        if isinstance(op, ChannelAffine):
            return [u * op.scale]
        if isinstance(op, Conv):
            return [without_padding(transposed_convolution(u, op), op.padding, shape[1:])]
        with torch.enable_grad():
            zeros = [zero.requires_grad_() for zero in self._zeros(node, len(u))]
            product = torch.autograd.grad(
                self._apply(node, zeros), zeros, u, create_graph=u.requires_grad
            )
        return list(product)
