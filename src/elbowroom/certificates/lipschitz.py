"""A bound on the slope of the whole network, layer by layer: the simplest sound certificate.

If every difference of logits `f_y - f_j` changes by at most `L_j` per unit of distance, the
decision cannot change within `min_j (f_y - f_j)(x) / L_j` (Tsuzuku, Sato and Sugiyama 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from elbowroom.certificates.base import Certificate
from elbowroom.certificates.gain import Gain, gains, tails
from elbowroom.certificates.rounding import LayerError, layer_errors, rounding
from elbowroom.classifier import Classifier
from elbowroom.graph.evaluate import evaluate
from elbowroom.graph.graph import Graph
from elbowroom.graph.ops import Linear
from elbowroom.norms import L2, Norm
from elbowroom.results import Cost


@dataclass(frozen=True, kw_only=True)
class GlobalLipschitz(Certificate):
    """Margin over a global Lipschitz constant, a product of the layers' operator norms.

    Sound for the network as it is computed in its own floating-point precision, whatever the
    order of summation: every radius is reduced by a bound on the rounding of all layers (see
    `elbowroom.certificates.rounding` for what that assumes of convolutions on GPUs). Fast,
    and exact for linear classifiers; for deep ones a product of norms is far from tight.

    norm: L1, L2 or Linf.
    """

    def bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        graph = clf.graph(tuple(x.shape[1:]))
        known = _constants(graph, self.norm)
        values = evaluate(known.exact, x.double())
        clf.cost += Cost(forward=len(x))
        slope = pairwise_slopes(known.gains[-1], y, values[-1], self.norm)
        slack, evaluation = (
            rounding(known.exact, values, known.l2_gains, known.tails, errors)
            for errors in (known.errors, known.evaluation_errors)
        )
        margin = values[-1].gather(1, y[:, None]) - values[-1]
        margin = margin.scatter(1, y[:, None], torch.inf)
        # The margin must outlast the rounding of both logits, wherever in the ball.
        available = margin - 2 * (slack.here + evaluation.here)[:, None]
        growth = slack.per_l2_distance * self.norm.largest_l2(x[0].numel())
        steepness = slope + 2 * growth
        # A difference that cannot change at all: certified everywhere, or nowhere at a tie.
        flat = torch.where(available > 0, torch.inf, 0.0)
        radius = torch.where(steepness > 0, available / steepness, flat)
        return radius.amin(dim=1) * (1 - 1e-12)


@dataclass(frozen=True)
class _Constants:
    """What depends on the network alone, computed once."""

    exact: Graph
    gains: list[Gain]
    l2_gains: list[Gain]
    tails: list[float]
    errors: list[LayerError]  # in the precision of the network
    evaluation_errors: list[LayerError]  # in float64, in which the margins are computed


_KNOWN: WeakKeyDictionary[Graph, dict[Norm, _Constants]] = WeakKeyDictionary()


def _constants(graph: Graph, norm: Norm) -> _Constants:
    known = _KNOWN.setdefault(graph, {})
    if norm not in known:
        exact = graph.to(torch.float64)
        of_norm = gains(exact, norm)
        in_l2 = of_norm if norm == L2 else gains(exact, L2)
        known[norm] = _Constants(
            exact,
            of_norm,
            in_l2,
            tails(exact),
            layer_errors(exact, graph.dtype),
            layer_errors(exact, torch.float64),
        )
    return known[norm]


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
