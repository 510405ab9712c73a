"""Lines between which a unit's output lies, while its piece is not decided.

Over an interval of its input, an activation lies between two lines, and a max pool between the
member that wins at a point and a weighted sum of its members. With exact lines where the piece is
decided, any row of the network pulls back to a row of the input that bounds it from below.
Sources: Zhang et al. 2018 (CROWN), section 3.3, whose lower slopes are those of the side on which
most of the interval lies; here, those of the piece at the centre.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import MaxPool, PiecewiseAffine
from elbowroom.regions.blocks import pooling_windows


class Envelope(ABC):
    """The lines of the B samples' units of one node."""

    @abstractmethod
    def pull(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """`v` `(B, R, *source)` and `c` `(B, R)` with `u . output >= v . input + c`.

        u: `(B, R, *shape)`.
        """

    @abstractmethod
    def slack(self, z: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """How far the lines are below and above `output` at the input `z` `(B, *source)`."""


class Kind(ABC):
    """One node with pieces: `units` of them, decided by `entries` numbers linear in its input.

    Pieces are numbers `(B, *shape)`, -1 while undecided: of the affine piece, or of the member of
    the window that wins.
    """

    entries: int

    def __init__(self, graph: Graph, node: Node) -> None:
        self.node = node
        self.source = graph.nodes[node.inputs[0]]
        self.units = math.prod(node.shape)

    @abstractmethod
    def quantities(self, z: Tensor) -> Tensor:
        """The entries `(B, entries)` at the input `z` `(B, *source)`."""

    @abstractmethod
    def transposed(self, u: Tensor) -> Tensor:
        """The transpose of `quantities`: `(B, R, entries)` to `(B, R, *source)`."""

    @abstractmethod
    def entries_of(self, undecided: Tensor) -> Tensor:
        """`(B, entries)` bool: those that matter to the units `undecided` `(B, units)`."""

    @abstractmethod
    def possible(self, low: Tensor, high: Tensor) -> Tensor:
        """`(B, units, pieces)` bool, for entries in `[low, high]` `(B, entries)`."""

    @abstractmethod
    def pieces_at(self, z: Tensor) -> Tensor:
        """The pieces `(B, *shape)` at the input `z` `(B, *source)`."""

    @abstractmethod
    def envelope(self, pieces: Tensor, low: Tensor, high: Tensor, centre: Tensor) -> Envelope:
        """Lines for entries in `[low, high]` `(B, entries)`, good ones at the input `centre`."""

    def as_pattern(self, pieces: Tensor) -> Tensor:
        """Decided pieces as `Pattern` has them."""
        return pieces


@dataclass(frozen=True, eq=False)
class UnitEnvelope(Envelope):
    """Slopes and intercepts `(B, *shape)` of the line below and of the line above."""

    below: tuple[Tensor, Tensor]
    above: tuple[Tensor, Tensor]

    def pull(self, u: Tensor) -> tuple[Tensor, Tensor]:
        up = u > 0
        slope = torch.where(up, self.below[0][:, None], self.above[0][:, None])
        intercept = torch.where(up, self.below[1][:, None], self.above[1][:, None])
        return u * slope, (u * intercept).flatten(2).sum(dim=2)

    def slack(self, z: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        below = output - (self.below[0] * z + self.below[1])
        above = self.above[0] * z + self.above[1] - output
        return below.clamp(min=0), above.clamp(min=0)


class Units(Kind):
    """A piecewise affine activation; its entries are its inputs."""

    def __init__(self, graph: Graph, node: Node) -> None:
        super().__init__(graph, node)
        self.op = cast(PiecewiseAffine, node.op)
        self.entries = self.units

    def quantities(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def transposed(self, u: Tensor) -> Tensor:
        return u.view(*u.shape[:2], *self.source.shape)

    def entries_of(self, undecided: Tensor) -> Tensor:
        return undecided

    def possible(self, low: Tensor, high: Tensor) -> Tensor:
        # On a break, the unit counts to the piece that the rest of its interval lies on.
        first = torch.bucketize(low.contiguous(), self.op.breaks, right=True)
        last = torch.bucketize(high.contiguous(), self.op.breaks)
        first = torch.minimum(first, last)[..., None]
        pieces = torch.arange(len(self.op.breaks) + 1, device=low.device)
        return (first <= pieces) & (pieces <= last[..., None])

    def pieces_at(self, z: Tensor) -> Tensor:
        return evaluate.pieces_of(self.op, z).long()

    def envelope(self, pieces: Tensor, low: Tensor, high: Tensor, centre: Tensor) -> Envelope:
        op, apply = self.op, evaluate.piecewise_affine
        low, high = low.view_as(centre), high.view_as(centre)
        high = torch.maximum(low, high)
        centre = torch.minimum(torch.maximum(centre, low), high)
        corners = [low, high]
        corners += [torch.minimum(high, torch.maximum(low, b)) for b in op.breaks]
        heights = [apply(self.node, corner) for corner in corners]
        width = (high - low).clamp(min=torch.finfo(low.dtype).tiny)
        chord = (heights[1] - heights[0]) / width
        piece = evaluate.select(op.slopes, self.pieces_at(centre))

        def around(slope: Tensor) -> tuple[Tensor, Tensor]:
            rest = torch.stack([f - slope * z for z, f in zip(corners, heights, strict=True)])
            return rest.amin(dim=0), rest.amax(dim=0)

        (chord_low, chord_high), (piece_low, piece_high) = around(chord), around(piece)
        flatter = chord * centre + chord_low >= piece * centre + piece_low
        steeper = chord * centre + chord_high <= piece * centre + piece_high
        decided = pieces >= 0
        slope = evaluate.select(op.slopes, pieces)
        intercept = evaluate.select(op.intercepts, pieces)

        def choose(best: Tensor, of_chord: Tensor, of_piece: Tensor) -> tuple[Tensor, Tensor]:
            return (
                torch.where(decided, slope, torch.where(best, chord, piece)),
                torch.where(decided, intercept, torch.where(best, of_chord, of_piece)),
            )

        return UnitEnvelope(
            choose(flatter, chord_low, piece_low), choose(steeper, chord_high, piece_high)
        )


@dataclass(frozen=True, eq=False)
class WindowEnvelope(Envelope):
    """Weighted sums of the members below and above.

    below, above: weights `(B, channels.., windows, k)`; added: a constant to the sum above.
    """

    kind: Windows
    below: Tensor
    above: Tensor
    added: Tensor

    def pull(self, u: Tensor) -> tuple[Tensor, Tensor]:
        u = u.flatten(-self.kind.spatial)
        up, down = u.clamp(min=0), u.clamp(max=0)
        parts = up[..., None] * self.below[:, None] + down[..., None] * self.above[:, None]
        return self.kind.spread(parts), (down * self.added[:, None]).flatten(2).sum(dim=2)

    def slack(self, z: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        members = self.kind.gather(z, 0.0)
        below = output - (self.below * members).sum(dim=-1).view_as(output)
        above = ((self.above * members).sum(dim=-1) + self.added).view_as(output) - output
        return below.clamp(min=0), above.clamp(min=0)


class Windows(Kind):
    """A max pool; the pieces of a window are its members.

    The entries are the differences of all members from the window's reference, its winner at `x`
    `(1, *source)`: neighbours move together, and their differences have far better bounds.
    """

    def __init__(self, graph: Graph, node: Node, x: Tensor) -> None:
        super().__init__(graph, node)
        op = cast(MaxPool, node.op)
        self.spatial = len(op.kernel)
        members, inside = pooling_windows(
            op, self.source.shape[-self.spatial :], node.shape[-self.spatial :]
        )
        self.members, self.inside = members.to(x.device), inside.to(x.device)
        winners = self.gather(x, -torch.inf).argmax(dim=-1)
        self.reference = one_hot(winners, members.shape[1]).bool()
        self.entries = self.reference.numel()

    def gather(self, z: Tensor, outside: float) -> Tensor:
        """The members `(B, channels.., windows, k)` of all windows."""
        z = z.flatten(-self.spatial)
        members = z[..., self.members.flatten()].view(*z.shape[:-1], *self.members.shape)
        return members.masked_fill(~self.inside, outside)

    def spread(self, parts: Tensor) -> Tensor:
        """The transpose of `gather`, for `(B, R, channels.., windows, k)`."""
        flat = parts.masked_fill(~self.inside, 0.0).flatten(-2)
        lead = self.source.shape[: -self.spatial]
        size = math.prod(self.source.shape[-self.spatial :])
        out = parts.new_zeros(*parts.shape[:2], *lead, size)
        out.index_add_(-1, self.members.flatten(), flat)
        return out.view(*parts.shape[:2], *self.source.shape)

    def _windows(self, flat: Tensor) -> Tensor:
        """Bounds `(B, entries)` as `(B, channels.., windows, k)`."""
        bound = flat.view(-1, *self.reference.shape[1:])
        return bound.masked_fill(self.reference, 0.0).masked_fill(~self.inside, -torch.inf)

    def quantities(self, z: Tensor) -> Tensor:
        members = self.gather(z, 0.0)
        return (members - (members * self.reference).sum(dim=-1, keepdim=True)).flatten(1)

    def transposed(self, u: Tensor) -> Tensor:
        u = u.view(*u.shape[:2], *self.reference.shape[1:])
        return self.spread(u - self.reference * u.sum(dim=-1, keepdim=True))

    def entries_of(self, undecided: Tensor) -> Tensor:
        windows = undecided.view(-1, *self.reference.shape[1:-1], 1)
        return (windows & self.inside & ~self.reference).flatten(1)

    def possible(self, low: Tensor, high: Tensor) -> Tensor:
        lows, highs = self._windows(low), self._windows(high)
        best = lows.max(dim=-1)
        # The one with the largest lower bound can always win; others only by exceeding it.
        possible = (highs > best.values[..., None]) | one_hot(best.indices, lows.shape[-1]).bool()
        return possible.flatten(1, -2)

    def pieces_at(self, z: Tensor) -> Tensor:
        return self.gather(z, -torch.inf).argmax(dim=-1).view(-1, *self.node.shape)

    def envelope(self, pieces: Tensor, low: Tensor, high: Tensor, centre: Tensor) -> Envelope:
        lows, highs = self._windows(low), self._windows(high)
        floor = lows.amax(dim=-1, keepdim=True)
        # The largest difference is at most floor + sum of max(difference - floor, 0), and each
        # term is below its chord; or at most the largest bound, where that is less at the centre.
        chord = torch.where(highs > floor, (highs - floor) / (highs - lows), 0.0)
        added = floor.squeeze(-1) - torch.where(chord > 0, chord * lows, 0.0).sum(dim=-1)
        ceiling = highs.amax(dim=-1)
        flat = ceiling < added + (chord * self.quantities(centre).view_as(chord)).sum(dim=-1)
        chord = torch.where(flat[..., None], 0.0, chord)
        added = torch.where(flat, ceiling, added)
        above = chord + self.reference * (1 - chord.sum(dim=-1, keepdim=True))
        winner = self.gather(centre, -torch.inf).argmax(dim=-1)
        piece = pieces.view_as(winner)
        decided = piece >= 0
        below = one_hot(torch.where(decided, piece, winner), lows.shape[-1]).to(lows)
        return WindowEnvelope(
            self,
            below,
            torch.where(decided[..., None], below, above),
            torch.where(decided, 0.0, added),
        )

    def as_pattern(self, pieces: Tensor) -> Tensor:
        flat = pieces.flatten(-self.spatial)[..., None]
        members = self.members.expand(*flat.shape[:-1], -1)
        return members.gather(-1, flat).squeeze(-1).view(-1, *self.node.shape)


def kinds(graph: Graph, x: Tensor) -> dict[int, Kind]:
    """One `Kind` for each node with pieces, by its index; x: `(1, *shape)`, for references."""
    values = evaluate.evaluate(graph, x)
    found: dict[int, Kind] = {}
    for node in graph.nodes:
        if isinstance(node.op, PiecewiseAffine):
            found[node.index] = Units(graph, node)
        elif isinstance(node.op, MaxPool):
            found[node.index] = Windows(graph, node, values[node.inputs[0]])
    return found
