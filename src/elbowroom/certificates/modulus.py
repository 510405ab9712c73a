"""The *modulus* reading: how far each node can move when the input moves by so much, in L2.

For a sample and every node it is an increasing function omega with `|h(x + r) - h(x)| <=
omega(|r|)`, the modulus of continuity around the sample. Unlike a Lipschitz constant it knows
where the sample is: which units are on a flat piece, how steep a smooth activation is there.

Followed backwards from the logits this is Algorithm 5.1 of the Bounds thesis with what its chain
needs, a bound on `|h(x + r) - h(x)|`, in place of the thesis's `|h(x + r)| - |h(x)|`; followed
forwards it takes sums and concatenations as well, and one pass serves all radii.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from elbowroom.certificates.gain import Gain, node_factor
from elbowroom.certificates.operator_norms import SAFETY
from elbowroom.graph.evaluate import pieces_of, select
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import Add, Concat, Conv, Linear, PiecewiseAffine, Reshape, Smooth
from elbowroom.norms import L2, per_sample

# Dense layers of at most so many units are looked at unit by unit, in so many directions.
LARGEST_DENSE, DIRECTIONS = 2048, 16
DOUBLINGS, BISECTIONS = 100, 30

Change = Callable[[Sequence[Tensor]], Tensor]
"""From the changes `(N,)` of all nodes before it to that of a node."""
Rule = Callable[[Sequence[Tensor], Sequence[Tensor]], Change]
"""Made for a network: from all values at N samples, and their L2 errors `(N,)`, to `Change`."""


@dataclass(frozen=True)
class Weights:
    """The linear map W in front of an activation, from the node `base`; joined where it can be.

    norm: an upper bound on its operator norm.
    """

    base: int
    norm: float
    gain: Gain

    @staticmethod
    def of(gain: Gain) -> Weights:
        return Weights(gain.base, gain.pending_norm, gain)

    @property
    def dense(self) -> Tensor | None:
        """W `(units, inputs)` of a dense layer that is small enough to look at its units."""
        op = None if self.gain.pending is None else self.gain.pending.op
        small = isinstance(op, Linear) and len(op.weight) <= LARGEST_DENSE
        return cast(Linear, op).weight if small else None

    @cached_property
    def reach(self) -> Tensor:
        """By how much a unit moves per unit of change of `base`: `(units,)`, or one for all."""
        op = None if self.gain.pending is None else self.gain.pending.op
        if isinstance(op, Linear | Conv):
            rows = L2.length(op.weight.double()) * SAFETY
            return rows if self.dense is not None else rows.max()
        return torch.tensor(self.norm, dtype=torch.float64)

    @cached_property
    def leading(self) -> tuple[Tensor, float] | None:
        """For every unit the products `L_k L_l` `(units, k l)`, and the norm of what L leaves out.

        L: the left singular vectors of W times their singular values, the largest of them.
        """
        if self.dense is None:
            return None
        vectors, sizes, _ = torch.linalg.svd(self.dense.double(), full_matrices=False)
        rest = float(sizes[DIRECTIONS]) if len(sizes) > DIRECTIONS else 0.0
        kept = (vectors * sizes)[:, :DIRECTIONS]
        return (kept[:, :, None] * kept[:, None]).flatten(1), rest

    def scaled(self, slopes: Tensor) -> Tensor:
        """`(N,)`: bounds on the operator norm of `diag(slopes) W`, slopes `(N, *units)` >= 0.

        The largest slope times the norm of W; or, where `W W' = L L' + R` with the leading
        directions L and `R <= rest^2`, the root of `|diag(slopes) L|^2 + (max slopes * rest)^2`.
        """
        steepest = slopes.flatten(1).amax(dim=1)
        if self.leading is None:
            return steepest * self.norm
        products, rest = self.leading
        gram = slopes.square() @ products  # of diag(slopes) L
        size = math.isqrt(products.shape[1])
        top = torch.linalg.eigvalsh(gram.view(-1, size, size))[:, -1].clamp(min=0)
        norm = (top + (steepest * rest).square()).sqrt()
        return torch.minimum(norm, steepest * self.norm) + (SAFETY - 1) * steepest * self.norm


def _piecewise(node: Node, weights: Weights) -> Rule:
    """A unit counts with its slope and by how much that can turn; on a flat piece, not at all."""
    op, base = cast(PiecewiseAffine, node.op), weights.base
    steepest = float(op.slopes.abs().max())
    if weights.dense is None:
        return lambda values, errors: lambda changes: steepest * weights.norm * changes[base]

    def at(values: Sequence[Tensor], errors: Sequence[Tensor]) -> Change:
        z, error = values[node.inputs[0]], errors[node.inputs[0]]

        def change(changes: Sequence[Tensor]) -> Tensor:
            s = changes[base]
            here, turn = turned(op, z, error, s[:, None] * weights.reach)
            return s * weights.scaled(
                torch.clamp(here.abs() + turn, max=float(op.slopes.abs().max()))
            )

        return change

    return at


def turned(op: PiecewiseAffine, z: Tensor, error: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """The slopes at `z` `(N, units)`, and how far mean slopes can be from them, `(N, units)`.

    The mean is over the way of a unit that moves by at most `moved` `(N, units)`; exact values are
    within `error` `(N,)` of `z`. A unit begins to turn at the nearest break: `|h(z + t) - h(z) -
    h'(z) t|` is at most the largest difference of slopes that it meets, times `|t| - gap`.
    """
    error = error[:, None]
    here = select(op.slopes, pieces_of(op, z))
    gap = torch.full_like(z, torch.inf)
    for edge in op.breaks:
        gap = torch.minimum(gap, (z - edge).abs())
    low, high = z - moved - error, z + moved + error
    difference = torch.zeros_like(z)
    for piece, slope in enumerate(op.slopes):
        reached = torch.ones_like(z, dtype=torch.bool)
        if piece > 0:
            reached &= high >= op.breaks[piece - 1]
        if piece < len(op.breaks):
            reached &= low <= op.breaks[piece]
        difference = torch.where(
            reached, torch.maximum(difference, (slope - here).abs()), difference
        )
    share = (moved + error - gap) / moved.clamp(min=torch.finfo(z.dtype).tiny)
    return here, difference * share.clamp(0, 1)


def _smooth(node: Node, weights: Weights) -> Rule:
    """To second order (Bounds thesis, Theorem 4.2, with constants that hold): `|J| s + beta s^2/2`.

    J is the layer's Jacobian at the sample, `beta = B max_i |w_i| |W|` bounds how fast it changes
    (B: `Smooth.curvature`). A single unit's slope is bounded in the same way, and never by more
    than the activation's Lipschitz constant.
    """
    op, base = cast(Smooth, node.op), weights.base
    steepest = op.lipschitz * weights.norm
    if math.isinf(op.curvature):
        return lambda values, errors: lambda changes: steepest * changes[base]
    bend = op.curvature * float(weights.scaled(weights.reach.reshape(1, -1)))

    def at(values: Sequence[Tensor], errors: Sequence[Tensor]) -> Change:
        z = values[node.inputs[0]]
        slopes, off = smooth_slopes(op, z, errors[node.inputs[0]])
        slopes = (slopes.abs() + per_sample(off, z)).clamp(max=op.lipschitz)
        here = weights.scaled(slopes)

        def change(changes: Sequence[Tensor]) -> Tensor:
            s = changes[base]
            slope = torch.clamp(here + bend * s / 2, max=steepest)
            if weights.dense is not None:
                steeper = slopes + op.curvature * s[:, None] * weights.reach / 2
                slope = torch.minimum(slope, weights.scaled(steeper.clamp(max=op.lipschitz)))
            return slope * s

        return change

    return at


def smooth_slopes(op: Smooth, z: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes `(N, *units)` at units computed as `z`, and bounds `(N,)` on how far off they are.

    error: `(N,)`, of `z`. Beyond its threshold T PyTorch's softplus has the slope 1, which is off
    by `1 / (1 + e^T) <= log(1 + e^-T) = beta * deviation`, and beta is four times the curvature.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(op.function(z).sum(), z)
    jump = 4 * op.curvature * op.deviation
    return slopes, op.curvature * error + jump + 1e-12 * op.lipschitz


def _rule(node: Node, graph: Graph, gains: Sequence[Gain]) -> Rule:
    gain, op, inputs = gains[node.index], node.op, node.inputs
    if gain.pending is not None:
        base, norm = gain.base, gain.pending_norm
        return lambda values, errors: lambda changes: norm * changes[base]
    if isinstance(op, PiecewiseAffine):
        return _piecewise(node, Weights.of(gains[inputs[0]]))
    if isinstance(op, Smooth):
        return _smooth(node, Weights.of(gains[inputs[0]]))
    if isinstance(op, Add):
        return lambda values, errors: lambda changes: changes[inputs[0]] + changes[inputs[1]]
    if isinstance(op, Concat):
        return lambda values, errors: (
            lambda changes: torch.stack([changes[i] for i in inputs]).square().sum(dim=0).sqrt()
        )
    shape = graph.nodes[inputs[0]].shape
    factor = 1.0 if isinstance(op, Reshape) else node_factor(node, shape, L2)
    return lambda values, errors: lambda changes: factor * changes[inputs[0]]


_KNOWN: WeakKeyDictionary[Graph, list[Rule]] = WeakKeyDictionary()


def _rules(graph: Graph, gains: Sequence[Gain]) -> list[Rule]:
    """One rule for every node but the input; made once for each network."""
    if graph not in _KNOWN:
        _KNOWN[graph] = [_rule(node, graph, gains) for node in graph.nodes[1:]]
    return _KNOWN[graph]


class Modulus:
    """The moduli of all nodes around N samples.

    graph, gains: in float64 and L2. values: every node at the samples; errors: `(N,)` each, how
    far in L2 those are from the exact values. Evaluating it costs no passes of the network.
    """

    def __init__(
        self,
        graph: Graph,
        gains: Sequence[Gain],
        values: Sequence[Tensor],
        errors: Sequence[Tensor],
    ) -> None:
        self._changes = [rule(values, errors) for rule in _rules(graph, gains)]

    def __call__(self, radius: Tensor) -> list[Tensor]:
        """For every node, how far `(N,)` it can move within `radius` `(N,)` of the sample."""
        changes = [radius]
        for change in self._changes:
            changes.append(change(changes))
        return changes


def largest_radius(safe: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """The largest radii `(N,)` known to be safe: from `start`, which is, by doubling and bisection.

    safe: from radii `(N,)` to bool; once false, false for all larger ones. Radii of 0 and infinite
    ones stay as they are.
    """
    fixed = ~((start > 0) & start.isfinite())
    low = torch.where(fixed, 1.0, start)
    high = 2 * low
    for _ in range(DOUBLINGS):
        further = safe(high) & ~fixed
        if not bool(further.any()):
            break
        low, high = torch.where(further, high, low), torch.where(further, 2 * high, high)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        good = safe(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(fixed, start, low)
