"""Weights in files: reading any of the accepted formats, checking, and writing safetensors."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from elbowroom.files import write_atomically

SHOWN_DIFFERENCES = 5


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    path: a `.safetensors` file, a file of `torch.save`, or a folder of `W1.npy`, `B1.npy`,
          `W2.npy`, ... with each `W` of shape (in, out), whose tensors get the names of
          `elbowroom.models.mlp`. A checkpoint that keeps its tensors under `state_dict` is
          unwrapped, and the prefix `module.` of `DataParallel` is dropped.

    Nothing in the file is executed. Raises `FileNotFoundError`, or `ValueError` naming the file
    and a remedy where it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no weights file {str(path)!r}; check the path")
    if path.is_dir():
        return _read_folder(path)
    found = _read_file(path)
    if isinstance(found, Mapping) and isinstance(found.get("state_dict"), Mapping):
        found = found["state_dict"]
    if (
        not isinstance(found, Mapping)
        or not found
        or not all(isinstance(value, Tensor) for value in found.values())
    ):
        raise ValueError(
            f"{str(path)!r} holds {_describe(found)}, not a dictionary of tensors; save the "
            "weights with elbowroom.models.save or torch.save(model.state_dict(), path)"
        )
    state = {str(name): tensor.detach() for name, tensor in found.items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _describe(found: object) -> str:
    if isinstance(found, Mapping):
        return f"a dictionary with the keys {[str(key) for key in found][:SHOWN_DIFFERENCES]}"
    return f"a {type(found).__name__}"


def _read_file(path: Path) -> object:
    with path.open("rb") as file:
        start = file.read(24)
    try:
        if path.suffix == ".safetensors" or start[8:9] == b"{":  # a length, then a JSON object
            return load_file(path, device="cpu")
        if start.startswith((b"PK", b"\x80")):  # a zip archive or a pickle, as torch.save writes
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) and "not have been allowed" not in str(error):
            raise _unreadable(path, error) from error
        raise ValueError(
            f"{str(path)!r} holds Python objects and not only tensors, so it is not read, as that "
            "could run code; where you trust it, load it with torch and save model.state_dict()"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        raise _unreadable(path, error) from error
    if start.startswith(b"version https://git-lfs"):
        raise _unreadable(path, "it is a Git LFS pointer, to be fetched with git lfs pull")
    raise _unreadable(path, f"it starts with {start!r}")


def _unreadable(path: Path, reason: Exception | str) -> ValueError:
    first_line = (str(reason).splitlines() or [""])[0] or type(reason).__name__
    return ValueError(
        f"{str(path)!r} ({path.stat().st_size} bytes) is not a readable weights file, neither "
        f"safetensors nor torch.save: {first_line.split('. ')[0].rstrip('.')}; it may be truncated "
        "or of another format, so fetch or save it again"
    )


def _read_folder(path: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    layer = 1
    while (path / f"W{layer}.npy").exists():
        for letter, name in (("W", "weight"), ("B", "bias")):
            file = path / f"{letter}{layer}.npy"
            if not file.exists():
                raise FileNotFoundError(f"the weights folder {str(path)!r} has no {file.name}")
            try:
                values = torch.from_numpy(np.load(file, allow_pickle=False))
            except (ValueError, TypeError, EOFError, OSError) as error:
                raise _unreadable(file, error) from error
            # Layers of an mlp: flatten, linear, activation, linear, ...
            state[f"{2 * layer - 1}.{name}"] = values.T.contiguous() if letter == "W" else values
        layer += 1
    if not state:
        raise FileNotFoundError(
            f"{str(path)!r} is a folder without W1.npy; give a weights file, or a folder with "
            "W1.npy, B1.npy, W2.npy, ..."
        )
    return state


def load_state(model: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    """Copy `state` into `model`; names and shapes must agree exactly.

    source: where the state is from, for the error. Raises `ValueError` listing the first names
    that differ, with the shapes of both.
    """
    expected = model.state_dict()
    differences = [
        f"{name}: model {_shape(expected.get(name))}, file {_shape(state.get(name))}"
        for name in [*expected, *(name for name in state if name not in expected)]
        if _shape(expected.get(name)) != _shape(state.get(name))
    ]
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        raise ValueError(
            f"the weights in {str(source)!r} do not fit the model; {len(differences)} tensors "
            f"differ: {'; '.join(differences[:SHOWN_DIFFERENCES])}"
            f"{f'; and {more} more' if more > 0 else ''}. Choose the model, and the options "
            "(classes, channels, size, ...), that the weights were trained with"
        )
    model.load_state_dict(dict(state), strict=True)


def _shape(tensor: Tensor | None) -> str:
    return "has none" if tensor is None else str(tuple(tensor.shape))


def save(model: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the weights of `model` as safetensors, with `metadata` in the file's header.

    The file appears whole or not at all. Missing folders are made.
    """
    # A copy of each tensor, as safetensors refuses tensors that share memory.
    state = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    write_atomically(path, serialize(state, metadata=dict(metadata or {})))


def read_metadata(path: str | Path) -> dict[str, str]:
    """What `save` wrote beside the weights; the same errors as `read_state`."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no weights file {str(path)!r}; check the path")
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
