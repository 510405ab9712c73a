"""FONTS, whose manifold is known exactly: six transformation parameters of a glyph."""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.data import fonts
from elbowroom.manifold.decoder import Codes, Decoder


class Fonts(Decoder):
    """The true decoder of FONTS (Manifold, suppl. B.1): face and letter are the context `(N, 2)`.

    split, count, seed: of the images (`data.fonts.generate`) whose codes `encode` knows.
    """

    def __init__(self, split: str = "test", count: int | None = None, seed: int = 0) -> None:
        self.lower, self.upper = torch.tensor(fonts.LOWER), torch.tensor(fonts.UPPER)
        self.split, self.count, self.seed = split, count, seed
        self._rows: dict[bytes, int] | None = None

    def codes(self) -> Codes:
        """Those of all images of the split, in their order."""
        where = fonts.latents(self.split, self.count, self.seed)
        return Codes(where.parameters, torch.stack([where.face, where.letter], dim=1))

    def decode(self, z: Tensor, context: Tensor) -> Tensor:
        return fonts.decode(z, context[:, 0], context[:, 1])

    def encode(self, x: Tensor, y: Tensor) -> Codes:
        """The codes that images of the split were made from, found by comparing images.

        Raises `ValueError` for any other image, and where the label is not the letter.
        """
        if self._rows is None:
            images = fonts.generate(self.split, self.count, self.seed).x
            self._rows = {_key(image): row for row, image in enumerate(images)}
        found = [self._rows.get(_key(image)) for image in x.detach().cpu().float()]
        if None in found:
            raise ValueError(
                f"sample {found.index(None)} is none of the images of fonts ({self.split}): only "
                "their codes are known; name the split, number and seed that they were made with"
            )
        codes = self.codes().take(torch.tensor([row for row in found if row is not None]))
        wrong = (codes.context[:, 1] != y.cpu()).nonzero().flatten()
        if len(wrong):
            raise ValueError(f"the label of sample {int(wrong[0])} is not its letter")
        return codes.at(codes.z.to(x))


def _key(image: Tensor) -> bytes:
    return image.contiguous().numpy().tobytes()
