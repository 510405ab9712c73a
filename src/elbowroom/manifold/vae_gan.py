"""Learned manifolds: VAE-GANs as decoders, from their files (Manifold, suppl. B.2)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from torch import Tensor, nn

from elbowroom import models
from elbowroom.manifold.decoder import Decoder
from elbowroom.manifold.generators import ByClass, Generator
from elbowroom.models.vae_gan import VaeGan

WEIGHTS_FILE = "vae-gan.safetensors"
CLASS_FOLDER = "class-{}"
# The paper cuts off at 2 (3.3), which of standardised codes with 10 dimensions is every third.
BOUND = 3.0


def save_vae_gan(model: VaeGan, folder: Path, metadata: dict[str, str]) -> None:
    """Its weights, with what it takes to build it again."""
    names = ("shape", "size", "widths", "hidden", "moving", "components")
    architecture = json.dumps({name: getattr(model, name) for name in names})
    models.save(model, folder / WEIGHTS_FILE, {"architecture": architecture, **metadata})


class _Part(nn.Module):
    """A method of a model as a network of its own."""

    def __init__(self, model: VaeGan, method: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.method = model, method

    def forward(self, x: Tensor) -> Tensor:
        return self.method(x)


def as_decoder(model: VaeGan) -> Generator:
    """Its decoder, with standardised codes by its encoder's mean, each in [-3, 3]."""
    model = model.eval().requires_grad_(False)
    decode, code = _Part(model, model.decode), _Part(model, model.code)
    return Generator(decode, model.size, encoder=code, bound=BOUND, draw=model.draw)


def load_vae_gan(path: str | Path) -> VaeGan:
    """A trained VAE-GAN, of its weights file or folder.

    Raises `FileNotFoundError` where training has not ended, `ValueError` for other files.
    """
    path = Path(path)
    file = path / WEIGHTS_FILE if path.is_dir() else path
    if not file.exists():
        raise FileNotFoundError(
            f"there is no trained VAE-GAN at {str(path)!r}; elbowroom manifold train makes one, "
            "and the command that was interrupted, given again, goes on"
        )
    state = models.read_state(file)
    try:
        with safe_open(file, framework="pt") as opened:
            options = json.loads((opened.metadata() or {})["architecture"])
        tuples = {name: tuple(options[name]) for name in ("shape", "widths")}
        model = VaeGan(**{**options, **tuples})
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
