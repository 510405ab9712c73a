"""What a linear region guarantees for nothing: inside it the network is affine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.certificates.base import Certificate
from elbowroom.certificates.magnitude import magnitudes
from elbowroom.certificates.margins import ARITHMETIC, Margins
from elbowroom.certificates.relaxation import Relaxation
from elbowroom.classifier import Classifier
from elbowroom.graph.pattern import require_piecewise_affine
from elbowroom.norms import L2, per_sample
from elbowroom.regions.envelopes import Kind
from elbowroom.regions.units import Units

# Rows that are pulled back at a time, for a sample.
CHUNK = 256
# In place of an infinite distance, where the size of the rounding there is asked for.
FARTHEST = 1e9


@dataclass(frozen=True, kw_only=True)
class Region(Certificate):
    """The distance to the facets of the sample's linear region, or to the decision boundary in it.

    The smaller of the two (Croce, Rauber and Hein 2020, section 2; a first step of GeoCert, Jordan,
    Lewis and Dimakis 2019, which `BranchAndBound` carries on). Exact within the region, and as
    small as regions are: 0 where the sample lies on a facet. Piecewise affine networks only;
    sound for the network as it is computed.

    norm:  L1, L2 or Linf.
    batch: samples at a time.
    """

    batch: int = 16

    def bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        require_piecewise_affine(clf.graph(tuple(x.shape[1:])))
        starts = range(0, len(x), self.batch)
        blocks = [slice(start, start + self.batch) for start in starts]
        return torch.cat([self._bound(clf, x[block], y[block]) for block in blocks])

    def _bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        margins = Margins.of(clf, x, y, L2)
        values = margins.values
        lower, upper = (b.double().expand(x.shape[1:]) for b in (clf.lower, clf.upper))
        relaxation = Relaxation(margins.known.exact, values, lower, upper, self.norm)
        exact = {
            index: kind.envelope(
                kind.pieces_at(values[kind.source.index]),
                kind.quantities(values[kind.source.index]),
                kind.quantities(values[kind.source.index]),
                values[kind.source.index],
            )
            for index, kind in relaxation.kinds.items()
        }
        last = len(relaxation.graph.nodes) - 1
        pull = relaxation.fine.substitution.pull
        rows, _, _ = pull({last: relaxation.pairs(y)}, exact)
        growth = margins.growth * self.norm.largest_l2(x[0].numel())
        # Rounding of the rows counts wherever in the ball, which is no larger than this.
        farthest = self._distance(margins.available, rows, growth).amin(dim=1).clamp(0, FARTHEST)
        box = torch.maximum(lower.abs(), upper.abs())
        size = (values[0].abs() + per_sample(farthest, values[0])).minimum(box)
        sizes = magnitudes(relaxation.graph, size)
        slack = relaxation.fine.shares[last] * sizes[last].amax(dim=1, keepdim=True)
        nearest = self._distance(margins.available - 2 * slack, rows, growth).amin(dim=1)
        for kind in relaxation.kinds.values():
            source = kind.source.index
            error = relaxation.fine.shares[source] * sizes[source]
            gap = _gaps(kind, values[source]) - kind.entries_within(-error, error)[1]
            for first in range(0, kind.entries, CHUNK):
                some = slice(first, min(first + CHUNK, kind.entries))
                one_hot = torch.eye(kind.entries, dtype=torch.float64, device=x.device)[some]
                units = kind.transposed(one_hot.expand(len(x), -1, -1).contiguous())
                rows, _, _ = pull({source: units}, exact)
                facets = self._distance(gap[:, some], rows, 0.0)
                nearest = torch.minimum(nearest, facets.amin(dim=1))
        clf.cost += relaxation.cost
        return nearest.clamp(min=0) * ARITHMETIC

    def _distance(self, gap: Tensor, rows: Tensor, growth: float) -> Tensor:
        """How far `gap` `(B, R)` lasts along `rows` `(B, R, d)`."""
        slope = self.norm.dual.length(rows.flatten(0, 1)).view_as(gap) * (1 + 1e-9) + growth
        return torch.where(slope > 0, gap / slope.clamp(min=1e-300), torch.inf)


def _gaps(kind: Kind, z: Tensor) -> Tensor:
    """`(B, entries)`: how far each entry is from where its unit would change its piece."""
    entries = kind.quantities(z)
    if isinstance(kind, Units):
        return (entries[..., None] - kind.op.breaks).abs().amin(dim=-1)
    # Members of a window fall short of its winner, which has no constraint of its own.
    every = torch.ones(len(z), kind.units, dtype=torch.bool, device=z.device)
    return torch.where(kind.entries_of(every), -entries, torch.inf)
