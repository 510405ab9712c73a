"""Lines around an elementwise activation: any slope will do, with the intercepts that fit it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import PiecewiseAffine
from elbowroom.regions.envelopes import Envelope, Kind


@dataclass(frozen=True, eq=False)
class UnitEnvelope(Envelope):
    """Slopes and intercepts `(B, *shape)` of the line below and of the line above."""

    below: tuple[Tensor, Tensor]
    above: tuple[Tensor, Tensor]

    def pull(self, u: Tensor) -> tuple[Tensor, Tensor]:
        up = u > 0
        slope = torch.where(up, self.below[0][:, None], self.above[0][:, None])
        intercept = torch.where(up, self.below[1][:, None], self.above[1][:, None])
        return u * slope, (u * intercept).flatten(2).sum(dim=2, dtype=torch.float64)

    @property
    def numbers(self) -> tuple[Tensor, ...]:
        return (*self.below, *self.above)

    def of(self, numbers: Sequence[Tensor]) -> UnitEnvelope:
        below, below_rest, above, above_rest = numbers
        return UnitEnvelope((below, below_rest), (above, above_rest))

    def slack(self, z: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        below = output - (self.below[0] * z + self.below[1])
        above = self.above[0] * z + self.above[1] - output
        return below.clamp(min=0), above.clamp(min=0)


class Elementwise(Kind):
    """An activation of single units; its entries are its inputs."""

    def __init__(self, graph: Graph, node: Node) -> None:
        super().__init__(graph, node)
        self.entries = self.units

    def quantities(self, z: Tensor) -> Tensor:
        return z.flatten(1)

    def transposed(self, u: Tensor) -> Tensor:
        return u.view(*u.shape[:2], *self.source.shape)

    def in_windows(self, owner: Tensor, entry: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        channels, *places = self.source.shape
        count = math.prod(places)
        u = one_hot(entry // count, channels).to(like)
        return entry % count, u.view(len(u), channels, *[1] * len(places))

    def entries_within(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        return low.flatten(1), high.flatten(1)

    def interval(self, low: Tensor, high: Tensor, centre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`low`, `high` and `centre` in the shape of the node, in this order."""
        low, high = low.view(-1, *self.node.shape), high.view(-1, *self.node.shape)
        high = torch.maximum(low, high)
        return low, high, torch.minimum(torch.maximum(centre, low), high)

    def entries_of(self, undecided: Tensor) -> Tensor:
        return undecided


class Sloped(Elementwise):
    """An activation of single units around which lines of any slope can be fitted."""

    @property
    @abstractmethod
    def steepest(self) -> tuple[float, float]:
        """The least and the largest slope of the activation."""

    @abstractmethod
    def rest(self, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds on `f(z) - slope z` over `[low, high]`, all `(B, *shape)`."""

    @abstractmethod
    def slope_at(self, z: Tensor) -> Tensor:
        """The derivative of the activation."""

    def usual_slopes(self, low: Tensor, high: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes `(B, *shape)` of the lines below and above that are best at `centre`.

        Either that of the chord or that of the function there.
        """
        ends = [cast(Tensor, evaluate.TABLE[type(self.node.op)](self.node, z)) for z in (low, high)]
        width = (high - low).clamp(min=torch.finfo(low.dtype).tiny)
        chord, tangent = (ends[1] - ends[0]) / width, self.slope_at(centre)
        chord = torch.where(high > low, chord, tangent)
        (chord_low, chord_high), (low_rest, high_rest) = (
            self.rest(slope, low, high) for slope in (chord, tangent)
        )
        flatter = chord * centre + chord_low >= tangent * centre + low_rest
        steeper = chord * centre + chord_high <= tangent * centre + high_rest
        return torch.where(flatter, chord, tangent), torch.where(steeper, chord, tangent)

    def lines(
        self, slopes: tuple[Tensor, Tensor], low: Tensor, high: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """The tightest lines of these slopes below and above the function on `[low, high]`."""
        below, above = slopes
        return (below, self.rest(below, low, high)[0]), (above, self.rest(above, low, high)[1])

    def envelope(self, pieces: Tensor, low: Tensor, high: Tensor, centre: Tensor) -> Envelope:
        low, high, centre = self.interval(low, high, centre)
        return UnitEnvelope(*self.lines(self.usual_slopes(low, high, centre), low, high))


class Units(Sloped):
    """A piecewise affine activation."""

    def __init__(self, graph: Graph, node: Node) -> None:
        super().__init__(graph, node)
        self.op = cast(PiecewiseAffine, node.op)

    @property
    def steepest(self) -> tuple[float, float]:
        return float(self.op.slopes.min()), float(self.op.slopes.max())

    def possible(self, low: Tensor, high: Tensor) -> Tensor:
        # On a break, the unit counts to the piece that the rest of its interval lies on.
        first = torch.bucketize(low.contiguous(), self.op.breaks, right=True)
        last = torch.bucketize(high.contiguous(), self.op.breaks)
        first = torch.minimum(first, last)[..., None]
        pieces = torch.arange(len(self.op.breaks) + 1, device=low.device)
        return (first <= pieces) & (pieces <= last[..., None])

    def pieces_at(self, z: Tensor) -> Tensor:
        return evaluate.pieces_of(self.op, z).long()

    def slope_at(self, z: Tensor) -> Tensor:
        return evaluate.select(self.op.slopes, self.pieces_at(z))

    def rest(self, slope: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        corners = [low, high]
        corners += [torch.minimum(high, torch.maximum(low, b)) for b in self.op.breaks]
        heights = [evaluate.piecewise_affine(self.node, corner) for corner in corners]
        rest = torch.stack([f - slope * z for z, f in zip(corners, heights, strict=True)])
        return rest.amin(dim=0), rest.amax(dim=0)

    def envelope(self, pieces: Tensor, low: Tensor, high: Tensor, centre: Tensor) -> Envelope:
        low, high, centre = self.interval(low, high, centre)
        return self.exact(pieces, self.lines(self.usual_slopes(low, high, centre), low, high))

    def exact(
        self, pieces: Tensor, lines: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> UnitEnvelope:
        """`lines`, with those of decided pieces in place of theirs."""
        decided = pieces >= 0
        own = [evaluate.select(table, pieces) for table in (self.op.slopes, self.op.intercepts)]
        below, above = (
            (torch.where(decided, own[0], slope), torch.where(decided, own[1], intercept))
            for slope, intercept in lines
        )
        return UnitEnvelope(below, above)
