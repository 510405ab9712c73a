"""Exact preimages of polytopes under small piecewise affine networks, as unions of polytopes.

Invariance thesis, section 3.1: `{x : A f(x) <= c}` is the union, over the linear regions of the
network, of the region's part of it (eq. 3.7). Two approaches give the same set. *Forward*: all
linear regions, from the input on; the affine map of each (eq. 3.26, corrected); its part of the
preimage (eq. 3.24). *Backward*: from the output to the input, the preimage under each layer of all
sets found behind it. Both follow a region only as long as it is not empty.

For networks of a few inputs and some tens of units. Regions are half-open, as in `graph.Pattern`,
so that they are counted once; the sets are their closures, and what has no volume is kept (see
`polyhedra`). Everything is computed in float64; boundaries are exact to about 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from elbowroom.graph.graph import Graph, Node
from elbowroom.regions.chain import layers, unit_count
from elbowroom.regions.lifted import AffinePiece, Budget, lift, search
from elbowroom.regions.polyhedra import Piece, Polyhedron, PolyhedronUnion

Approach = Literal["forward", "backward"]

MOST_UNITS = 200
MOST_VALUES = 4096
LIMIT = 100_000


@dataclass(frozen=True, eq=False)
class LinearRegions:
    """The linear regions of a network in `within`, none of them empty.

    pieces:  the affine map and the rows of each region.
    regions: the same regions as sets in `within`, in the same order.
    """

    pieces: Sequence[AffinePiece]
    regions: PolyhedronUnion
    within: Polyhedron

    def __len__(self) -> int:
        return len(self.pieces)

    def preimage(self, target: Polyhedron) -> PolyhedronUnion:
        """The preimage of `target` in output space: the forward approach (eq. 3.24-3.26)."""
        if self.pieces:
            _check_target(len(self.pieces[0].v), target)
        found = []
        for piece in self.pieces:
            polyhedron = piece.preimage(target) & self.within
            if polyhedron.inside is not None:
                found.append(Piece(polyhedron, piece.pattern))
        return PolyhedronUnion(self.regions.dimension, found)


@dataclass(frozen=True, eq=False)
class LayerPreimage:
    """The preimage of the target in the space of the values of `node`."""

    node: Node
    preimage: PolyhedronUnion


@dataclass(frozen=True, kw_only=True)
class ExactPreimage:
    """The exact preimage of a polytope in output space.

    approach: "forward" or "backward". The same set; forward is faster for networks of few
              inputs, as sets in wide layers, which the backward approach goes through, have many
              more linear regions than inputs ever reach.
    limit:    partial regions visited at most, over all layers.
    """

    approach: Approach = "forward"
    limit: int = LIMIT

    def __post_init__(self) -> None:
        if self.approach not in ("forward", "backward"):
            raise ValueError(f"approach must be forward or backward, not {self.approach!r}")
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, not {self.limit}")

    def __call__(
        self, graph: Graph, target: Polyhedron, *, within: Polyhedron | None = None
    ) -> PolyhedronUnion:
        """`{x : A f(x) <= c}` for the polytope `target` `{y : A y <= c}`, in `within` if given.

        graph:  the network, with the flattened input as `x` `(d,)` and logits `y` `(K,)`.
        within: a polytope in input space, such as `Polyhedron.box`.

        Raises `UnsupportedOperationError` naming a layer that is not piecewise affine, and
        `ValueError` for a target or box of another dimension, for weights that are not finite,
        and for networks that are too large: more than `MOST_UNITS` units or `MOST_VALUES` values
        in a layer, or a search beyond `limit`.
        """
        if self.approach == "forward":
            _check_target(math.prod(graph.nodes[-1].shape), target)
            return self.regions(graph, within=within).preimage(target)
        return self.layers(graph, target, within=within)[-1].preimage

    def regions(self, graph: Graph, *, within: Polyhedron | None = None) -> LinearRegions:
        """All linear regions of the network, whatever the target; errors as for a call."""
        within = _checked(graph, within)
        found, budget = [], Budget(self.limit)
        for piece, region in search(lift(graph), within, None, budget):
            found.append((piece, Piece(region, piece.pattern)))
        regions = PolyhedronUnion(within.dimension, [region for _, region in found])
        return LinearRegions([piece for piece, _ in found], regions, within)

    def layers(
        self, graph: Graph, target: Polyhedron, *, within: Polyhedron | None = None
    ) -> list[LayerPreimage]:
        """The preimages that the backward approach goes through, the one in input space last.

        A layer is an affine map with the activation or pooling behind it; where the graph
        branches, everything up to the node that joins the branches. Errors as for a call.
        """
        _check_target(math.prod(graph.nodes[-1].shape), target)
        within = _checked(graph, within)
        budget = Budget(self.limit)
        pool = [Piece(target)] if target.inside is not None else []
        found = []
        for layer in reversed(layers(graph)):
            lifted = lift(layer.graph)
            base = within if layer.source.index == 0 else Polyhedron.whole(lifted.inputs)
            pool = [
                Piece(polyhedron, step.pattern + behind.pattern)
                for behind in pool
                for step, polyhedron in search(lifted, base, behind.polyhedron, budget)
            ]
            found.append(LayerPreimage(layer.source, PolyhedronUnion(lifted.inputs, pool)))
        return found


def decision_region(classes: int, label: int) -> Polyhedron:
    """`{y : y_j - y_label <= 0 for all j}`: where the class `label` is decided, or tied."""
    if not 0 <= label < classes or classes < 2:
        raise ValueError(f"there is no decision for class {label} among {classes} classes")
    A = np.delete(np.eye(classes), label, axis=0)
    A[:, label] = -1.0
    return Polyhedron(A, np.zeros(len(A)))


def _check_target(outputs: int, target: Polyhedron) -> None:
    if target.dimension != outputs:
        raise ValueError(
            f"the polytope has {target.dimension} columns, but the network has {outputs} outputs"
        )


def _checked(graph: Graph, within: Polyhedron | None) -> Polyhedron:
    """`within`, or all of the input space; refuses networks that are too large."""
    units = sum(unit_count(node) for node in graph.nodes)
    if units > MOST_UNITS:
        raise ValueError(
            f"the network has {units:,} units with pieces to choose; exact preimages are for at "
            f"most {MOST_UNITS}"
        )
    for node in graph.nodes:
        if math.prod(node.shape) > MOST_VALUES:
            raise ValueError(
                f"layer {node.name!r} has {math.prod(node.shape):,} values; exact preimages are "
                f"for at most {MOST_VALUES:,} in a layer"
            )
    inputs = math.prod(graph.input_shape)
    if within is None:
        return Polyhedron.whole(inputs)
    if within.dimension != inputs:
        raise ValueError(
            f"`within` has {within.dimension} columns, but the network has {inputs} inputs"
        )
    return within
