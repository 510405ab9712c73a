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

from elbowroom.certificates.curves import Curves, Responses
from elbowroom.certificates.interval import intervals
from elbowroom.certificates.magnitude import fits_float32, magnitudes, rounding_shares
from elbowroom.certificates.supports import supports
from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, UnsupportedOperationError
from elbowroom.graph.ops import LocalResponseNorm, MaxPool, PiecewiseAffine, Smooth
from elbowroom.norms import Norm, per_sample
from elbowroom.regions.balls import least_in_balls
from elbowroom.regions.envelopes import Envelope, Kind
from elbowroom.regions.partial import padded_indices
from elbowroom.regions.substitution import Substitution
from elbowroom.regions.units import Elementwise, Units
from elbowroom.regions.windows import Windows
from elbowroom.results import Cost

# Numbers that the rows of one layer may take up at a time.
MEMORY = 2**25
# Layers of more entries than this are bounded in float32.
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
class Enclosure:
    """Every curved node between lines, over one ball for each sample.

    low, high: bounds on the entries (see `Kind`) of each node, `(B, entries)`, by index.
    """

    envelopes: Mapping[int, Envelope]
    low: Mapping[int, Tensor]
    high: Mapping[int, Tensor]


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

    @property
    def cost(self) -> Cost:
        return self.fine.substitution.cost + self.coarse.substitution.cost

    def magnitude(self, index: int) -> Tensor:
        """The magnitude `(B, *shape)` of a node within the radius that was enclosed last."""
        return self._magnitudes[index]

    def enclose(self, radius: Tensor) -> Enclosure:
        """Lines that hold within `radius` `(B,)` of each sample, inside the box."""
        x = self.values[0]
        reach = per_sample(radius, x)
        low, high = torch.maximum(x - reach, self.lower), torch.minimum(x + reach, self.upper)
        boxes = intervals(self.graph, low, high)
        self._magnitudes = magnitudes(self.graph, torch.maximum(low.abs(), high.abs()))
        envelopes: dict[int, Envelope] = {}
        lows: dict[int, Tensor] = {}
        highs: dict[int, Tensor] = {}
        for index, kind in self.kinds.items():
            below, above = self._entries_from(kind, boxes[kind.source.index])
            open_ = (kind.settled(below, above) < 0).flatten(1)
            if bool(open_.any()):
                precision = self.coarse if envelopes and kind.entries > LARGE else self.fine
                lines = {i: envelope.to(precision.dtype) for i, envelope in envelopes.items()}
                self._tighten(kind, kind.entries_of(open_), precision, lines, radius, below, above)
            pieces = kind.settled(below, above)
            lows[index], highs[index] = below, above
            envelopes[index] = kind.envelope(pieces, below, above, self.values[kind.source.index])
        return Enclosure(envelopes, lows, highs)

    def _entries_from(self, kind: Kind, box: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        error = self.fine.shares[kind.source.index] * self._magnitudes[kind.source.index]
        low, high = box[0] - error, box[1] + error
        return kind.entries_within(low, high)

    def _tighten(
        self,
        kind: Kind,
        mask: Tensor,
        precision: Precision,
        lines: Mapping[int, Envelope],
        radius: Tensor,
        below: Tensor,
        above: Tensor,
    ) -> None:
        """Improve `below` and `above` `(B, entries)` where `mask` is set, by back-substitution."""
        source = kind.source.index
        error = precision.shares[source] * self._magnitudes[source]
        margin = kind.entries_within(-error, error)[1]
        wanted = padded_indices(mask)
        at_once = max(1, MEMORY // (len(wanted) * self._widest(source)))
        infinite = margin.new_tensor(torch.inf)
        for first in range(0, wanted.shape[1], at_once):
            some = wanted[:, first : first + at_once]
            where, there = some.clamp(min=0), some >= 0
            least, most = self._bounds(kind, some, precision, lines, radius)
            slack = margin.gather(1, where)
            known = there & (least - slack).isfinite() & (most + slack).isfinite()
            below.scatter_reduce_(1, where, torch.where(known, least - slack, -infinite), "amax")
            above.scatter_reduce_(1, where, torch.where(known, most + slack, infinite), "amin")
        above.copy_(torch.maximum(below, above))

    def _widest(self, index: int) -> int:
        return 2 * max(torch.Size(node.shape).numel() for node in self.graph.nodes[: index + 1])

    def _bounds(
        self,
        kind: Kind,
        wanted: Tensor,
        precision: Precision,
        lines: Mapping[int, Envelope],
        radius: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Bounds `(B, R)` on the entries `wanted` `(B, R)`, -1 for none."""
        source, dtype = kind.source.index, precision.dtype
        one_hot = torch.zeros(*wanted.shape, kind.entries, dtype=dtype, device=wanted.device)
        one_hot.scatter_(2, wanted.clamp(min=0)[..., None], (wanted >= 0)[..., None].to(dtype))
        units = kind.transposed(one_hot)
        columns = supports(self.graph, source) if isinstance(kind, Elementwise) else None
        if columns is not None:
            columns = columns[wanted.clamp(min=0)]
        found = []
        for part in (units, -units) if lines else (units,):
            rows, constant, _ = precision.substitution.pull({source: part}, lines)
            rows = rows.double()
            found.append(self.least(rows, radius, columns) + constant)
            if not lines:  # without curved layers below, the same row bounds from above
                found.append(self.least(-rows, radius, columns) - constant)
        return found[0], -found[1]

    def least(self, rows: Tensor, radius: Tensor, columns: Tensor | None = None) -> Tensor:
        """Lower bounds `(B, R)` on linear functions of the input, over the balls in the box.

        columns: `(B, R, k)`, the features that can matter, -1 for none; None for all.
        """
        x, lower, upper = self.values[0].flatten(1), self.lower.flatten(), self.upper.flatten()
        if columns is not None:
            where, there = columns.clamp(min=0), columns >= 0
            rows = torch.where(there, rows.gather(2, where), 0.0)
            x = x[:, None].expand(-1, rows.shape[1], -1).gather(2, where)
            lower, upper = lower[where], upper[where]
        return least_in_balls(rows, x, radius, lower, upper, norm=self.norm)

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
        return self.least(pulled, radius) + constant - (rows.abs() * error[:, None]).sum(dim=2)

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
