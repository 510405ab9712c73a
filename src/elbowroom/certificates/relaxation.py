"""A network between lines, over balls around samples: linear relaxation (CROWN and its kin).

Every curved unit lies between two lines over the interval of its input. The intervals come from
back-substitution through the layers before it, over the ball *and* the input box, or from
interval arithmetic where that is tighter. Zhang et al. 2018 (CROWN); Xu et al. 2021 for slopes
chosen by gradient ascent.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.certificates.curves import Curves, Responses, Undecided
from elbowroom.certificates.interval import intervals
from elbowroom.certificates.magnitude import fits_float32, magnitudes, rounding_shares
from elbowroom.certificates.unit_bounds import Balls, entry_bounds
from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, UnsupportedOperationError
from elbowroom.graph.ops import LocalResponseNorm, MaxPool, PiecewiseAffine, Smooth
from elbowroom.norms import Norm, per_sample
from elbowroom.regions.envelopes import Envelope, Kind
from elbowroom.regions.substitution import Substitution
from elbowroom.regions.units import Units
from elbowroom.regions.windows import Windows
from elbowroom.results import Cost

# Layers of more entries than this are bounded in float32 alone.
LARGE = 512


class Precision:
    """Back-substitution in one precision, and its rounding as shares of magnitudes."""

    def __init__(
        self, graph: Graph, kinds: Mapping[int, Kind], dtype: torch.dtype, like: Tensor
    ) -> None:
        self.dtype = dtype
        self.substitution = Substitution(graph.to(dtype), kinds, like.to(dtype))
        self.shares = rounding_shares(graph, dtype)


@dataclass(frozen=True)
class Bounds:
    """Bounds on the entries (see `Kind`) of every curved node over one ball for each sample.

    radius:    `(B,)`. low, high: `(B, entries)`, by the node's index.
    """

    radius: Tensor
    low: Mapping[int, Tensor]
    high: Mapping[int, Tensor]

    def take(self, rows: Tensor) -> Bounds:
        """Those of the samples `rows` (indices)."""
        low, high = ({i: v[rows] for i, v in part.items()} for part in (self.low, self.high))
        return Bounds(self.radius[rows], low, high)

    def put(self, rows: Tensor, other: Bounds, chosen: Tensor) -> None:
        """Replace those of the samples `rows` by `other` where `chosen`, of the same length."""
        self.radius[rows[chosen]] = other.radius[chosen]
        for mine, others in ((self.low, other.low), (self.high, other.high)):
            for index, bound in mine.items():
                bound[rows[chosen]] = others[index][chosen]


@dataclass(frozen=True)
class Enclosure(Bounds):
    """Every curved node between lines, over one ball for each sample."""

    envelopes: Mapping[int, Envelope]


class Relaxation:
    """The relaxation of a graph in float64 around B samples.

    values:       every node at the samples. lower, upper: the box, `(*shape)`.
    cost:         passes so far; a row is a VJP.

    Raises `UnsupportedOperationError` naming a layer without lines.
    """

    def __init__(
        self, graph: Graph, values: list[Tensor], lower: Tensor, upper: Tensor, norm: Norm
    ) -> None:
        self.graph, self.values, self.norm = graph, values, norm
        self.lower, self.upper = lower, upper
        self.kinds = {
            node.index: _kind(graph, node.index, values)
            for node in graph.nodes[1:]
            if type(node.op) not in evaluate.LINEAR_TABLE
        }
        self.fine = Precision(graph, self.kinds, torch.float64, lower)
        # Bounds on the units of large layers are found in float32, far faster, and widened for it.
        coarse = torch.float32 if fits_float32(graph) else torch.float64
        self.coarse = Precision(graph, self.kinds, coarse, lower)
        self._magnitudes: list[Tensor] = []

    @property
    def cost(self) -> Cost:
        return self.fine.substitution.cost + self.coarse.substitution.cost

    def magnitude(self, index: int) -> Tensor:
        """The magnitude `(B, *shape)` of a node within the radius that was enclosed last."""
        return self._magnitudes[index]

    def nothing(self) -> Bounds:
        """Bounds that hold over no ball at all, to be replaced by better ones."""
        infinite = self.values[0].new_full((len(self.values[0]),), torch.inf)
        low = {i: -infinite[:, None].repeat(1, kind.entries) for i, kind in self.kinds.items()}
        return Bounds(-infinite, low, {index: -bound for index, bound in low.items()})

    def enclose(self, radius: Tensor, outer: Bounds | None = None) -> Enclosure:
        """Lines that hold within `radius` `(B,)` of each sample, inside the box.

        outer: what is known already; its bounds hold here too, where its radius is no smaller.
        """
        x = self.values[0]
        reach = per_sample(radius, x)
        low, high = torch.maximum(x - reach, self.lower), torch.minimum(x + reach, self.upper)
        boxes = intervals(self.graph, low, high)
        self._magnitudes = magnitudes(self.graph, torch.maximum(low.abs(), high.abs()))
        balls = self._balls(radius)
        envelopes: dict[int, Envelope] = {}
        lows: dict[int, Tensor] = {}
        highs: dict[int, Tensor] = {}
        for index, kind in self.kinds.items():
            below, above = self._entries_from(kind, boxes[kind.source.index])
            if outer is not None:
                holds = (radius <= outer.radius)[:, None]
                below = torch.where(holds, torch.maximum(below, outer.low[index]), below)
                above = torch.where(holds, torch.minimum(above, outer.high[index]), above)
                above = torch.maximum(below, above)
            for precision in self._precisions(kind) if envelopes else [self.fine]:
                below, above = self._tightened(kind, precision, envelopes, balls, below, above)
            pieces = kind.settled(below, above)
            lows[index], highs[index] = below, above
            envelopes[index] = kind.envelope(pieces, below, above, self.values[kind.source.index])
        return Enclosure(radius, lows, highs, envelopes)

    def _precisions(self, kind: Kind) -> list[Precision]:
        """In which bounds on its entries are found, one after the other."""
        if self.coarse.dtype == self.fine.dtype or kind.entries > LARGE:
            return [self.coarse]
        # A coarse bound is as good as any where it decides on the piece.
        return [self.fine] if isinstance(kind, Undecided) else [self.coarse, self.fine]

    def _balls(self, radius: Tensor) -> Balls:
        return Balls(self.values[0], radius, self.lower, self.upper, self.norm)

    def _entries_from(self, kind: Kind, box: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        error = self.fine.shares[kind.source.index] * self._magnitudes[kind.source.index]
        low, high = box[0] - error, box[1] + error
        return kind.entries_within(low, high)

    def _tightened(
        self,
        kind: Kind,
        precision: Precision,
        envelopes: Mapping[int, Envelope],
        balls: Balls,
        below: Tensor,
        above: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Better bounds `(B, entries)` where `below` and `above` leave the piece open."""
        open_ = (kind.settled(below, above) < 0).flatten(1)
        if not bool(open_.any()):
            return below, above
        lines = {index: envelope.to(precision.dtype) for index, envelope in envelopes.items()}
        least, most = entry_bounds(
            precision.substitution, kind, kind.entries_of(open_), lines, balls
        )
        source = kind.source.index
        error = precision.shares[source] * self._magnitudes[source]
        slack = kind.entries_within(-error, error)[1]
        least, most = least - slack, most + slack
        known = least.isfinite() & most.isfinite()
        below = torch.where(known, torch.maximum(below, least), below)
        above = torch.where(known, torch.minimum(above, most), above)
        return below, torch.maximum(below, above)

    def pairs(self, y: Tensor) -> Tensor:
        """`(B, K, K)`: what `f_y - f_j` is of the logits, for every class j."""
        classes = self.values[-1].shape[1]
        identity = torch.eye(classes, dtype=torch.float64, device=y.device)
        return identity[y][:, None] - identity

    def margins(self, y: Tensor, envelopes: Mapping[int, Envelope], radius: Tensor) -> Tensor:
        """Lower bounds `(B, K)` on `f_y - f_j` over the balls; 0 for `y` itself."""
        return self.bound(self.pairs(y), envelopes, radius)

    def bound(self, rows: Tensor, envelopes: Mapping[int, Envelope], radius: Tensor) -> Tensor:
        """Lower bounds `(B, R)` on functions `rows` `(B, R, K)` of the logits over the balls."""
        last = len(self.graph.nodes) - 1
        error = self.fine.shares[last] * self._magnitudes[last]
        pulled, constant, _ = self.fine.substitution.pull({last: rows}, envelopes)
        return (
            self._balls(radius).least(pulled) + constant - (rows.abs() * error[:, None]).sum(dim=2)
        )

    def repeated(self, owner: Tensor) -> Relaxation:
        """The relaxation around the samples `owner` (indices, repeats allowed)."""
        other = copy(self)
        other.values = [value[owner] for value in self.values]
        other._magnitudes = [size[owner] for size in self._magnitudes]
        other.kinds = {index: _kind(self.graph, index, other.values) for index in self.kinds}
        return other


def _kind(graph: Graph, index: int, values: list[Tensor]) -> Kind:
    node = graph.nodes[index]
    if isinstance(node.op, PiecewiseAffine):
        return Units(graph, node)
    if isinstance(node.op, MaxPool):
        return Windows(graph, node, values[node.inputs[0]])
    if isinstance(node.op, Smooth):
        return Curves(graph, node)
    if isinstance(node.op, LocalResponseNorm):
        return Responses(graph, node)
    raise UnsupportedOperationError(
        f"layer {node.name!r} is a {node.op.kind}, for which there is no linear relaxation; "
        "certificates.LayerWise may have a bound"
    )
