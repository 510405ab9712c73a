"""Decoders by name. A new one is one file and one entry in `DECODERS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from elbowroom.imports import is_reference, resolve
from elbowroom.manifold.decoder import Decoder
from elbowroom.manifold.fonts import Fonts
from elbowroom.manifold.transformations import Transformations
from elbowroom.manifold.vae_gan import load_decoder

DECODERS: dict[str, Callable[[str], Decoder]] = {
    "fonts": Fonts,
    "transformations": lambda split: Transformations(),
}
"""Name -> decoder of the samples of a split."""


#: Data set -> the decoder that is exact for it.
USUAL_DECODERS = {"fonts": "fonts"}


def decoder(spec: str, split: str = "test") -> Decoder:
    """The decoder `spec` for the samples of `split`.

    spec: a name in `DECODERS`, the folder of VAE-GANs or the file of one, or
          `package.module:callable`, which is called with the split.

    Raises `ValueError` for an unknown name and for a callable that returns no `Decoder`,
    `FileNotFoundError` for VAE-GANs that are not trained yet.
    """
    if is_reference(spec):
        found = resolve(spec)(split)
    elif spec in DECODERS:
        found = DECODERS[spec](split)
    elif Path(spec).exists():
        found = load_decoder(spec)
    else:
        raise ValueError(
            f"unknown decoder {spec!r}; choose {', '.join(DECODERS)}, package.module:callable, or "
            "the folder of VAE-GANs that elbowroom manifold train made"
        )
    if not isinstance(found, Decoder):
        raise ValueError(
            f"{spec!r} returned a {type(found).__name__}, not a manifold.Decoder; "
            "manifold.Generator(network, size) makes one of a network"
        )
    return found
