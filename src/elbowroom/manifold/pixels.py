"""No manifold at all: every input, as its own code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from elbowroom.classifier import Bound
from elbowroom.manifold.decoder import Codes, Decoder


class Pixels(Decoder):
    """Codes are the features themselves: attacks on codes become regular ones.

    shape: of a sample. bounds: smallest and largest value, numbers or tensors of that shape.
    """

    def __init__(self, shape: Sequence[int], bounds: tuple[Bound, Bound]) -> None:
        self.shape = tuple(shape)
        self.lower, self.upper = (
            torch.as_tensor(bound, dtype=torch.float32).expand(self.shape).flatten()
            for bound in bounds
        )

    def decode(self, z: Tensor, context: Tensor) -> Tensor:
        return z.view(len(z), *self.shape)

    def encode(self, x: Tensor, y: Tensor) -> Codes:
        return Codes(self.clamp(x.flatten(1)), x.new_zeros(len(x), 0))
