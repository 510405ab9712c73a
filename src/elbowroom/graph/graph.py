"""A traced network: nodes in the order they are computed, the input first, the logits last."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from elbowroom.graph.ops import Operation

T = TypeVar("T")


class UnsupportedOperationError(ValueError):
    """A layer that a tracer or an interpreter does not know."""


@dataclass(frozen=True)
class Node:
    """One operation on earlier nodes.

    index:  its place in the graph.
    name:   the layer's name in the model, e.g. `layer1.0.conv1`.
    inputs: indices of the nodes it reads.
    shape:  its output for one sample.
    """

    index: int
    name: str
    op: Operation
    inputs: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Graph:
    """`nodes[0]` is the input, `nodes[-1]` the logits; `dtype` is that of the weights."""

    nodes: tuple[Node, ...]
    dtype: torch.dtype

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.nodes[0].shape

    def to(self, dtype: torch.dtype) -> Graph:
        """The same graph with every tensor in `dtype`."""

        def converted(op: Operation) -> Operation:
            values = {f.name: getattr(op, f.name) for f in fields(op)}
            tensors = {name: v.to(dtype) for name, v in values.items() if isinstance(v, Tensor)}
            return replace(op, **tensors)

        return Graph(tuple(replace(node, op=converted(node.op)) for node in self.nodes), dtype)

    def renamed(self, name: Callable[[str], str]) -> Graph:
        """The same graph, its layers called `name(...)` of what they were."""
        nodes = tuple(replace(node, name=name(node.name)) for node in self.nodes)
        return Graph(nodes, self.dtype)

    def interpret(
        self,
        table: Mapping[type[Operation], Callable[..., T]],
        start: T,
        reading: str,
        last: int | None = None,
    ) -> list[T]:
        """One value per node: `table[type(op)](node, *values of its inputs)`, from `start`.

        last: index of the last node wanted, the logits by default.

        Raises `UnsupportedOperationError` naming the layer whose operation has no entry.
        """
        values = [start]
        for node in self.nodes[1 : None if last is None else last + 1]:
            rule = table.get(type(node.op))
            if rule is None:
                raise UnsupportedOperationError(
                    f"layer {node.name!r} is a {node.op.kind}, for which there is no {reading}"
                )
            values.append(rule(node, *(values[i] for i in node.inputs)))
        return values
