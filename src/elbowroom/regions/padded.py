"""Work in blocks of one size, so that a result does not depend on which others are left.

The last bits of a batched product change with the size of the batch. Where problems drop out one
by one, the rest is therefore cut into blocks of a fixed size, the last one padded by repetition.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def blocks(count: int, size: int, device: torch.device) -> Iterator[tuple[Tensor, int]]:
    """Indices `(size,)` of each block, and how many of them, the first ones, are not padding."""
    for start in range(0, count, size):
        rows = torch.arange(start, start + size, device=device)
        yield rows.clamp(max=count - 1), min(size, count - start)
