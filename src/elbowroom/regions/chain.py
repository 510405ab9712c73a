"""A network as a chain of layers, each a network of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import Input, MaxPool, PiecewiseAffine


def unit_count(node: Node) -> int:
    """How many units have a piece to choose."""
    return math.prod(node.shape) if isinstance(node.op, PiecewiseAffine | MaxPool) else 0


@dataclass(frozen=True, eq=False)
class Layer:
    """A part of a network as a network of its own, and the node whose values it reads."""

    source: Node
    graph: Graph


def layers(graph: Graph) -> list[Layer]:
    """The network as a chain, cut at nodes that every path from input to output passes.

    A layer is an affine map and what follows it up to the next activation or pooling. Where the
    graph branches, everything up to the node that joins the branches is in one layer.
    """
    needed = {len(graph.nodes) - 1}
    for node in reversed(graph.nodes):
        if node.index in needed:
            needed.update(node.inputs)
    kept = [node for node in graph.nodes if node.index in needed]
    found, part = [], kept[:1]
    reach = 0  # the furthest reader of the nodes before
    for node in kept[1:]:
        readers = [n.index for n in kept if part[-1].index in n.inputs]
        reach = max([reach, *readers])
        part.append(node)
        if reach <= node.index and any(unit_count(n) for n in part[1:]):
            found.append(_alone(part, graph.dtype))
            part = [node]
    return [*found, _alone(part, graph.dtype)] if len(part) > 1 or not found else found


def _alone(nodes: list[Node], dtype: torch.dtype) -> Layer:
    """The nodes, of which the first becomes the input, numbered from 0."""
    place = {node.index: k for k, node in enumerate(nodes)}
    start = replace(nodes[0], index=0, op=Input(), inputs=())
    moved = [
        replace(n, index=place[n.index], inputs=tuple(place[i] for i in n.inputs))
        for n in nodes[1:]
    ]
    return Layer(nodes[0], Graph((start, *moved), dtype))
