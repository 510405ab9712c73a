"""Branch and bound on the pieces of units, as a certificate: exact where it finishes."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from elbowroom.certificates.base import Certificate
from elbowroom.certificates.magnitude import magnitudes, rounding_shares
from elbowroom.certificates.margins import Margins
from elbowroom.classifier import Classifier
from elbowroom.goals import Misclassified
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import ChannelAffine
from elbowroom.norms import L2, Norm
from elbowroom.regions import ExactDistance

# The search computes distances to about 1e-9; what is taken off is a hundred times that.
PRECISION = 1 - 1e-7


@dataclass(frozen=True, kw_only=True)
class BranchAndBound(Certificate):
    """The lower bound of `regions.ExactDistance`: regions outward from the sample, nearest first.

    GeoCert (Jordan, Lewis and Dimakis 2019), with partial regions in place of single ones; stopped
    early, the bound holds all the same. For piecewise affine networks of up to
    `regions.exact.MOST_UNITS` units with bounded inputs.

    Certifies the network as it is computed: the search is for points where the label's lead is
    down to what rounding could take, in the network's precision and in the search. The search's
    own projections are in float64 with tolerances of 1e-11, and not proved to the last bit.

    norm:    L2 only.
    seconds: per sample, after which it stops.
    regions: partial regions per sample, after which it stops.
    """

    norms: ClassVar[tuple[Norm, ...]] = (L2,)

    seconds: float = 60.0
    regions: int = 1_000_000

    def bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        if not clf.bounded:
            raise ValueError("branch and bound needs finite bounds on every input feature")
        margins = Margins.of(clf, x, y, L2)
        graph, logits = margins.known.exact, margins.values[-1]
        lower, upper = (b.double().expand(x.shape[1:]) for b in (clf.lower, clf.upper))
        size = torch.maximum(lower.abs(), upper.abs())[None]
        search = 4 * rounding_shares(graph, torch.float64)[-1] * magnitudes(graph, size)[-1].amax()
        farthest = L2.length((upper - lower)[None]) * margins.growth
        # By how much less the label may lead every other class.
        others = logits.gather(1, y[:, None]) - logits - margins.available
        reserve = others.scatter(1, y[:, None], -math.inf).amax(dim=1) + farthest + search
        exact = ExactDistance(seconds=self.seconds, regions=self.regions)
        graphs = [_handicapped(graph, int(y[n]), float(reserve[n])) for n in range(len(x))]
        found = exact.search(clf, x, graphs, Misclassified(y))
        return torch.where(found.lower.isfinite(), found.lower * PRECISION, found.lower)


def _handicapped(graph: Graph, label: int, reserve: float) -> Graph:
    """The network with `reserve` taken off the logit `label`."""
    last = graph.nodes[-1]
    shift = torch.zeros(last.shape, dtype=graph.dtype)
    shift[label] = -reserve
    op = ChannelAffine(torch.ones_like(shift), shift, shift.abs())
    node = Node(len(graph.nodes), f"{last.name} less rounding", op, (last.index,), last.shape)
    return replace(graph, nodes=(*graph.nodes, node))
