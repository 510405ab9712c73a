"""The constraints that one node puts on its input, linear in the input's values.

A block has a fixed number of slots. `excess = push(values) + offset`, positive where violated;
the offset of an empty slot is `-inf`. Sources: LRA, eq. 7 (units), 8 (windows), 10-11 (decision).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import MaxPool, PiecewiseAffine


@dataclass(frozen=True, eq=False)
class Block(ABC):
    """source: index of the node that is constrained; count: slots of a sample."""

    source: int
    count: int

    @property
    @abstractmethod
    def offset(self) -> Tensor:
        """`(N, count)`, `-inf` in empty slots."""

    @abstractmethod
    def push(self, values: Tensor) -> Tensor:
        """Values or tangents of the source `(N, *shape)` to `(N, count)`."""

    @abstractmethod
    def pull(self, mu: Tensor) -> Tensor:
        """The transpose of `push`: `(N, count)` to `(N, *shape)`."""

    @abstractmethod
    def take(self, rows: Tensor) -> Block:
        """The block of the samples `rows`."""


@dataclass(frozen=True, eq=False)
class DecisionBlock(Block):
    """`decision @ logits <= bound` for `decision` `(N, J, K)`; an all-zero row is an empty slot.

    bound: `(N, J)`; None for 0.
    """

    decision: Tensor
    bound: Tensor | None = None

    @property
    def offset(self) -> Tensor:
        there = (self.decision != 0).any(dim=2)
        limit = 0.0 if self.bound is None else -self.bound
        return torch.where(there, limit, -torch.inf).to(self.decision.dtype)

    def push(self, values: Tensor) -> Tensor:
        return (self.decision * values[:, None]).sum(dim=2)

    def pull(self, mu: Tensor) -> Tensor:
        return (self.decision * mu[..., None]).sum(dim=1)

    def take(self, rows: Tensor) -> DecisionBlock:
        bound = None if self.bound is None else self.bound[rows]
        return DecisionBlock(self.source, self.count, self.decision[rows], bound)


@dataclass(frozen=True, eq=False)
class UnitBlock(Block):
    """Each unit stays on its piece of a piecewise affine activation.

    A unit has `sides` slots: one for activations of two pieces, whose other side is open, else
    two, the break above the piece and then the one below it.
    """

    breaks: Tensor
    pieces: Tensor
    sides: int

    @classmethod
    def of(cls, node: Node, pieces: Tensor, dtype: torch.dtype) -> UnitBlock:
        breaks = cast(PiecewiseAffine, node.op).breaks.to(dtype)
        sides = 1 if len(breaks) == 1 else 2
        return cls(node.inputs[0], sides * math.prod(node.shape), breaks, pieces, sides)

    @property
    def offset(self) -> Tensor:
        if self.sides == 1:
            return -self._sign() * self.breaks[0]
        pieces = self.pieces.flatten(1).to(torch.int64)
        infinity = self.breaks.new_full((1,), torch.inf)
        above, below = torch.cat([self.breaks, infinity]), torch.cat([-infinity, self.breaks])
        return torch.cat([-above[pieces], below[pieces]], dim=1)

    def _sign(self) -> Tensor:
        """+1 below the only break, -1 above it."""
        return 1.0 - 2.0 * self.pieces.flatten(1).to(self.breaks.dtype)

    def push(self, values: Tensor) -> Tensor:
        flat = values.flatten(1)
        return self._sign() * flat if self.sides == 1 else torch.cat([flat, -flat], dim=1)

    def pull(self, mu: Tensor) -> Tensor:
        if self.sides == 1:
            return (self._sign() * mu).view(self.pieces.shape)
        above, below = mu.chunk(2, dim=1)
        return (above - below).view(self.pieces.shape)

    def take(self, rows: Tensor) -> UnitBlock:
        return UnitBlock(self.source, self.count, self.breaks, self.pieces[rows], self.sides)


@dataclass(frozen=True, eq=False)
class WindowBlock(Block):
    """The winner of each max-pool window stays above the k - 1 other members.

    members, inside: see `pooling_windows`. winners: flat positions, `(N, channels.., windows)`.
    source_shape:    of one sample.
    """

    members: Tensor
    inside: Tensor
    winners: Tensor
    source_shape: tuple[int, ...]

    @classmethod
    def of(cls, node: Node, source: Node, winners: Tensor) -> WindowBlock:
        op = cast(MaxPool, node.op)
        spatial = len(op.kernel)
        members, inside = pooling_windows(op, source.shape[-spatial:], node.shape[-spatial:])
        flat = winners.flatten(-spatial)
        count = math.prod(node.shape) * members.shape[1]
        members, inside = members.to(winners.device), inside.to(winners.device)
        return cls(source.index, count, members, inside, flat, source.shape)

    @property
    def offset(self) -> Tensor:
        real = self.inside & (self.members != self.winners[..., None])
        return torch.where(real, 0.0, -torch.inf).flatten(1)

    def push(self, values: Tensor) -> Tensor:
        values = values.flatten(self.winners.ndim - 1)
        members = values[..., self.members.flatten()].view(*values.shape[:-1], *self.members.shape)
        above: Tensor = members - values.gather(-1, self.winners)[..., None]
        return above.flatten(1)

    def pull(self, mu: Tensor) -> Tensor:
        mu = mu.view(*self.winners.shape, self.members.shape[1])
        lead = self.winners.ndim - 2  # channels
        pulled = mu.new_zeros(*mu.shape[:-2], math.prod(self.source_shape[lead:]))
        pulled.index_add_(-1, self.members.flatten(), mu.flatten(-2))
        pulled.scatter_add_(-1, self.winners, -mu.sum(dim=-1))
        return pulled.view(-1, *self.source_shape)

    def take(self, rows: Tensor) -> WindowBlock:
        return WindowBlock(
            self.source, self.count, self.members, self.inside, self.winners[rows],
            self.source_shape,
        )  # fmt: skip


def region_blocks(graph: Graph, pieces: Mapping[int, Tensor]) -> list[Block]:
    """The blocks of every node with pieces, in the order of the graph."""
    blocks: list[Block] = []
    for index, values in pieces.items():
        node = graph.nodes[index]
        if isinstance(node.op, PiecewiseAffine):
            blocks.append(UnitBlock.of(node, values, graph.dtype))
        else:
            blocks.append(WindowBlock.of(node, graph.nodes[node.inputs[0]], values))
    return blocks


def pooling_windows(
    op: MaxPool, source: Sequence[int], output: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The members of every window, as flat positions in the spatial dimensions of the input.

    source, output: spatial sizes of the input and of the output.
    Returns positions `(windows, size)`, and whether they lie inside the input (else they are
    padding, and the position given is 0).
    """
    members = torch.zeros(1, 1, dtype=torch.int64)
    inside = torch.ones(1, 1, dtype=torch.bool)
    for dim, (length, windows) in enumerate(zip(source, output, strict=True)):
        start = torch.arange(windows) * op.stride[dim] - op.padding[dim]
        along = start[:, None] + torch.arange(op.kernel[dim]) * op.dilation[dim]
        # The windows so far, each with every window along this dimension; members alike.
        combined = members[:, None, :, None] * length + along[None, :, None, :]
        valid = inside[:, None, :, None] & ((along >= 0) & (along < length))[None, :, None, :]
        members = combined.flatten(2).flatten(0, 1)
        inside = valid.flatten(2).flatten(0, 1)
    return torch.where(inside, members, 0), inside
