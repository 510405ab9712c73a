"""Receptive fields: the window of every earlier layer that a unit behind convolutions depends on.

Their sizes by the recursion of Araujo, Norris and Sim 2019 (Computing receptive fields of
convolutional neural networks), here for any graph of local operations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import (
    Add,
    AvgPool,
    ChannelAffine,
    Concat,
    Conv,
    LocalResponseNorm,
    MaxPool,
    PiecewiseAffine,
    Smooth,
)

# Operations whose outputs depend, through lines, on the inputs at the same place alone.
POINTWISE = (Add, ChannelAffine, Concat, LocalResponseNorm, PiecewiseAffine, Smooth)


@dataclass(frozen=True)
class Window:
    """Where the units of one node look in an earlier node, for each spatial dimension.

    The unit at the place p has the `size` places from `start + step * p` on, some of which can be
    outside of the node.
    """

    start: tuple[int, ...]
    size: tuple[int, ...]
    step: tuple[int, ...]

    def before(self, op: Conv | MaxPool) -> Window:
        """The window of the operation's input, if this is that of its output."""
        kernel = op.weight.shape[2:] if isinstance(op, Conv) else op.kernel
        start = (a * s - p for a, s, p in zip(self.start, op.stride, op.padding, strict=True))
        size = (
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip(self.size, op.stride, kernel, op.dilation, strict=True)
        )
        step = (t * s for t, s in zip(self.step, op.stride, strict=True))
        return Window(tuple(start), tuple(size), tuple(step))

    def joined(self, other: Window) -> Window | None:
        """The smallest window around both, None if they move at different steps."""
        if self.step != other.step:
            return None
        start = tuple(map(min, self.start, other.start))
        stops = zip(self.start, self.size, other.start, other.size, strict=True)
        stop = [max(a + n, b + m) for a, n, b, m in stops]
        size = tuple(b - a for a, b in zip(start, stop, strict=True))
        return Window(start, size, self.step)

    def place(self, values: Tensor, inside: Window) -> Tensor:
        """Values `(..., *size)` of this window in the larger one `inside`, zero elsewhere."""
        pads = [
            (a - b, b + m - a - n)
            for a, n, b, m in zip(self.start, self.size, inside.start, inside.size, strict=True)
        ]
        return _padded(values, pads)

    def gather(self, values: Tensor, places: tuple[int, ...]) -> Tensor:
        """From values `(B, C, *shape)` of a node the windows `(B * places, C, *size)` of all units
        at the `places`, zero outside of the node.
        """
        dims = len(places)
        pads = [
            (-a, a + t * (p - 1) + n - length)
            for a, n, t, p, length in zip(
                self.start, self.size, self.step, places, values.shape[2:], strict=True
            )
        ]
        values = _padded(values, pads)
        for d in range(dims):
            values = values.unfold(2 + d, self.size[d], self.step[d])
        return values.movedim(1, 1 + dims).flatten(0, dims)


def _padded(values: Tensor, pads: list[tuple[int, int]]) -> Tensor:
    """Zeros before and after, or fewer places where negative, for each of the last dimensions."""
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(values, flat) if any(flat) else values


def sliding(node: Node, like: Tensor) -> Conv | MaxPool | None:
    """A convolution or a max pool, or an average pool as a convolution whose weights are `like`.

    None for others, and for pooling over what is not a channel's places.
    """
    op = node.op
    if not isinstance(op, Conv | MaxPool | AvgPool) or len(op.stride) != len(node.shape) - 1:
        return None
    if isinstance(op, Conv | MaxPool):
        return op
    if not op.ceil_mode and (op.count_include_pad or not any(op.padding)):
        channels, ones = node.shape[0], (1,) * len(op.kernel)
        weight = like.new_full((channels, 1, *op.kernel), 1 / math.prod(op.kernel))
        return Conv(weight, None, op.stride, op.padding, ones, channels)
    return None


def receptive_fields(graph: Graph, index: int) -> dict[int, Window] | None:
    """The windows of the units of the node `index` in itself and in all nodes that it depends on.

    None where an operation on the way is not local, or the windows are hardly smaller than the
    nodes.
    """
    dims = len(graph.nodes[index].shape) - 1
    one = (1,) * dims
    fields = {index: Window((0,) * dims, one, one)}
    for node in reversed(graph.nodes[1 : index + 1]):
        if node.index not in fields:
            continue
        op = sliding(node, torch.empty(()))
        before = fields[node.index]
        if op is not None:
            before = before.before(op)
        elif not dims or not _pointwise(node, graph):
            return None
        for i in node.inputs:
            joined = before.joined(fields.get(i, before))
            if joined is None:
                return None
            fields[i] = joined
    if 0 not in fields:
        return None
    sizes = [graph.nodes[i].shape[0] * math.prod(window.size) for i, window in fields.items()]
    whole = sum(math.prod(graph.nodes[i].shape) for i in fields)
    return fields if 2 * sum(sizes) <= whole else None


def _pointwise(node: Node, graph: Graph) -> bool:
    if isinstance(node.op, Concat) and node.op.dim != 1:
        return False
    shapes = {graph.nodes[i].shape[1:] for i in node.inputs}
    return isinstance(node.op, POINTWISE) and shapes == {node.shape[1:]}
