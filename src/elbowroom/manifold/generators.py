"""Anybody's generative model as a manifold, for all classes or for each class its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from elbowroom.manifold.decoder import Codes, Decoder
from elbowroom.manifold.projection import project


class Generator(Decoder):
    """A network from latent codes `(N, size)` to samples; the context is empty.

    encoder: from samples to codes; by default codes are sought by projection from 0.
    bound:   of every latent dimension, in size; 2 in the Manifold paper (3.3).
    draw:    random codes `(count, size)`; by default normal ones.
    """

    def __init__(
        self,
        network: nn.Module,
        size: int,
        *,
        encoder: nn.Module | None = None,
        bound: float = math.inf,
        draw: Callable[[int, torch.Generator], Tensor] | None = None,
    ) -> None:
        if size < 1 or not bound > 0:
            raise ValueError(f"size and bound must be positive, not {size} and {bound}")
        self.network, self.encoder = network.eval(), encoder.eval() if encoder else None
        self.upper = torch.full((size,), float(bound))
        self.lower = -self.upper
        self._draw = draw

    def draw(self, count: int, generator: torch.Generator) -> Codes:
        """`count` random codes, as the data are distributed as far as the model has learned it."""
        if self._draw is None:
            z = torch.randn(count, self.size, generator=generator)
        else:
            z = self._draw(count, generator)
        return Codes(self.clamp(z), z.new_zeros(count, 0))

    def decode(self, z: Tensor, context: Tensor) -> Tensor:
        samples: Tensor = self.network(z)
        return samples

    def encode(self, x: Tensor, y: Tensor) -> Codes:
        empty = x.new_zeros(len(x), 0)
        if self.encoder is None:
            return project(self, x, Codes(x.new_zeros(len(x), self.size), empty)).codes
        with torch.no_grad():
            return Codes(self.clamp(self.encoder(x)), empty)


class ByClass(Decoder):
    """A decoder for each class, which is the context `(N,)` int64 (Manifold, 3.3).

    What is decoded for a class has this label as far as the decoder can be trusted.
    """

    def __init__(self, decoders: Mapping[int, Decoder]) -> None:
        if not decoders:
            raise ValueError("there must be a decoder for at least one class")
        self.decoders = dict(decoders)
        first, *others = self.decoders.values()
        self.lower, self.upper = first.lower, first.upper
        if any(
            not torch.equal(first.lower, other.lower) or not torch.equal(first.upper, other.upper)
            for other in others
        ):
            raise ValueError("the decoders of all classes must have the same latent bounds")

    def decode(self, z: Tensor, context: Tensor) -> Tensor:
        order: list[Tensor] = []
        parts: list[Tensor] = []
        for label in sorted(set(context.tolist())):
            rows = (context == label).nonzero().flatten()
            order.append(rows)
            parts.append(self._of(label).decode(z[rows], context.new_zeros(len(rows), 0)))
        if not parts:
            raise ValueError("there are no latent codes to decode")
        return torch.cat(parts)[torch.cat(order).argsort()]

    def encode(self, x: Tensor, y: Tensor) -> Codes:
        z = x.new_zeros(len(x), self.size)
        for label in sorted(set(y.tolist())):
            rows = (y == label).nonzero().flatten()
            z[rows] = self._of(label).encode(x[rows], y[rows]).z
        return Codes(z, y)

    def _of(self, label: int) -> Decoder:
        if label not in self.decoders:
            known = ", ".join(map(str, sorted(self.decoders)))
            raise ValueError(f"class {label} has no decoder; there are some for {known}")
        return self.decoders[label]
