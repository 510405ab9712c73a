"""The *interval* reading: how low and how high each unit can get, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from elbowroom.certificates.curves import normaliser, smooth_rest
from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, Node
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

Interval = tuple[Tensor, Tensor]


def _weighted(node: Node, x: Interval) -> Interval:
    """Middles pass the layer, half widths its absolute weights."""
    op = cast(Linear | Conv, node.op)
    apply = cast(Callable[..., Tensor], evaluate.TABLE[type(op)])
    middle = apply(node, (x[0] + x[1]) / 2)
    absolute = replace(node, op=replace(op, weight=op.weight.abs(), bias=None))
    half = apply(absolute, (x[1] - x[0]) / 2)
    return middle - half, middle + half


def _monotone(node: Node, *xs: Interval) -> Interval:
    apply = cast(Callable[..., Tensor], evaluate.TABLE[type(node.op)])
    return apply(node, *(x[0] for x in xs)), apply(node, *(x[1] for x in xs))


def _channel_affine(node: Node, x: Interval) -> Interval:
    ends = [evaluate.channel_affine(node, end) for end in x]
    return torch.minimum(*ends), torch.maximum(*ends)


def _piecewise_affine(node: Node, x: Interval) -> Interval:
    op = cast(PiecewiseAffine, node.op)
    points = [*x, *(torch.minimum(x[1], torch.maximum(x[0], b)) for b in op.breaks)]
    values = torch.stack([evaluate.piecewise_affine(node, point) for point in points])
    return values.amin(dim=0), values.amax(dim=0)


def _smooth(node: Node, x: Interval) -> Interval:
    return smooth_rest(cast(Smooth, node.op), torch.zeros_like(x[0]), *x)


def _response(node: Node, x: Interval) -> Interval:
    op = cast(LocalResponseNorm, node.op)
    least, most = normaliser(op, *x)
    low = torch.minimum(x[0] * least, x[0] * most)
    return low, torch.maximum(x[1] * least, x[1] * most)


TABLE: Mapping[type[Operation], Callable[..., Any]] = {
    Linear: _weighted,
    Conv: _weighted,
    ChannelAffine: _channel_affine,
    Add: _monotone,
    Concat: _monotone,
    Reshape: _monotone,
    AvgPool: _monotone,
    MaxPool: _monotone,
    PiecewiseAffine: _piecewise_affine,
    Smooth: _smooth,
    LocalResponseNorm: _response,
}


def intervals(graph: Graph, low: Tensor, high: Tensor) -> list[Interval]:
    """Bounds `(N, *shape)` on every node over the boxes from `low` to `high` `(N, *shape)`.

    Up to the rounding that `elbowroom.certificates.magnitude` bounds.
    """
    return graph.interpret(TABLE, (low, high), "interval")
