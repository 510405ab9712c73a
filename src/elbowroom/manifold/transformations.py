"""Affine transformations of any image as its manifold (Manifold, 3.4.1, eq. 5 and 6)."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.data import fonts
from elbowroom.manifold.decoder import Codes, Decoder


class Transformations(Decoder):
    """Six parameters that move an image, which is the context `(N, C, H, W)`.

    They are those of FONTS, in its bounds by default; what lies outside of an image is 0.
    """

    def __init__(
        self, lower: tuple[float, ...] = fonts.LOWER, upper: tuple[float, ...] = fonts.UPPER
    ) -> None:
        if len(lower) != len(fonts.IDENTITY) or len(upper) != len(fonts.IDENTITY):
            raise ValueError(f"an affine transformation has {len(fonts.IDENTITY)} parameters")
        self.lower, self.upper = torch.tensor(lower), torch.tensor(upper)
        identity = torch.tensor(fonts.IDENTITY)
        if bool((identity < self.lower).any() | (identity > self.upper).any()):
            raise ValueError(f"the bounds must admit the image as it is, {fonts.IDENTITY}")

    def decode(self, z: Tensor, context: Tensor) -> Tensor:
        return fonts.transform(context, z)

    def encode(self, x: Tensor, y: Tensor) -> Codes:
        if x.ndim != 4:
            raise ValueError(f"only images (N, C, H, W) can be transformed, not {tuple(x.shape)}")
        return Codes(torch.tensor(fonts.IDENTITY).to(x).expand(len(x), -1).clone(), x)
