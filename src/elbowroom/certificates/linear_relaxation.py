"""Linear relaxation as a certificate: the largest radius at which the margins stay positive."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.certificates.base import Certificate
from elbowroom.certificates.margins import ARITHMETIC, Margins
from elbowroom.certificates.radius_search import searched_radius
from elbowroom.certificates.relaxation import Relaxation
from elbowroom.certificates.slopes import improved_margins
from elbowroom.classifier import Classifier
from elbowroom.norms import L2


@dataclass(frozen=True, kw_only=True)
class LinearRelaxation(Certificate):
    """CROWN over the ball intersected with the input box, by a search for the radius.

    Zhang et al. 2018; slopes chosen by gradient ascent as in Xu et al. 2021 (alpha-CROWN), for
    the margins. Strong in Linf; in L2, each unit's line is as bad as if it had the whole radius
    to itself, and `Semidefinite` is far tighter. Sound for the network as it is computed: the
    rounding of the relaxation (`elbowroom.certificates.magnitude`) and that of the network in its
    own precision are taken off the margins. It needs a rule for every layer, and refuses others.

    norm:         L1, L2 or Linf.
    search_steps: radii that are tried, at most.
    tolerance:    relative, of the radius: less than this is left to further steps.
    slope_steps:  of gradient ascent on the slopes, at each radius where the usual ones fail.
    batch:        samples at a time.
    """

    search_steps: int = 10
    tolerance: float = 1e-3
    slope_steps: int = 0
    batch: int = 16

    def bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        starts = range(0, len(x), self.batch)
        blocks = [slice(start, start + self.batch) for start in starts]
        return torch.cat([self._bound(clf, x[block], y[block]) for block in blocks])

    def _bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        margins = Margins.of(clf, x, y, L2)
        growth = margins.growth * self.norm.largest_l2(x[0].numel())
        logits = margins.values[-1]
        reserve = logits.gather(1, y[:, None]) - logits - margins.available
        lower, upper = (b.double().expand(x.shape[1:]) for b in (clf.lower, clf.upper))
        relaxation = Relaxation(margins.known.exact, margins.values, lower, upper, self.norm)

        # Of the smallest balls that were too large: smaller ones are inside of them.
        outer = relaxation.nothing()

        def spare(radius: Tensor, rows: Tensor) -> Tensor:
            """What the margins have left; the label's own column counts as infinite."""
            some, label = relaxation.repeated(rows), y[rows]
            enclosure = some.enclose(radius, outer.take(rows))
            needed = reserve[rows] + growth * radius[:, None]
            left = some.margins(label, enclosure.envelopes, radius) - needed
            worst = left.scatter(1, label[:, None], torch.inf).amin(dim=1)
            if self.slope_steps and bool((worst <= 0).any()):
                better = improved_margins(some, enclosure, label, radius, self.slope_steps)
                left = torch.maximum(left, better - needed)
                worst = left.scatter(1, label[:, None], torch.inf).amin(dim=1)
            outer.put(rows, enclosure, worst <= 0)
            return worst

        corner = torch.maximum(margins.values[0] - lower, upper - margins.values[0])
        farthest = self.norm.length(corner) * (1 + 1e-9)
        at_zero = margins.available.amin(dim=1)
        # What is known to hold is a start; on linear networks, already the distance.
        known = margins.radius() / self.norm.largest_l2(x[0].numel())
        radius = searched_radius(
            spare, at_zero, known.clamp(1e-9, 1e9), farthest, self.search_steps, self.tolerance
        )
        clf.cost += relaxation.cost
        return torch.maximum(radius, known) * ARITHMETIC
