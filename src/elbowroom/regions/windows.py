"""The lines of a max pool: the member that wins at a point, and a weighted sum of its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import MaxPool
from elbowroom.regions.blocks import pooling_windows
from elbowroom.regions.envelopes import Envelope, Kind
from elbowroom.regions.transposed_convolution import transposed_pooling, without_padding


@dataclass(frozen=True, eq=False)
class WindowEnvelope(Envelope):
    """Weighted sums of the members below and above.

    below, above: the weights of each of the k members, `(B, *shape)`, zero for those in the
                  padding.
    added:        a constant to the sum above, `(B, *shape)`.
    """

    kind: Windows
    below: tuple[Tensor, ...]
    above: tuple[Tensor, ...]
    added: Tensor

    @property
    def numbers(self) -> tuple[Tensor, ...]:
        return (*self.below, *self.above, self.added)

    def of(self, numbers: Sequence[Tensor]) -> WindowEnvelope:
        *weights, added = numbers
        members = len(self.below)
        return WindowEnvelope(self.kind, tuple(weights[:members]), tuple(weights[members:]), added)

    def pull(self, u: Tensor) -> tuple[Tensor, Tensor]:
        full, constant = self.pull_windows(u)
        return self.kind.inside_of(full), constant

    def pull_windows(self, u: Tensor) -> tuple[Tensor, Tensor]:
        up, down = u > 0, u.clamp(max=0)
        parts = [
            u * torch.where(up, below[:, None], above[:, None])
            for below, above in zip(self.below, self.above, strict=True)
        ]
        constant = (down * self.added[:, None]).flatten(2).sum(dim=2, dtype=torch.float64)
        return transposed_pooling(parts, self.kind.op), constant

    def slack(self, z: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        members = self.kind.split(self.kind.gather(z, 0.0))
        least, most = (
            sum(w * m for w, m in zip(weights, members, strict=True))
            for weights in (self.below, self.above)
        )
        return (output - least).clamp(min=0), (most + self.added - output).clamp(min=0)


class Windows(Kind):
    """A max pool; the pieces of a window are its members.

    The entries are the differences of all members from the window's reference, its winner at `x`
    `(B, *source)`, or `(1, *source)` for all samples: neighbours move together, and their
    differences have far better bounds.
    """

    def __init__(self, graph: Graph, node: Node, x: Tensor) -> None:
        super().__init__(graph, node)
        self.op = cast(MaxPool, node.op)
        self.spatial = len(self.op.kernel)
        members, inside = pooling_windows(
            self.op, self.source.shape[-self.spatial :], node.shape[-self.spatial :]
        )
        self.members, self.inside = members.to(x.device), inside.to(x.device)
        winners = self.gather(x, -torch.inf).argmax(dim=-1)
        self.reference = one_hot(winners, members.shape[1]).bool()
        self.entries = self.reference[0].numel()

    def gather(self, z: Tensor, outside: float) -> Tensor:
        """The members `(B, channels.., windows, k)` of all windows."""
        z = z.flatten(-self.spatial)
        members = z[..., self.members.flatten()].view(*z.shape[:-1], *self.members.shape)
        return members.masked_fill(~self.inside, outside)

    def split(self, numbers: Tensor) -> tuple[Tensor, ...]:
        """From numbers `(..., channels.., windows, k)` those of each member, `(..., *shape)`."""
        places = self.node.shape[-self.spatial :]
        return tuple(part.view(*part.shape[:-1], *places) for part in numbers.unbind(-1))

    def inside_of(self, full: Tensor) -> Tensor:
        """`(B, R, *source)` of sums `(B, R, channels.., *full)` with the padding."""
        return without_padding(full, self.op.padding, self.source.shape[-self.spatial :])

    def _windows(self, flat: Tensor) -> Tensor:
        """Bounds `(B, entries)` as `(B, channels.., windows, k)`."""
        bound = flat.view(-1, *self.reference.shape[1:])
        return bound.masked_fill(self.reference, 0.0).masked_fill(~self.inside, -torch.inf)

    def quantities(self, z: Tensor) -> Tensor:
        members = self.gather(z, 0.0)
        return (members - (members * self.reference).sum(dim=-1, keepdim=True)).flatten(1)

    def transposed(self, u: Tensor) -> Tensor:
        u = u.view(*u.shape[:2], *self.reference.shape[1:])
        parts = self.split(u - self.reference[:, None] * u.sum(dim=-1, keepdim=True))
        return self.inside_of(transposed_pooling(parts, self.op))

    def in_windows(self, owner: Tensor, entry: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        channels, windows, size = self.reference.shape[1:]
        channel, window, member = torch.unravel_index(entry, (channels, windows, size))
        own = one_hot(member, size).bool() & self.inside[window]
        # One reference can be that of all samples.
        reference = self.reference[owner % len(self.reference), channel, window]
        difference = own.to(like) - reference.to(like)
        u = one_hot(channel, channels)[:, :, None] * difference[:, None]
        parts = u.view(len(u), channels, *[1] * self.spatial, size).unbind(-1)
        return window, transposed_pooling(parts, self.op)

    def entries_within(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        lows, highs = self.gather(low, 0.0), self.gather(high, 0.0)
        winners = [(z * self.reference).sum(dim=-1, keepdim=True) for z in (lows, highs)]
        return (lows - winners[1]).flatten(1), (highs - winners[0]).flatten(1)

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
        above = torch.where(decided[..., None], below, above)
        added = torch.where(decided, 0.0, added).view_as(pieces)
        return WindowEnvelope(self, self.split(below), self.split(above), added)

    def as_pattern(self, pieces: Tensor) -> Tensor:
        flat = pieces.flatten(-self.spatial)[..., None]
        members = self.members.expand(*flat.shape[:-1], -1)
        return members.gather(-1, flat).squeeze(-1).view(-1, *self.node.shape)
