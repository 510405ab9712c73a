"""Partial regions: some units on a known piece, the others undecided.

A partial region is the union of the linear regions that agree with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Partial:
    """B partial regions. T counts the units, S the entries (see `Kind`) of all nodes.

    pieces:   `(B, T)`, -1 while undecided.
    branched: `(B, T)` bool: decided by branching, so that constraints belong to it. The other
              decided units cannot leave their piece where it matters.
    low, high: `(B, S)`: bounds on the entries.
    decision: `(B, J, K)`, `decision @ logits <= 0`.
    centre, radius: `(B, *shape)` and `(B,)`: all points of interest are in this ball.
    """

    pieces: Tensor
    branched: Tensor
    low: Tensor
    high: Tensor
    decision: Tensor
    centre: Tensor
    radius: Tensor

    def __len__(self) -> int:
        return len(self.pieces)

    def take(self, rows: Tensor) -> Partial:
        """The partial regions `rows` (indices, repeats allowed)."""
        return Partial(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    @staticmethod
    def join(parts: Sequence[Partial]) -> Partial:
        """Several batches in one."""
        names = [f.name for f in fields(Partial)]
        return Partial(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})


@dataclass(frozen=True)
class Rows:
    """Constraints `rows @ z + constant <= 0` of B partial regions.

    rows: `(B, R, d)`; constant: `(B, R)`; zero rows with a negative constant are padding.
    slots: `(B, R)`, the numbers of the constraints, -1 for padding.
    numbers: how many numbers there are.
    cotangents: by node with pieces, `(B, R, *shape)`: how much each row depends on its outputs.
    """

    rows: Tensor
    constant: Tensor
    slots: Tensor
    numbers: int
    cotangents: Mapping[int, Tensor]


def padded_indices(mask: Tensor) -> Tensor:
    """The indices that are set in each row of `(B, n)`, filled up with -1."""
    count = mask.sum(dim=1)
    width = int(count.max()) if len(count) else 0
    order = mask.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    return torch.where(torch.arange(width, device=mask.device) < count[:, None], order, -1)
