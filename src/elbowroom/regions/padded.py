"""Work in blocks of one size, so that a result does not depend on which others are left.

The last bits of a batched product change with the size of the batch. Where problems drop out one
by one, the rest is therefore cut into blocks of a fixed size, the last one padded by repetition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.graph import UnsupportedOperationError
from elbowroom.results import Cost

VALUES_AT_ONCE = 2**22


def blocks(count: int, size: int, device: torch.device) -> Iterator[tuple[Tensor, int]]:
    """Indices `(size,)` of each block, and how many of them, the first ones, are not padding."""
    for start in range(0, count, size):
        rows = torch.arange(start, start + size, device=device)
        yield rows.clamp(max=count - 1), min(size, count - start)


@contextmanager
def charged(clf: Classifier, real: int, size: int) -> Iterator[None]:
    """Charge `clf` for `real` of the `size` samples of a block only: padding costs nothing."""
    before = clf.cost
    yield
    spent = clf.cost - before
    clf.cost = before + Cost(
        *(count * real // size for count in (spent.forward, spent.backward, spent.jvp, spent.vjp))
    )


def in_blocks(work: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """`work(rows)` for the samples `rows`, with batches of `size` only."""
    parts = [work(rows[chosen])[:real] for chosen, real in blocks(len(rows), size, rows.device)]
    return torch.cat(parts)


def points_at_once(clf: Classifier, x: Tensor, most: int) -> int:
    """The size of a block: at most `most`, and as few as the samples `x` if the network is large.

    Then the points of a block need no more memory than the samples.
    """
    try:
        nodes = clf.graph(x.shape[1:]).nodes
    except UnsupportedOperationError:
        return min(most, len(x))
    small = VALUES_AT_ONCE // sum(math.prod(node.shape) for node in nodes)
    return min(most, max(small, len(x)))
