"""Random numbers that belong to a sample, not to a batch.

Every draw comes from a stream seeded by (seed, sample index) alone, so a result does not
depend on the batch a sample happens to be in, on the order or on the number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.random import Generator, Philox, SeedSequence
from torch import Tensor


class SampleRng:
    """One independent stream per sample of a batch."""

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self._streams = [Generator(Philox(SeedSequence([seed, index]))) for index in indices]

    def __len__(self) -> int:
        return len(self._streams)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers with the shape, dtype and device of `like` `(N, *shape)`."""
        shape = tuple(like.shape[1:])
        return self._stack([stream.standard_normal(shape) for stream in self._streams], like)

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) with the shape, dtype and device of `like` `(N, *shape)`."""
        shape = tuple(like.shape[1:])
        return self._stack([stream.random(shape) for stream in self._streams], like)

    @staticmethod
    def _stack(draws: list[np.ndarray], like: Tensor) -> Tensor:
        return torch.from_numpy(np.stack(draws)).to(dtype=like.dtype, device=like.device)
