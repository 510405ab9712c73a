"""Which input features each unit of a layer can depend on: few, behind convolutions."""

from __future__ import annotations

import math
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from elbowroom.certificates.magnitude import weighted_magnitude
from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph
from elbowroom.graph.ops import (
    ChannelAffine,
    Conv,
    Linear,
    LocalResponseNorm,
    MaxPool,
    PiecewiseAffine,
    Smooth,
)
from elbowroom.regions.partial import padded_indices

CHUNK = 256

_KNOWN: WeakKeyDictionary[Graph, dict[int, Tensor | None]] = WeakKeyDictionary()


def supports(graph: Graph, index: int) -> Tensor | None:
    """For every unit of the node `index`, its features `(units, k)`, filled up with -1.

    None where most units depend on most features, or the layers on the way mix what they please.
    """
    known = _KNOWN.setdefault(graph, {})
    if index not in known:
        known[index] = _supports(graph, index)
    return known[index]


def _supports(graph: Graph, index: int) -> Tensor | None:
    nodes = graph.nodes[1 : index + 1]
    if any(isinstance(node.op, MaxPool | LocalResponseNorm) for node in nodes):
        return None
    table: evaluate.Table = {
        **evaluate.LINEAR_TABLE,
        Linear: weighted_magnitude,
        Conv: weighted_magnitude,
        ChannelAffine: lambda _, x: x,
        PiecewiseAffine: lambda _, x: x,
        Smooth: lambda _, x: x,
    }
    units = math.prod(graph.nodes[index].shape)
    found = []
    for first in range(0, units, CHUNK):
        some = torch.arange(first, min(first + CHUNK, units))
        with torch.enable_grad():
            x = torch.zeros(len(some), *graph.input_shape, dtype=graph.dtype).requires_grad_()
            outputs = graph.interpret(table, x, "support", index)[-1].flatten(1)
            chosen = outputs.gather(1, some[:, None]).sum()
            if not chosen.requires_grad:
                return None
            (gradient,) = torch.autograd.grad(chosen, x)
        found.append(gradient.flatten(1) != 0)
    mask = torch.cat(found)
    if int(mask.sum(dim=1).max()) > mask.shape[1] // 2:
        return None
    return padded_indices(mask)
