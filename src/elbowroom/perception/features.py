"""Distances between what a classifier's layers make of two images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.features import find_layer
from elbowroom.graph import Graph
from elbowroom.graph.evaluate import TABLE
from elbowroom.graph.graph import Node
from elbowroom.graph.ops import Conv, Linear, PiecewiseAffine, Smooth
from elbowroom.norms import L2, Norm
from elbowroom.perception.distance import VectorDistance, require_images
from elbowroom.results import Cost

Kind = Literal["l2", "cosine", "lpips"]
KINDS = ("l2", "cosine", "lpips")

TINY = 1e-10  # added to lengths before dividing by them, as LPIPS does


@dataclass(frozen=True, eq=False)
class FeatureDistance(VectorDistance):
    """How far apart a classifier's layers put two images. One forward pass an image.

    clf:    whose features they are.
    layers: names of layers in the model, or numbers of nodes in `clf.graph(shape)`; the outputs
            of all activations by default. `representation(graph)` is the layer before the logits.
    kind:   `l2`: length of the difference of all features together.
            `cosine`: one minus the cosine of the angle between the features, averaged over
            layers, in [0, 2]; computed as half the squared distance of unit vectors, so a zero
            vector is at distance 0 from itself and 1/2 from others. Not a metric.
            `lpips`: features are brought to unit length over the channels at each position; the
            squared difference, weighted per channel, is averaged over positions and summed over
            layers (after Zhang et al. 2018, eq. 1). A flat layer is one position.
    weights: for `lpips`, the layer (as in `layers`) to weights `(channels,)`, at least 0; a layer
            without has ones.
    """

    clf: Classifier
    layers: Sequence[str | int] | None = None
    kind: Kind = field(default="lpips", kw_only=True)
    weights: Mapping[str | int, Tensor] | None = field(default=None, kw_only=True)
    norm: Norm = field(default=L2, init=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if self.layers is not None and (isinstance(self.layers, str) or not len(self.layers)):
            raise ValueError(f"layers must be a list of names, not {self.layers!r}")
        for layer, weight in (self.weights or {}).items():
            if self.kind != "lpips" or layer not in (self.layers or ()):
                raise ValueError(f"weights for {layer!r}: only the layers of an lpips have any")
            if weight.ndim != 1 or not bool((weight >= 0).all() & weight.isfinite().all()):
                raise ValueError(f"the weights for {layer!r} must be (channels,) and at least 0")

    @property
    def name(self) -> str:
        layers = "all activations" if self.layers is None else ", ".join(map(str, self.layers))
        return f"{self.kind} of {layers} of {self.clf.name}"

    def describe(self, x: Tensor) -> Tensor:
        require_images(x)
        if (x.dtype, x.device) != (self.clf.dtype, self.clf.device):
            raise ValueError(
                f"images are {x.dtype} on {x.device} but the model is {self.clf.dtype} on "
                f"{self.clf.device}; convert them"
            )
        graph = self.clf.graph(x.shape[1:])
        chosen = self.nodes(graph)
        last = max(node.index for node in chosen)
        with self.clf.session():
            values = graph.interpret(TABLE, x, "plain evaluation", last)
        self.clf.cost += Cost(forward=len(x))
        layers = self.layers or [node.index for node in chosen]
        vectors = [
            self._vectors(values[node.index], layer)
            for node, layer in zip(chosen, layers, strict=True)
        ]
        share = len(vectors) if self.kind == "cosine" else 1
        return torch.cat(vectors, dim=1) / math.sqrt(share)

    def from_length(self, length: Tensor) -> Tensor:
        return {"l2": length, "cosine": length.square() / 2, "lpips": length.square()}[self.kind]

    def nodes(self, graph: Graph) -> list[Node]:
        """The nodes whose outputs are compared, in the order of `layers`."""
        if self.layers is None:
            found = [n for n in graph.nodes if isinstance(n.op, PiecewiseAffine | Smooth)]
            if not found:
                raise ValueError(f"{self.clf.name} has no activations; name the layers to compare")
            return found
        return [find_layer(graph, layer) for layer in self.layers]

    def _vectors(self, features: Tensor, layer: str | int) -> Tensor:
        """One layer's features `(N, C, ...)` as vectors `(N, D)` whose distance is wanted."""
        if self.kind == "l2":
            return features.flatten(1)
        if self.kind == "cosine":
            return _unit(features.flatten(1))
        unit = _unit(features).flatten(2) if features.ndim > 2 else _unit(features)[..., None]
        weight = (self.weights or {}).get(layer)
        if weight is not None:
            if len(weight) != unit.shape[1]:
                raise ValueError(
                    f"layer {layer!r} has {unit.shape[1]} channels, and {len(weight)} weights"
                )
            unit = unit * weight.to(unit).sqrt()[:, None]
        return unit.flatten(1) / math.sqrt(unit.shape[2])


def _unit(features: Tensor) -> Tensor:
    """Brought to unit length along dimension 1; zero stays zero."""
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (length + TINY)


def representation(graph: Graph) -> int:
    """The node before the last linear layer: what the logits are a linear function of.

    The "representation layer" of the Invariance thesis (2.2). Raises `ValueError` for a graph
    that does not end in a linear layer, perhaps reshaped or scaled.
    """
    node = graph.nodes[-1]
    while not isinstance(node.op, Linear | Conv):
        nonlinear = isinstance(node.op, PiecewiseAffine | Smooth)
        if len(node.inputs) != 1 or nonlinear:
            raise ValueError(
                f"the logits do not come from a linear layer but from {node.name!r}; name a layer"
            )
        node = graph.nodes[node.inputs[0]]
    return node.inputs[0]
