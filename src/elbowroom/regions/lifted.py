"""A small network as explicit matrices, and its affine pieces found by a search with pruning.

Every value is written as an affine function of the input `x` and of one *free variable* `u` for
the output of each piecewise affine unit and each max-pool window. Choosing a piece of a unit
expresses its variable by the earlier ones and adds the rows under which the piece applies; when
all have been chosen, only `x` is left. That covers graphs that branch: what joins, adds up (eq.
3.20-3.23 of the Invariance thesis).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import cast

import numpy as np
import torch
from torch import Tensor

from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import ChannelAffine, Conv, Linear, MaxPool, PiecewiseAffine
from elbowroom.regions.blocks import pooling_windows
from elbowroom.regions.chain import unit_count
from elbowroom.regions.polyhedra import TOLERANCE, Array, Polyhedron


@dataclass(frozen=True, eq=False)
class Option:
    """One piece of one unit. Columns are `(x, u, 1)`.

    piece: as in `graph.Pattern`: number of the affine piece, or place of the winner.
    value: `(cols,)`: the unit's output. rows: `(m, cols)`, to be <= 0; strict: `(m,)` bool.
    """

    piece: int
    value: Array
    rows: Array
    strict: list[bool]


@dataclass(frozen=True, eq=False)
class Lifted:
    """inputs: number of input values. units: their options. output: `(K, cols)`."""

    inputs: int
    units: list[list[Option]]
    output: Array


@dataclass(frozen=True, eq=False)
class AffinePiece:
    """The network is `x -> V x + v` on `region`; its rows are those of the units, in order."""

    V: Array
    v: Array
    region: Polyhedron
    pattern: tuple[int, ...]

    def preimage(self, target: Polyhedron) -> Polyhedron:
        """The part of the preimage of `target` in this region (eq. 3.7 and 3.15)."""
        return target.preimage(self.V, self.v) & self.region


@dataclass
class Budget:
    """How much of a search is left."""

    limit: int
    spent: int = 0

    def spend(self) -> None:
        self.spent += 1
        if self.spent > self.limit:
            raise ValueError(
                f"the search visited {self.limit:,} partial regions and is not finished: the "
                "network is too large for exact preimages, at least on all of its input space; "
                "give a smaller box, or raise the limit"
            )


def lift(graph: Graph) -> Lifted:
    """The matrices of a network in float64.

    Raises `UnsupportedOperationError` naming a layer that is not piecewise affine, and
    `ValueError` for weights that are not finite.
    """
    inputs = math.prod(graph.input_shape)
    cols = inputs + sum(unit_count(node) for node in graph.nodes) + 1
    like = torch.zeros((), dtype=torch.float64, device=_device(graph))
    units: list[list[Option]] = []

    def affine(node: Node, *values: Tensor) -> Tensor:
        rule = evaluate.LINEAR_TABLE[type(node.op)]
        linear = rule(_without_constant(node), *values)
        constant = rule(node, *(value[-1:] for value in values))
        return torch.cat([linear[:-1], constant])

    def free(node: Node) -> Tensor:
        first = inputs + len(units)
        value = like.new_zeros(cols, unit_count(node))
        value[first : first + unit_count(node)].fill_diagonal_(1.0)
        return value.view(cols, *node.shape)

    def activation(node: Node, value: Tensor) -> Tensor:
        output = free(node)
        units.extend(_pieces(node, _rows(value)))
        return output

    def max_pool(node: Node, value: Tensor) -> Tensor:
        output = free(node)
        units.extend(_windows(node, value.shape[1:], _rows(value)))
        return output

    table: evaluate.Table = {
        **dict.fromkeys(evaluate.LINEAR_TABLE, affine),
        PiecewiseAffine: activation,
        MaxPool: max_pool,
    }
    start = like.new_zeros(cols, inputs)
    start[:inputs].fill_diagonal_(1.0)
    with torch.no_grad():
        values = graph.to(torch.float64).interpret(
            table, start.view(cols, *graph.input_shape), "exact preimage"
        )
    for node, value in zip(graph.nodes, values, strict=True):
        if not bool(value.isfinite().all()):
            raise ValueError(f"layer {node.name!r} has NaN or infinite weights")
    return Lifted(inputs, units, _rows(values[-1]))


def search(
    lifted: Lifted, within: Polyhedron, target: Polyhedron | None, budget: Budget
) -> Iterator[tuple[AffinePiece, Polyhedron]]:
    """The affine pieces that are not empty in `within`, depth first, the upper pieces first.

    target: in output space; only pieces that reach it, with outputs of units that are not chosen
            yet left free: what cannot reach it is left as early as this shows.

    Yields each piece with the set found not to be empty: its region in `within`, and where there
    is a target the part of its preimage there.
    """
    nothing = np.zeros((0, lifted.inputs + 1))
    root = _Partial(nothing, Polyhedron.whole(lifted.inputs), (), None)
    stack = [root]
    while stack:
        partial = stack.pop()
        budget.spend()
        depth = len(partial.pattern)
        if depth == len(lifted.units):
            output = _reduced(lifted.output, lifted.inputs, partial.solved)
            piece = AffinePiece(output[:, :-1], output[:, -1], partial.region, partial.pattern)
        else:
            piece = None
        if piece is not None and target is not None:
            found = piece.preimage(target) & within
        else:
            found = _possible(lifted, partial, within, target)
        witness = _witness(found, partial.witness)
        if witness is None and found.inside is None:
            continue
        if piece is not None:
            yield piece, found
            continue
        # The last is popped first.
        options = reversed(lifted.units[depth])
        stack += [_chosen(lifted, replace(partial, witness=witness), o) for o in options]


@dataclass(frozen=True, eq=False)
class _Partial:
    """The first units have been chosen.

    solved:  `(units chosen, inputs + 1)`: their outputs as functions of `(x, 1)`.
    region:  the rows of their pieces.
    witness: a point of the parent's set, off every hyperplane, moved to this piece.
    """

    solved: Array
    region: Polyhedron
    pattern: tuple[int, ...]
    witness: Array | None


def _chosen(lifted: Lifted, partial: _Partial, option: Option) -> _Partial:
    table = _reduced(np.vstack([option.rows, option.value]), lifted.inputs, partial.solved)
    # What a unit reads depends on units before it alone: no free variable is in these rows.
    A, constant = table[:, : lifted.inputs], table[:, -1]
    region = partial.region & Polyhedron(A[:-1], -constant[:-1], np.array(option.strict))
    witness = partial.witness
    if witness is not None and len(witness) > lifted.inputs:
        witness = np.delete(witness, lifted.inputs)  # this unit's variable is free no more
    solved = np.vstack([partial.solved, np.append(A[-1], constant[-1])])
    return _Partial(solved, region, (*partial.pattern, option.piece), witness)


def _possible(
    lifted: Lifted, partial: _Partial, within: Polyhedron, target: Polyhedron | None
) -> Polyhedron:
    """Where a piece can still be: in `x`, or with a target in `x` and the free variables."""
    base = partial.region & within
    if target is None:
        return base
    output = _reduced(lifted.output, lifted.inputs, partial.solved)
    free = output.shape[1] - 1 - lifted.inputs
    padded = np.column_stack([base.A, np.zeros((len(base.c), free))])
    return target.preimage(output[:, :-1], output[:, -1]) & Polyhedron(padded, base.c, base.strict)


def _witness(found: Polyhedron, known: Array | None) -> Array | None:
    """A point of the set off every hyperplane: the known one if it will do, which is cheap."""
    if known is not None and found.depth(known) > TOLERANCE:
        return known
    inside = found.inside
    return inside.centre if inside is not None and inside.radius > 0 else None


def _reduced(rows: Array, inputs: int, solved: Array) -> Array:
    """Rows over `(x, u, 1)` as rows over `(x, free u, 1)`."""
    last = inputs + len(solved)
    chosen = rows[:, inputs:last]
    return np.column_stack(
        [
            rows[:, :inputs] + chosen @ solved[:, :-1],
            rows[:, last:-1],
            rows[:, -1] + chosen @ solved[:, -1],
        ]
    )


def _pieces(node: Node, rows: Array) -> Iterator[list[Option]]:
    """The options of the units of an activation on the values `rows` `(n, cols)`."""
    op = cast(PiecewiseAffine, node.op)
    breaks = op.breaks.tolist()
    slopes, intercepts = (
        table.expand(len(breaks) + 1, *node.shape).flatten(1).numpy()
        if table.ndim > 1
        else table.numpy()[:, None].repeat(len(rows), 1)
        for table in (op.slopes.cpu(), op.intercepts.cpu())
    )
    one = np.zeros(rows.shape[1])
    one[-1] = 1.0
    for i, z in enumerate(rows):
        options = []
        for piece in reversed(range(len(breaks) + 1)):
            limits, strict = [], []
            if piece > 0:
                limits.append(breaks[piece - 1] * one - z)
                strict.append(True)
            if piece < len(breaks):
                limits.append(z - breaks[piece] * one)
                strict.append(False)
            value = slopes[piece, i] * z + intercepts[piece, i] * one
            options.append(Option(piece, value, np.array(limits), strict))
        yield options


def _windows(node: Node, source: torch.Size, rows: Array) -> Iterator[list[Option]]:
    """The options of max-pool windows on the values `rows` `(n, cols)`: each member may win."""
    op = cast(MaxPool, node.op)
    spatial = len(op.kernel)
    members, inside = pooling_windows(op, source[-spatial:], node.shape[-spatial:])
    size = math.prod(source[-spatial:])
    for channel in range(math.prod(source[:-spatial])):
        for window, real in zip(members, inside, strict=True):
            places = window[real].tolist()
            values = {place: rows[channel * size + place] for place in places}
            options = []
            for winner in places:
                others = [place for place in places if place != winner]
                limits = [values[place] - values[winner] for place in others]
                # Among equals the first one wins, as in PyTorch.
                strict = [place < winner for place in others]
                table = np.array(limits).reshape(len(others), rows.shape[1])
                options.append(Option(winner, values[winner], table, strict))
            yield options


def _without_constant(node: Node) -> Node:
    if isinstance(node.op, Linear | Conv):
        return replace(node, op=replace(node.op, bias=None))
    if isinstance(node.op, ChannelAffine):
        return replace(node, op=replace(node.op, shift=torch.zeros_like(node.op.shift)))
    return node


def _device(graph: Graph) -> torch.device:
    tensors = (getattr(n.op, f.name) for n in graph.nodes for f in fields(n.op))
    return next((t.device for t in tensors if isinstance(t, Tensor)), torch.device("cpu"))


def _rows(value: Tensor) -> Array:
    """`(cols, *shape)` to `(n, cols)`."""
    rows: Array = value.flatten(1).T.cpu().numpy()
    return rows
