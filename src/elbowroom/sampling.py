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
        self.seed = seed
        self.indices = [int(index) for index in indices]
        self._keys: list[tuple[int, ...]] = [() for _ in self.indices]
        self._streams = [Generator(Philox(SeedSequence([seed, index]))) for index in self.indices]

    def __len__(self) -> int:
        return len(self._streams)

    def children(self, rows: Tensor, numbers: Tensor, round_number: int = 0) -> SampleRng:
        """New streams, seeded by (seed, sample index, round, number): one per row of `rows`.

        rows: positions of samples in this batch, repeats allowed; numbers: of their runs. What is
        drawn from a child does not depend on what was drawn before, here or from other children.
        Children of a child are seeded by its round and number as well.
        """
        child = SampleRng(self.seed, [])
        child.indices = [self.indices[row] for row in rows.tolist()]
        child._keys = [
            (*self._keys[row], round_number, number)
            for row, number in zip(rows.tolist(), numbers.tolist(), strict=True)
        ]
        child._streams = [
            Generator(Philox(SeedSequence([self.seed, index], spawn_key=key)))
            for index, key in zip(child.indices, child._keys, strict=True)
        ]
        return child

    def take(self, rows: Tensor) -> SampleRng:
        """The streams of the samples `rows`, no repeats: what they draw here is drawn there."""
        some = SampleRng(self.seed, [])
        some.indices = [self.indices[row] for row in rows.tolist()]
        some._keys = [self._keys[row] for row in rows.tolist()]
        some._streams = [self._streams[row] for row in rows.tolist()]
        return some

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


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed that depends on both alone, so that resumed training draws what it would have drawn
    without the interruption, and a checkpoint needs no state of a generator.
    """
    return int(SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
