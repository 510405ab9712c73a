"""Learned manifolds: VAE-GANs as decoders, from their files (Manifold, suppl. B.2)."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from elbowroom import models
from elbowroom.manifold.decoder import Decoder
from elbowroom.manifold.generators import ByClass, Generator
from elbowroom.models.vae_gan import VaeGan

WEIGHTS_FILE = "vae-gan.safetensors"
CLASS_FOLDER = "class-{}"
# A normal prior, cut off where the paper cuts it (3.3).
BOUND = 2.0


def save_vae_gan(model: VaeGan, folder: Path, metadata: dict[str, str]) -> None:
    """Its weights, with what it takes to build it again."""
    shape = {name: getattr(model, name) for name in ("channels", "side", "size", "hidden")}
    architecture = json.dumps({**shape, "widths": list(model.widths)})
    models.save(model, folder / WEIGHTS_FILE, {"architecture": architecture, **metadata})


class _MeanCode(nn.Module):
    def __init__(self, model: VaeGan) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.encode(x)[0]


def as_decoder(model: VaeGan) -> Generator:
    """Its decoder, codes by its encoder's mean, in the paper's `[-2, 2]^size`."""
    model = model.eval().requires_grad_(False)
    return Generator(model.decoder, model.size, encoder=_MeanCode(model), bound=BOUND)


def load_vae_gan(path: str | Path) -> VaeGan:
    """A trained VAE-GAN, of its weights file or folder.

    Raises `FileNotFoundError` where training has not ended, `ValueError` for other files.
    """
    path = Path(path)
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(
            f"there is no trained VAE-GAN at {str(path)!r}; train one with elbowroom manifold "
            f"train --out {path}, which goes on where it was interrupted"
        )
    state = models.read_state(file)
    try:
        with safe_open(file, framework="pt") as opened:
            options = json.loads((opened.metadata() or {})["architecture"])
        model = VaeGan(**{**options, "widths": tuple(options["widths"])})
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise ValueError(f"{str(file)!r} is no VAE-GAN of elbowroom manifold train") from error
    models.load_state(model, state, file)
    return model.eval()


def load_decoder(folder: str | Path) -> Decoder:
    """The VAE-GAN of a folder, or those of its folders class-0, class-1, ..."""
    folder = Path(folder)
    by_class = {
        int(each.name.split("-")[1]): each
        for each in sorted(folder.glob(CLASS_FOLDER.format("*")))
        if each.name.split("-")[1].isdigit()
    }
    if by_class:
        return ByClass({k: as_decoder(load_vae_gan(each)) for k, each in by_class.items()})
    return as_decoder(load_vae_gan(folder))
