"""How much every difference of logits may change before a computed decision does.

The part that certificates by Lipschitz constants share: margins in float64, less a bound on the
rounding of the network in its own precision, wherever in the ball.
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from elbowroom.certificates.gain import Gain, gains, tails
from elbowroom.certificates.rounding import LayerError, layer_errors, rounding
from elbowroom.classifier import Classifier
from elbowroom.graph.evaluate import evaluate
from elbowroom.graph.graph import Graph
from elbowroom.graph.ops import Linear
from elbowroom.norms import L2, Norm
from elbowroom.results import Cost

ARITHMETIC = 1 - 1e-12
"""Radii are shortened by this factor, for the rounding of their own last operations."""


@dataclass(frozen=True)
class Constants:
    """What depends on the network alone, computed once."""

    exact: Graph  # in float64
    gains: list[Gain]
    l2_gains: list[Gain]
    tails: list[float]
    errors: list[LayerError]  # in the precision of the network
    evaluation_errors: list[LayerError]  # in float64, in which the margins are computed


_KNOWN: WeakKeyDictionary[Graph, dict[Norm, Constants]] = WeakKeyDictionary()


def constants(graph: Graph, norm: Norm) -> Constants:
    """The constants of `graph`; raises `UnsupportedOperationError` for layers without a bound."""
    known = _KNOWN.setdefault(graph, {})
    if norm not in known:
        exact = graph.to(torch.float64)
        of_norm = gains(exact, norm)
        in_l2 = of_norm if norm == L2 else gains(exact, L2)
        known[norm] = Constants(
            exact,
            of_norm,
            in_l2,
            tails(exact),
            layer_errors(exact, graph.dtype),
            layer_errors(exact, torch.float64),
        )
    return known[norm]


@dataclass(frozen=True)
class Margins:
    """Of N samples and K classes; the decision `y` cannot change at a distance r while

    `|change of f_y - f_j| + growth * r <= available_j` for every class j.

    y:         `(N,)`.
    available: `(N, K)`; infinite for `y` itself.
    growth:    per unit of distance in `norm`: what rounding may add.
    values:    every node at the samples, in float64. errors: `(N,)` each: their L2 rounding.
    """

    known: Constants
    norm: Norm
    y: Tensor
    available: Tensor
    growth: float
    values: list[Tensor]
    errors: list[Tensor]

    @staticmethod
    def of(clf: Classifier, x: Tensor, y: Tensor, norm: Norm) -> Margins:
        """At the samples `x` `(N, *shape)`. One forward pass a sample."""
        known = constants(clf.graph(tuple(x.shape[1:])), norm)
        values = evaluate(known.exact, x.double())
        clf.cost += Cost(forward=len(x))
        slack, evaluation = (
            rounding(known.exact, values, known.l2_gains, known.tails, errors)
            for errors in (known.errors, known.evaluation_errors)
        )
        margin = values[-1].gather(1, y[:, None]) - values[-1]
        margin = margin.scatter(1, y[:, None], torch.inf)
        # The margin must outlast the rounding of both logits, wherever in the ball.
        available = margin - 2 * (slack.here + evaluation.here)[:, None]
        growth = 2 * slack.per_l2_distance * norm.largest_l2(x[0].numel())
        return Margins(known, norm, y, available, growth, values, evaluation.nodes)

    def slopes(self, last: Gain) -> Tensor:
        """`(N, K)`: Lipschitz constants of `f_y - f_j`, where `last` is the gain of the logits."""
        return pairwise_slopes(last, self.y, self.values[-1], self.norm)

    def radius(self) -> Tensor:
        """`(N,)`: how far the global Lipschitz constants guarantee the decision."""
        steepness = self.slopes(self.known.gains[-1]) + self.growth
        # A difference that cannot change at all: certified everywhere, or nowhere at a tie.
        flat = torch.where(self.available > 0, torch.inf, 0.0)
        radius = torch.where(steepness > 0, self.available / steepness, flat)
        return radius.amin(dim=1)


def pairwise_slopes(last: Gain, y: Tensor, logits: Tensor, norm: Norm) -> Tensor:
    """`(N, K)`: bounds on the Lipschitz constants of `f_y - f_j`."""
    if last.pending is not None and isinstance(last.pending.op, Linear):
        weight = last.pending.op.weight
        return (
            last.constant
            * norm.dual.length((weight[:, None] - weight[None]).flatten(0, 1)).view(
                len(weight), -1
            )[y]
        )
    # |u_y - u_j| <= |e_y - e_j|_dual |u|.
    pair = torch.zeros(1, logits.shape[1], dtype=torch.float64)
    pair[0, :2] = torch.tensor([1.0, -1.0])
    return torch.full_like(logits, last.settled() * float(norm.dual.length(pair)))
