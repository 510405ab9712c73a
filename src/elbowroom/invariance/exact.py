"""The nearest point with given logits, exactly: branch and bound over activation patterns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.features import in_precision
from elbowroom.goals import SameLogits
from elbowroom.graph import Graph, Node
from elbowroom.graph.ops import ChannelAffine
from elbowroom.invariance.preimage import Preimage
from elbowroom.norms import L2
from elbowroom.optimise import Best
from elbowroom.regions import ExactDistance
from elbowroom.results import ExactResult

# Mean squared difference of logits at which a point counts as found: above the rounding of the
# projections, and far below what moves a distance.
FOUND = 1e-18
NEWTON = 12


@dataclass(frozen=True, kw_only=True)
class ExactInversion:
    """The distance from an input to the preimage of given logits, for small networks.

    The Invariance thesis's problem (3.1), which it calls infeasible "for all but very small toy
    networks": `regions.ExactDistance`, with equality of the logits for the decision. Computed in
    float64; needs bounded inputs, and a piecewise affine network of up to about a hundred units.

    seconds, regions, batch, gap: see `regions.ExactDistance`.
    """

    seconds: float = 60.0
    regions: int = 1_000_000
    batch: int = 32
    gap: float = 1e-7

    def __call__(
        self,
        clf: Classifier | nn.Module,
        *,
        toward: Tensor,
        start: Tensor | None = None,
        target: Tensor | None = None,
        known: Tensor | None = None,
    ) -> ExactResult:
        """Bound the distances from `toward` `(N, *shape)` to the points with the logits of `start`.

        target: the logits themselves, `(N, K)` or `(K,)`, instead of `start`.
        known:  points `(N, *shape)` with these logits, e.g. those of `PreimageDescent`: near ones
                save most of the work. They are made exact in float64 first; those where that fails
                do not count. `start` is known, if it is given.

        Where nothing in the box has these logits, `lower` and `upper` are infinite and `finished`
        is True. Raises as `regions.ExactDistance` does, and `ValueError` for logits of the wrong
        number and unless exactly one of `start` and `target` is given.
        """
        clf = as_classifier(clf)
        if (start is None) == (target is None):
            raise ValueError("give either start or target: what has the wanted logits, or these")
        solver = ExactDistance(
            seconds=self.seconds, regions=self.regions, batch=self.batch, gap=self.gap
        )
        toward, _ = clf.validate(toward)
        if not clf.bounded:
            raise ValueError("the exact distance needs finite bounds on every input feature")
        for name, points in (("start", start), ("known", known)):
            if points is not None and points.shape != toward.shape:
                raise ValueError(
                    f"{name} has shape {tuple(points.shape)}, toward {tuple(toward.shape)}"
                )
        with clf.metered() as spent, torch.no_grad():
            graph = clf.graph(toward.shape[1:]).to(torch.float64)
            exact = in_precision(clf, toward.shape[1:], torch.float64)
            if start is not None:
                start = clf.validate(start)[0].double()
                wanted = exact.logits(start)
            else:
                assert target is not None
                wanted = _wanted(target, len(toward), *graph.nodes[-1].shape)
            if known is not None:
                known = _nearest_known(exact, toward.double(), wanted, known.double(), start)
            graphs = [_minus(graph, logits) for logits in wanted]
            zero = torch.zeros_like(wanted)
            goal = SameLogits(zero, torch.full_like(zero[:, 0], FOUND))
            result = solver.search(clf, toward, graphs, goal, start if known is None else known)
            return replace(result, cost=spent())


def _nearest_known(
    clf: Classifier, toward: Tensor, wanted: Tensor, known: Tensor, start: Tensor | None
) -> Tensor:
    """Of the points `known`, made exact, and `start` the nearest with the wanted logits."""
    goal = SameLogits(wanted, torch.full_like(wanted[:, 0], FOUND))
    width = (clf.upper - clf.lower).expand(toward.shape)
    best = Best(toward, L2)
    for point in (known, start):
        if point is not None:
            point = Preimage.exact(clf, goal, width).retract(clf.clamp(point), NEWTON)[0]
            best.offer(point, clf.logits(point), goal)
    return best.point


def _wanted(target: Tensor, samples: int, count: int) -> Tensor:
    if target.shape not in ((count,), (samples, count)) or not bool(target.isfinite().all()):
        raise ValueError(
            f"target must be finite logits of shape ({count},) or ({samples}, {count}), got shape "
            f"{tuple(target.shape)}"
        )
    return target.double().expand(samples, count)


def _minus(graph: Graph, logits: Tensor) -> Graph:
    """The graph whose outputs are those of `graph` less `logits` `(K,)`."""
    last = graph.nodes[-1]
    op = ChannelAffine(torch.ones_like(logits), -logits, logits.abs())
    node = Node(last.index + 1, "less the wanted logits", op, (last.index,), last.shape)
    return Graph((*graph.nodes, node), graph.dtype)
