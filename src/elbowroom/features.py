"""A part of a network as a classifier of its own: what must stay the same, as its "logits".

Every inversion compares outputs of a `Classifier`. Where it is to compare something else than the
logits, it is given a classifier that ends earlier, or whose outputs are the logits without what
softmax does not see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier
from elbowroom.graph import Graph
from elbowroom.graph.evaluate import evaluate
from elbowroom.graph.graph import Node
from elbowroom.graph.ops import Linear, Reshape


def features_of(
    clf: Classifier, shape: Sequence[int], *, layer: str | None = None, up_to_shift: bool = False
) -> Classifier:
    """The classifier whose outputs are the features to be compared; `clf` itself for its logits.

    shape:       of one sample.
    layer:       name of a layer of the graph, whose flattened output counts; the logits by default.
    up_to_shift: leave out the mean of the features: logits that differ by a common shift have the
                 same softmax. The outputs are coordinates in an orthonormal basis of the rest, one
                 fewer than there were.

    Its passes count as whole ones, on its own `cost`. Raises `ValueError` for a layer that is not
    there, naming those that are, and `UnsupportedOperationError` where the network cannot be traced
    but has to be cut.
    """
    if layer is None and not up_to_shift:
        return clf
    graph = clf.graph(shape)
    nodes = list(
        graph.nodes if layer is None else graph.nodes[: find_layer(graph, layer).index + 1]
    )
    width = math.prod(nodes[-1].shape)
    if nodes[-1].shape != (width,):
        nodes.append(_after(nodes[-1], "features", Reshape((width,)), width))
    if up_to_shift:
        if width < 2:
            raise ValueError(f"{layer or 'the network'} has one feature: nothing is left of it")
        some = next(iter(clf.network.parameters()), clf.lower)
        basis = _without_mean(width).to(dtype=graph.dtype, device=some.device)
        nodes.append(_after(nodes[-1], "without the mean", Linear(basis, None), width - 1))
    name = clf.name if layer is None else f"{clf.name}, up to {layer}"
    return _part(clf, shape, Graph(tuple(nodes), graph.dtype), name)


def in_precision(clf: Classifier, shape: Sequence[int], dtype: torch.dtype) -> Classifier:
    """The same classifier, or part of one, in `dtype`, for samples of `shape`.

    Its passes count on its own `cost`, unless it is `clf` itself.
    """
    if clf.dtype == dtype:
        return clf
    if isinstance(clf.network, _Part):
        return _part(clf, shape, clf.network.graph.to(dtype), clf.name)
    return Classifier(clf.network, bounds=(clf.lower, clf.upper), dtype=dtype, name=clf.name)


def _part(clf: Classifier, shape: Sequence[int], graph: Graph, name: str) -> Classifier:
    lower, upper = clf.lower.to(graph.dtype), clf.upper.to(graph.dtype)
    module = _Part(graph, lower.new_zeros(()))
    return Classifier(module, bounds=(lower, upper), name=name).with_graph(shape, graph)


def layer_names(graph: Graph) -> list[str]:
    """The names of all layers after the input, in the order they are computed."""
    return list(dict.fromkeys(node.name for node in graph.nodes[1:]))


def find_layer(graph: Graph, layer: str | int) -> Node:
    """The node with the output of a layer, by its name; or the node of a number.

    A layer can be several nodes in a row, or used several times: the last of them counts. Raises
    `ValueError` for one that is not there.
    """
    if isinstance(layer, int):
        if not 0 <= layer < len(graph.nodes):
            raise ValueError(f"there is no node {layer}; the graph has {len(graph.nodes)}")
        return graph.nodes[layer]
    found = [node for node in graph.nodes[1:] if node.name == layer]
    if not found:
        raise ValueError(
            f"there is no layer {layer!r}; the network's layers are {', '.join(layer_names(graph))}"
        )
    return found[-1]


def _after(node: Node, name: str, op: Reshape | Linear, width: int) -> Node:
    return Node(node.index + 1, name, op, (node.index,), (width,))


def _without_mean(width: int) -> Tensor:
    """`(width - 1, width)`, float64: orthonormal rows that span the vectors of mean zero."""
    rows = torch.tril(torch.ones(width, width, dtype=torch.float64))[:-1]
    numbers = torch.arange(1, width, dtype=torch.float64)
    rows[torch.arange(width - 1), torch.arange(1, width)] = -numbers
    return rows / torch.sqrt(numbers * (numbers + 1))[:, None]


class _Part(nn.Module):
    """A graph as a module."""

    def __init__(self, graph: Graph, like: Tensor) -> None:
        super().__init__()
        self.graph = graph
        self.register_buffer("like", like)  # tells device and precision

    def forward(self, x: Tensor) -> Tensor:
        return evaluate(self.graph, x)[-1]
