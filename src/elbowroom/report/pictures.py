"""Arrays to pictures: PNG in data URIs, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from elbowroom.report.figures import number

Array = NDArray[np.float32]

# Ends of the diverging scale: blue below zero, red above, white at zero.
BELOW = np.array([33, 102, 172], dtype=np.float64)
ABOVE = np.array([178, 24, 43], dtype=np.float64)
WHITE = np.array([255, 255, 255], dtype=np.float64)


@dataclass(frozen=True)
class Picture:
    """An `<img>` with its caption; `width` and `height` in pixels of the sample."""

    uri: str
    alt: str
    caption: str
    width: int
    height: int


def is_picture(shape: tuple[int, ...]) -> bool:
    """Whether a sample of this shape is drawn: (H, W) or (C, H, W) with real height and width."""
    return len(shape) in (2, 3) and min(shape[-2:]) > 1


def channel_note(shape: tuple[int, ...]) -> str | None:
    """What a reader must know about the channels, if anything."""
    channels = shape[0] if len(shape) == 3 else 1
    if channels == 3:
        return "The change shown is, at each pixel, that of the colour channel that changed most."
    if channels != 1:
        return (
            f"Samples have {channels} channels: pictures show their mean, and the change, at each "
            "pixel, the channel that changed most."
        )
    return None


def picture(sample: Array, bounds: tuple[float, float], alt: str, caption: str) -> Picture:
    """The sample in grey or colour; the lower bound is black, the upper one white."""
    low, high = bounds
    shares = np.clip((sample.astype(np.float64) - low) / ((high - low) or 1.0), 0, 1)
    if shares.ndim == 3:
        shares = shares.transpose(1, 2, 0) if len(shares) == 3 else shares.mean(axis=0)
    return _encode(np.rint(255 * shares).astype(np.uint8), alt, caption)


def difference(before: Array, after: Array, alt: str) -> Picture:
    """`after - before`: blue where less, red where more, full colour at the largest change."""
    change = after.astype(np.float64) - before.astype(np.float64)
    if change.ndim == 3:
        most = np.abs(change).argmax(axis=0)
        change = np.take_along_axis(change, most[None], axis=0)[0]
    scale = float(np.abs(change).max())
    shares = (change / (scale or 1.0))[..., None]
    colours = WHITE + np.abs(shares) * (np.where(shares < 0, BELOW, ABOVE) - WHITE)
    caption = f"change, ±{number(scale)}" if scale else "no change"
    return _encode(np.rint(colours).astype(np.uint8), alt, caption)


def _encode(pixels: NDArray[np.uint8], alt: str, caption: str) -> Picture:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    height, width = pixels.shape[:2]
    return Picture(uri, alt, caption, width, height)
