"""Lines between which a unit's output lies, while its piece is not decided.

Over an interval of its input, an activation lies between two lines, and a max pool between the
member that wins at a point and a weighted sum of its members. With exact lines where the piece is
decided, any row of the network pulls back to a row of the input that bounds it from below.
Sources: Zhang et al. 2018 (CROWN), section 3.3, whose lower slopes are those of the side on which
most of the interval lies; here, those of the piece at the centre.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from elbowroom.graph.graph import Graph, Node


class Envelope(ABC):
    """The lines of the B samples' units of one node."""

    @abstractmethod
    def pull(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """`v` `(B, R, *source)` and `c` `(B, R)` with `u . output >= v . input + c`.

        u: `(B, R, *shape)`.
        """

    @property
    @abstractmethod
    def numbers(self) -> tuple[Tensor, ...]:
        """All that describes the lines, each `(B, *shape)`."""

    @abstractmethod
    def of(self, numbers: Sequence[Tensor]) -> Envelope:
        """Lines that other numbers describe: of other units, or `(N, C, *size)` for windows."""

    def pull_windows(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """`pull` within windows: `v` is for all places that the window's units see, if only in the
        padding.
        """
        return self.pull(u)

    def to(self, dtype: torch.dtype) -> Envelope:
        """The same lines in `dtype`."""
        return self.of([number.to(dtype) for number in self.numbers])

    def take(self, samples: slice) -> Envelope:
        """The lines of some samples."""
        return self.of([number[samples] for number in self.numbers])

    @abstractmethod
    def slack(self, z: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """How far the lines are below and above `output` at the input `z` `(B, *source)`."""


class Kind(ABC):
    """One node with pieces: `units` of them, decided by `entries` numbers linear in its input.

    Pieces are numbers `(B, *shape)`, -1 while undecided: of the affine piece, or of the member of
    the window that wins.
    """

    entries: int

    def __init__(self, graph: Graph, node: Node) -> None:
        self.node = node
        self.source = graph.nodes[node.inputs[0]]
        self.units = math.prod(node.shape)

    @abstractmethod
    def quantities(self, z: Tensor) -> Tensor:
        """The entries `(B, entries)` at the input `z` `(B, *source)`."""

    @abstractmethod
    def transposed(self, u: Tensor) -> Tensor:
        """The transpose of `quantities`: `(B, R, entries)` to `(B, R, *source)`."""

    @abstractmethod
    def in_windows(self, owner: Tensor, entry: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Single entries in the windows of their units, numbers `(N,)` of the samples `owner`.

        Returns the places of the units `(N,)`, and the transpose of each entry `(N, C, *size)`
        within the part of the source that a unit at this place sees, of the kind of `like`.
        """

    @abstractmethod
    def entries_within(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds `(B, entries)` by interval arithmetic, for an input in `[low, high]`."""

    @abstractmethod
    def entries_of(self, undecided: Tensor) -> Tensor:
        """`(B, entries)` bool: those that matter to the units `undecided` `(B, units)`."""

    @abstractmethod
    def possible(self, low: Tensor, high: Tensor) -> Tensor:
        """`(B, units, pieces)` bool, for entries in `[low, high]` `(B, entries)`."""

    def settled(self, low: Tensor, high: Tensor) -> Tensor:
        """The only piece `(B, *shape)` that is possible, -1 where there are several."""
        possible = self.possible(low, high)
        only = torch.where(possible.sum(dim=2) <= 1, possible.int().argmax(dim=2), -1)
        return only.view(-1, *self.node.shape)

    @abstractmethod
    def pieces_at(self, z: Tensor) -> Tensor:
        """The pieces `(B, *shape)` at the input `z` `(B, *source)`."""

    @abstractmethod
    def envelope(self, pieces: Tensor, low: Tensor, high: Tensor, centre: Tensor) -> Envelope:
        """Lines for entries in `[low, high]` `(B, entries)`, good ones at the input `centre`."""

    def as_pattern(self, pieces: Tensor) -> Tensor:
        """Decided pieces as `Pattern` has them."""
        return pieces
