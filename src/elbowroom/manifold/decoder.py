"""A manifold of inputs, given by what decodes them from latent codes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

# How far outside of its bounds a latent code may be, in their width: float32 and back.
ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class Codes:
    """Where samples lie on a manifold.

    z:       `(N, k)`, what attacks and projections move.
    context: `(N, ...)`, what the decoder needs besides and is held fixed, such as classes.
    """

    z: Tensor
    context: Tensor

    def __len__(self) -> int:
        return len(self.z)

    def take(self, rows: Tensor | slice) -> Codes:
        return Codes(self.z[rows], self.context[rows])

    def at(self, z: Tensor) -> Codes:
        """Other codes in the same context."""
        return Codes(z, self.context)


class Decoder(ABC):
    """A manifold (Manifold paper, 3.3): decode, encode, and the bounds of the latent codes.

    lower, upper: `(k,)`; infinite where there are none.
    """

    lower: Tensor
    upper: Tensor

    @abstractmethod
    def decode(self, z: Tensor, context: Tensor) -> Tensor:
        """Samples `(N, *shape)` of the codes `z` `(N, k)`; differentiable in them."""

    @abstractmethod
    def encode(self, x: Tensor, y: Tensor) -> Codes:
        """Codes of the samples `x` `(N, *shape)` with labels `y` `(N,)`."""

    @property
    def size(self) -> int:
        """The number k of latent dimensions."""
        return len(self.lower)

    def clamp(self, z: Tensor) -> Tensor:
        """`z` moved into the latent bounds."""
        return torch.maximum(torch.minimum(z, self.upper.to(z)), self.lower.to(z))

    def samples(self, codes: Codes) -> Tensor:
        """The samples `(N, *shape)` of `codes`, without a gradient.

        Raises `ValueError` for codes of a wrong shape, that are not finite, or out of bounds.
        """
        z = codes.z
        if z.ndim != 2 or z.shape[1] != self.size:
            raise ValueError(f"latent codes must have the shape (N, {self.size}), not {z.shape}")
        if len(codes.context) != len(z):
            raise ValueError(f"{len(z)} latent codes, but the context of {len(codes.context)}")
        if not bool(z.isfinite().all()):
            raise ValueError("latent codes must be finite")
        lower, upper = self.lower.to(z), self.upper.to(z)
        room = ROUNDING * torch.where((upper - lower).isfinite(), upper - lower, 0.0)
        outside = ((z < lower - room) | (z > upper + room)).any(dim=0).nonzero().flatten()
        if len(outside):
            first = int(outside[0])
            raise ValueError(
                f"latent dimension {first} is out of its bounds [{float(lower[first]):g}, "
                f"{float(upper[first]):g}]; move the codes inside with clamp"
            )
        with torch.no_grad():
            return self.decode(self.clamp(z), codes.context)
