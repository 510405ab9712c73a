"""The last two dense layers together: how far a difference of logits can move.

With `f_y - f_j = w'h` and `h = phi(V x + b)` a bound on `|h(x + r) - h(x)|` forgets the direction
w. Instead, a difference moves by `w'diag(d)V r` plus `w'diag(e)V r`, where d are the slopes of phi
at the sample and e is by how much the mean slopes along the way can differ from them. The first
term is exact, the second is small near the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from elbowroom.certificates.gain import Gain
from elbowroom.certificates.modulus import Weights, smooth_slopes, turned
from elbowroom.certificates.operator_norms import SAFETY
from elbowroom.graph.evaluate import pieces_of, select
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import Linear, PiecewiseAffine, Smooth

# Classes times features; beyond it one matrix for each sample needs too much memory.
LARGEST = 16384

Differences = Callable[[Sequence[Tensor]], Tensor]
"""From the changes `(N,)` of all nodes to those of `f_y - f_j`, `(N, K)`."""


def last_layers(
    graph: Graph,
    gains: Sequence[Gain],
    values: Sequence[Tensor],
    errors: Sequence[Tensor],
    y: Tensor,
) -> Differences | None:
    """Bounds for samples with labels `y` `(N,)`; None where the network does not end like that.

    graph, gains: in float64 and L2. values, errors: of every node, as for `Modulus`.
    """
    last = gains[-1]
    activation = graph.nodes[last.base]
    if last.pending is None or not isinstance(last.pending.op, Linear):
        return None
    op = activation.op
    if not isinstance(op, PiecewiseAffine | Smooth):
        return None
    hidden = Weights.of(gains[activation.inputs[0]])
    if hidden.dense is None or (isinstance(op, Smooth) and math.isinf(op.curvature)):
        return None
    weight = last.pending.op.weight
    if len(weight) * max(hidden.dense.shape) > LARGEST:
        return None
    pairs = weight[y][:, None] - weight
    if isinstance(op, Smooth):
        return _smooth(activation, hidden, pairs, values, errors)
    return _piecewise(activation, hidden, pairs, values, errors)


def _straight(pairs: Tensor, slopes: Tensor, hidden: Weights) -> Tensor:
    """`(N, K)`: the norms of `w'diag(d)V`."""
    scaled = pairs * slopes[:, None]
    lengths = _lengths(scaled @ cast(Tensor, hidden.dense))
    return lengths + (SAFETY - 1) * _lengths(scaled) * hidden.norm


def _lengths(pairs: Tensor) -> Tensor:
    """`(N, K)`: L2 lengths of vectors `(N, K, units)`."""
    return pairs.square().sum(dim=2).sqrt()


def _smooth(
    node: Node,
    hidden: Weights,
    pairs: Tensor,
    values: Sequence[Tensor],
    errors: Sequence[Tensor],
) -> Differences:
    """`|w'diag(e)V r| <= B/2 sum_i |w_i| (V r)_i^2`, by the norm of `diag(sqrt |w|) V`."""
    op, source = cast(Smooth, node.op), node.inputs[0]
    slopes, off = smooth_slopes(op, values[source], errors[source])
    straight = _straight(pairs, slopes, hidden)
    straight = straight + off[:, None] * _lengths(pairs) * hidden.norm
    roots = hidden.scaled(pairs.abs().sqrt().flatten(0, 1)).view(pairs.shape[:2])
    bend = op.curvature * roots.square()

    def differences(changes: Sequence[Tensor]) -> Tensor:
        s = changes[hidden.base][:, None]
        return (straight + bend * s / 2) * s

    return differences


def _piecewise(
    node: Node,
    hidden: Weights,
    pairs: Tensor,
    values: Sequence[Tensor],
    errors: Sequence[Tensor],
) -> Differences:
    """Only units that can leave their piece have an e."""
    op, source = cast(PiecewiseAffine, node.op), node.inputs[0]
    z, error = values[source], errors[source]
    straight = _straight(pairs, select(op.slopes, pieces_of(op, z)), hidden)
    sizes = pairs.abs() * hidden.reach

    def differences(changes: Sequence[Tensor]) -> Tensor:
        s = changes[hidden.base][:, None]
        _, turn = turned(op, z, error, s * hidden.reach)
        # All that may turn together, or unit by unit.
        together = _lengths(pairs * turn[:, None]) * hidden.scaled((turn > 0).double())[:, None]
        apart = (sizes @ turn[:, :, None])[:, :, 0]
        return (straight + torch.minimum(together, apart)) * s

    return differences
