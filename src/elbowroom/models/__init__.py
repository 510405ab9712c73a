"""The networks that the papers measure, by name, and their weights."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from elbowroom.imports import call, resolve
from elbowroom.models.convolutional import (
    celeba_cnn,
    cifar_nin,
    fab_cifar,
    fonts_cnn,
    fonts_vgg,
    gts_cnn,
)
from elbowroom.models.mlp import fonts_mlp, mlp, raghunathan_mnist
from elbowroom.models.mnist import (
    lenet5,
    lenet5_lrn1,
    lenet5_lrn2,
    lenet5_lrn3,
    madry_mnist,
    wong_kolter_mnist,
)
from elbowroom.models.residual import resnet13, resnet18
from elbowroom.models.state import load_state, read_metadata, read_state, save

__all__ = [
    "MODELS",
    "PRETRAINED",
    "build",
    "load",
    "load_state",
    "pretrained",
    "read_metadata",
    "read_state",
    "save",
    "weights_file",
]

MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "lenet5": lenet5,
    "lenet5-lrn1": lenet5_lrn1,
    "lenet5-lrn2": lenet5_lrn2,
    "lenet5-lrn3": lenet5_lrn3,
    "madry-mnist": madry_mnist,
    "wong-kolter-mnist": wong_kolter_mnist,
    "raghunathan-mnist": raghunathan_mnist,
    "gts-cnn": gts_cnn,
    "fonts-cnn": fonts_cnn,
    "celeba-cnn": celeba_cnn,
    "fonts-mlp": fonts_mlp,
    "fonts-vgg": fonts_vgg,
    "fab-cifar": fab_cifar,
    "cifar-nin": cifar_nin,
    "resnet13": resnet13,
    "resnet18": resnet18,
}

#: Trained networks that come with the package: the name of the model, and its weights file.
PRETRAINED: dict[str, tuple[str, str]] = {
    "fonts-plain": ("fonts-cnn", "fonts-plain.safetensors"),
    "fonts-adversarial": ("fonts-cnn", "fonts-adversarial.safetensors"),
}


def build(spec: str, **options: Any) -> nn.Module:
    """A new network with random weights, from torch's global generator.

    spec:    a name in `MODELS`, or `package.module:callable` for a function that returns one.
    options: passed on to it.

    Raises `ValueError` for an unknown name, an unknown option, or a bad value of one.
    """
    factory = resolve(spec) if ":" in spec else MODELS.get(spec)
    if factory is None:
        if spec in PRETRAINED:
            raise ValueError(
                f"{spec!r} is a trained network: use models.load({spec!r}), or build its "
                f"architecture {PRETRAINED[spec][0]!r}"
            )
        raise ValueError(_unknown(spec))
    _check_options(spec, factory, options)
    model = call(spec, factory, **options) if ":" in spec else factory(**options)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec!r} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def load(spec: str, weights: str | Path | None = None, **options: Any) -> nn.Module:
    """A network in evaluation mode, with the weights of a file if one is given.

    spec:    as for `build`, or a name in `PRETRAINED`, which brings its own weights.
    weights: any file or folder that `read_state` reads.

    Raises `ValueError` or `FileNotFoundError` naming what is wrong, and a remedy.
    """
    if spec in PRETRAINED:
        if weights is not None or options:
            raise ValueError(
                f"{spec!r} has its own weights and takes no options; use its architecture, "
                f"{PRETRAINED[spec][0]!r}, with weights or options of yours"
            )
        return pretrained(spec)
    model = build(spec, **options)
    if weights is not None:
        load_state(model, read_state(weights), weights)
    return model.eval()


def pretrained(name: str) -> nn.Module:
    """A network of `PRETRAINED`, in evaluation mode. Its file's metadata tell how it was made."""
    file = weights_file(name)
    return load(PRETRAINED[name][0], file)


def weights_file(name: str) -> Path:
    """The weights file of a network of `PRETRAINED`."""
    if name not in PRETRAINED:
        raise ValueError(_unknown(name))
    return Path(__file__).parent / "weights" / PRETRAINED[name][1]


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, [*MODELS, *PRETRAINED], n=3, cutoff=0.5)
    guess = f"did you mean {' or '.join(close)}? " if close else ""
    return (
        f"unknown model {name!r}; {guess}"
        f"known models: {', '.join(MODELS)}; trained: {', '.join(PRETRAINED)}; "
        "your own: package.module:callable"
    )


def _check_options(spec: str, factory: Callable[..., Any], options: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):  # some callables have no signature to check against
        return
    try:
        signature.bind(**options)
    except TypeError as error:
        known = ", ".join(signature.parameters) or "none"
        raise ValueError(f"model {spec!r}: {error}; its options: {known}") from error
