"""FONTS, whose manifold is known exactly: six transformation parameters of a glyph."""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor

from elbowroom.data import fonts
from elbowroom.manifold.decoder import Codes, Decoder

# Images that are made at first to be compared with; twice as many whenever one is not among them.
FIRST = 2000


class Fonts(Decoder):
    """The true decoder of FONTS (Manifold, suppl. B.1): face and letter are the context `(N, 2)`.

    split, seed: of the images (`data.fonts.generate`) whose codes `encode` finds.
    most:        how many of them it looks at; by default as many as `generate` makes by default.
    """

    def __init__(self, split: str = "test", *, most: int | None = None, seed: int = 0) -> None:
        self.lower, self.upper = torch.tensor(fonts.LOWER), torch.tensor(fonts.UPPER)
        self.split, self.seed = split, seed
        available = fonts.available(split)
        self.most = min(fonts.DEFAULT_COUNT[split] if most is None else most, available)
        self._made, self._codes = 0, self.codes(0)
        self._rows: dict[bytes, int] = {}

    def codes(self, count: int) -> Codes:
        """Those of the first `count` images of the split."""
        where = fonts.latents(self.split, count, self.seed)
        return Codes(where.parameters, torch.stack([where.face, where.letter], dim=1))

    def decode(self, z: Tensor, context: Tensor) -> Tensor:
        return fonts.decode(z, context[:, 0], context[:, 1])

    def encode(self, x: Tensor, y: Tensor) -> Codes:
        """The codes that images of the split were made from, found by comparing images.

        Raises `ValueError` for any other image, and where the label is not the letter.
        """
        keys = [_key(image) for image in x.detach().cpu().float()]
        while self._made < self.most and any(key not in self._rows for key in keys):
            self._learn(min(max(FIRST, 2 * self._made), self.most))
        missing = [key not in self._rows for key in keys]
        if any(missing):
            raise ValueError(
                f"sample {missing.index(True)} is none of the images of fonts: only the codes of "
                f"the first {self.most} of its split {self.split!r} are known"
            )
        rows = torch.tensor([self._rows[key] for key in keys], dtype=torch.int64)
        codes = self._codes.take(rows)
        wrong = (codes.context[:, 1] != y.cpu()).nonzero().flatten()
        if len(wrong):
            raise ValueError(f"the label of sample {int(wrong[0])} is not its letter")
        return codes.at(codes.z.to(x))

    def _learn(self, count: int) -> None:
        """The images of the split up to `count`."""
        where = fonts.latents(self.split, count, self.seed).after(self._made)
        for row, image in enumerate(fonts.render(where), start=self._made):
            self._rows.setdefault(_key(image), row)
        self._made, self._codes = count, self.codes(count)


def _key(image: Tensor) -> bytes:
    return blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()
