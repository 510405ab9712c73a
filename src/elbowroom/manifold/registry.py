"""Decoders by name. A new one is one file and one entry in `DECODERS`."""

from __future__ import annotations

from collections.abc import Callable

from elbowroom.imports import is_reference, resolve
from elbowroom.manifold.decoder import Decoder
from elbowroom.manifold.fonts import Fonts
from elbowroom.manifold.transformations import Transformations

DECODERS: dict[str, Callable[[str], Decoder]] = {
    "fonts": Fonts,
    "transformations": lambda split: Transformations(),
}
"""Name -> decoder of the samples of a split."""


def decoder(spec: str, split: str = "test") -> Decoder:
    """The decoder `spec` for the samples of `split`.

    spec: a name in `DECODERS`, or `package.module:callable`, which is called with the split.

    Raises `ValueError` for an unknown name and for a callable that returns no `Decoder`.
    """
    if is_reference(spec):
        found = resolve(spec)(split)
    elif spec in DECODERS:
        found = DECODERS[spec](split)
    else:
        raise ValueError(f"unknown decoder {spec!r}; choose {', '.join(DECODERS)}")
    if not isinstance(found, Decoder):
        raise ValueError(f"{spec!r} returned a {type(found).__name__}, not a manifold.Decoder")
    return found
