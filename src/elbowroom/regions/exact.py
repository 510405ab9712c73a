"""The exact distance to the decision boundary of a small piecewise affine network, in L2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.graph.graph import Graph
from elbowroom.graph.ops import MaxPool, PiecewiseAffine
from elbowroom.regions.relaxed import RelaxedNetwork
from elbowroom.regions.reorder import pool_first
from elbowroom.regions.search import Search
from elbowroom.results import Cost, ExactResult

MOST_UNITS = 2000


@dataclass(frozen=True, kw_only=True)
class ExactDistance:
    """Exact distances by branch and bound over activation patterns; needs bounded inputs.

    The distance is that of the network in exact arithmetic, with the weights it has, to the set
    where the goal is met or another class ties; computed in float64. Networks of up to about a
    hundred units take seconds; stopped early, both bounds still hold.

    seconds: per sample, after which it stops.
    regions: partial regions per sample, after which it stops.
    batch:   partial regions split at a time.
    gap:     relative difference of the bounds at which they count as equal.
    """

    seconds: float = 60.0
    regions: int = 1_000_000
    batch: int = 32
    gap: float = 1e-7

    def __post_init__(self) -> None:
        if not self.seconds >= 0:
            raise ValueError(f"seconds must be a number from 0 upwards, not {self.seconds}")

    def __call__(
        self,
        clf: Classifier | nn.Module,
        x: Tensor,
        y: Tensor | None = None,
        *,
        start: Tensor | None = None,
        goal: Goal | None = None,
    ) -> ExactResult:
        """Bound the distances of the samples `x` `(N, *shape)` from both sides.

        y:     labels `(N,)`; by default the classifier's own decisions.
        start: points `(N, *shape)`, e.g. those of DDN; near ones that meet the goal save most of
               the work on hard samples.
        goal:  `Misclassified` or `ClassifiedAs`; by default any decision but `y`.

        A sample that meets the goal as it is gets 0. Raises `ValueError` for other goals, for
        infinite input bounds, for networks of more than `MOST_UNITS` units, whose first bounds
        would take longer than any limit, and for inputs that `Classifier.validate` refuses, and
        `UnsupportedOperationError` for networks that are not piecewise affine.
        """
        clf = as_classifier(clf)
        x, y = clf.validate(x, y)
        goal = goal or Misclassified(y)
        if not isinstance(goal, Misclassified | ClassifiedAs):
            raise ValueError(
                f"exact distances are for Misclassified and ClassifiedAs, not {type(goal).__name__}"
                "; invariance.ExactInversion is for logits"
            )
        if not clf.bounded:
            raise ValueError("the exact distance needs finite bounds on every input feature")
        if start is not None and start.shape != x.shape:
            raise ValueError(f"start has shape {tuple(start.shape)}, the samples {tuple(x.shape)}")
        with clf.metered() as spent, torch.no_grad():
            graph = clf.graph(x.shape[1:]).to(torch.float64)
            result = self.search(clf, x, [graph] * len(x), goal, start)
            return replace(result, cost=spent())

    def search(
        self,
        clf: Classifier,
        x: Tensor,
        graphs: Sequence[Graph],
        goal: Goal,
        start: Tensor | None = None,
    ) -> ExactResult:
        """As `__call__`, on checked inputs, each with a network of its own, in float64."""
        lower, upper = (b.double().expand(x.shape[1:]) for b in (clf.lower, clf.upper))
        searches = []
        for n, graph in enumerate(graphs):
            small = pool_first(graph)
            _require_small(small)
            rows = torch.tensor([n], device=x.device)
            net = RelaxedNetwork(small, lower, upper, x[rows].double())
            search = Search(net, x[rows].double(), goal.take(rows), batch=self.batch, gap=self.gap)
            first = None if start is None else start[rows].double()
            search.run(first, seconds=self.seconds, regions=self.regions)
            searches.append(search)
            clf.cost += net.cost

        def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=x.device)

        return ExactResult(
            lower=column([search.lower for search in searches], torch.float64),
            upper=column([search.upper for search in searches], torch.float64),
            point=torch.cat([search.point for search in searches]),
            finished=column([search.finished for search in searches], torch.bool),
            regions=column([search.regions for search in searches], torch.int64),
            cost=Cost(),
        )


def _require_small(graph: Graph) -> None:
    branching = (PiecewiseAffine, MaxPool)
    units = sum(math.prod(n.shape) for n in graph.nodes if isinstance(n.op, branching))
    if units > MOST_UNITS:
        raise ValueError(
            f"the network has {units:,} units that branch; exact distances are for small ones, of "
            f"at most {MOST_UNITS:,}: use attacks.Closest and a certificate, which bound them"
        )
