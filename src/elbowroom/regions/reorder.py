"""The same network with fewer units: max pooling before the activation that it follows."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import MaxPool, PiecewiseAffine


def pool_first(graph: Graph) -> Graph:
    """Swap every activation with the max pool behind it, where that changes nothing.

    A function that does not decrease can be applied after the maximum instead of before. Only
    one unit is then left of each window, and the window's members are affine in more cases.
    """
    readers: dict[int, list[Node]] = {}
    for node in graph.nodes:
        for index in node.inputs:
            readers.setdefault(index, []).append(node)
    nodes = list(graph.nodes)
    for node in graph.nodes:
        if not isinstance(node.op, MaxPool):
            continue
        # Several activations in a row, e.g. a clamp behind a ReLU, all move behind the pool.
        place = node
        while True:
            before = nodes[place.inputs[0]]
            alone = len(readers[before.index]) == 1
            if not (isinstance(before.op, PiecewiseAffine) and alone and _rises(before)):
                break
            pool = replace(before, name=place.name, op=place.op, shape=place.shape)
            nodes[before.index] = pool
            nodes[place.index] = replace(place, name=before.name, op=before.op)
            place = pool
    return replace(graph, nodes=tuple(nodes))


def _rises(node: Node) -> bool:
    return bool((cast(PiecewiseAffine, node.op).slopes >= 0).all())
