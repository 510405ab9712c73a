"""Which nodes of a network cannot be negative, whatever its input."""

from __future__ import annotations

from collections.abc import Sequence

from elbowroom.graph.evaluate import piecewise_affine
from elbowroom.graph.graph import Node
from elbowroom.graph.ops import (
    Add,
    AvgPool,
    ChannelAffine,
    Concat,
    LocalResponseNorm,
    LpPool,
    MaxPool,
    PiecewiseAffine,
    Reshape,
    Smooth,
)

KEEP_SIGNS = (Add, AvgPool, Concat, LocalResponseNorm, MaxPool, Reshape)
POSITIVE = ("sigmoid", "softplus")


def cannot_be_negative(nodes: Sequence[Node], index: int) -> bool:
    """Whether every value of the node `index` is at least 0, as computed too."""
    node = nodes[index]
    op = node.op
    if isinstance(op, LpPool):
        return True
    if isinstance(op, Smooth):
        return op.name in POSITIVE
    if isinstance(op, PiecewiseAffine):
        return _is_never_negative(node, op)
    if isinstance(op, ChannelAffine) and not bool(((op.scale >= 0) & (op.shift >= 0)).all()):
        return False
    if isinstance(op, (*KEEP_SIGNS, ChannelAffine)):
        return all(cannot_be_negative(nodes, source) for source in node.inputs)
    return False


def _is_never_negative(node: Node, op: PiecewiseAffine) -> bool:
    """A piecewise affine function is smallest at a break, unless it falls at an end."""
    ends = bool((op.slopes[0] <= 0).all() and (op.slopes[-1] >= 0).all())
    extra = op.slopes.ndim - 1  # per channel: the breaks are spread over a dimension of samples
    breaks = op.breaks.reshape(-1, *[1] * extra).expand(-1, *op.slopes.shape[1:])
    return ends and bool((piecewise_affine(node, breaks) >= 0).all())
