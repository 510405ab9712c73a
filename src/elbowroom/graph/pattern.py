"""The *pattern* reading: which affine piece each unit is on. It names the linear region.

Sources: Croce, Rauber and Hein (LRA), section 2; max pooling's winner is part of the pattern.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, Node, UnsupportedOperationError
from elbowroom.graph.ops import LocalResponseNorm, LpPool, MaxPool, PiecewiseAffine, Smooth


@dataclass(frozen=True)
class Pattern:
    """The linear regions of a batch.

    pieces: by index of the node; `(N, *node.shape)`: uint8 pieces of an activation, or int64
            flat spatial indices of the winners of a max pool.
    """

    pieces: Mapping[int, Tensor]

    def take(self, rows: Tensor) -> Pattern:
        """The regions of the samples `rows` (indices, repeats allowed)."""
        return Pattern({index: pieces[rows] for index, pieces in self.pieces.items()})

    def fingerprints(self) -> Tensor:
        """`(N,)` int64: equal for equal regions; different ones collide with chance 2^-64.

        Sums of the pieces, modulo 2^64, with fixed pseudo-random weights.
        """
        total: Tensor | None = None
        for index, pieces in self.pieces.items():
            flat = pieces.flatten(1)
            generator = torch.Generator().manual_seed(index)
            weights = torch.randint(-(2**62), 2**62, flat.shape[1:], generator=generator)
            part = (flat * (2 * weights + 1).to(flat.device)).sum(dim=1)
            total = part if total is None else total + part
        if total is None:
            raise ValueError("a network without piecewise affine units is one region everywhere")
        return total

    @staticmethod
    def join(parts: Sequence[Pattern]) -> Pattern:
        """The regions of several batches in one."""
        return Pattern(
            {index: torch.cat([part.pieces[index] for part in parts]) for index in parts[0].pieces}
        )

    def same_as(self, other: Pattern) -> Tensor:
        """`(N,)` bool: whether the samples lie in the same region row by row."""
        equal = [
            (pieces == other.pieces[index]).flatten(1).all(dim=1)
            for index, pieces in self.pieces.items()
        ]
        if not equal:
            raise ValueError("a network without piecewise affine units is one region everywhere")
        return torch.stack(equal).all(dim=0)


def pattern(graph: Graph, x: Tensor) -> Pattern:
    """The linear regions that the points `x` `(N, *shape)` lie in.

    A point on a facet counts to the piece on its lower side, as in PyTorch's derivatives of
    ReLU and leaky ReLU. Raises `UnsupportedOperationError` for networks with smooth layers.
    """
    pieces: dict[int, Tensor] = {}

    def activation(node: Node, z: Tensor) -> Tensor:
        op = cast(PiecewiseAffine, node.op)
        piece = evaluate.pieces_of(op, z)
        pieces[node.index] = piece
        return evaluate.select(op.slopes, piece) * z + evaluate.select(op.intercepts, piece)

    def max_pool(node: Node, z: Tensor) -> Tensor:
        values, winners = evaluate.max_pool_with_indices(node, z)
        pieces[node.index] = winners
        return values

    require_piecewise_affine(graph)
    graph.interpret(
        {**evaluate.TABLE, PiecewiseAffine: activation, MaxPool: max_pool}, x, "activation pattern"
    )
    return Pattern(pieces)


def require_piecewise_affine(graph: Graph) -> None:
    """Raise `UnsupportedOperationError` naming the first layer that is not piecewise affine."""
    for node in graph.nodes:
        if isinstance(node.op, Smooth | LocalResponseNorm | LpPool):
            raise UnsupportedOperationError(
                f"layer {node.name!r} ({node.op.kind}) is not piecewise affine: the "
                "network has no linear regions"
            )
