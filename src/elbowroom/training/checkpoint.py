"""The state of an unfinished training run in one file."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elbowroom.data import Dataset
from elbowroom.files import write_atomically

FILE = "checkpoint.pt"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after some whole epochs.

    identity:   everything that determines the result, in words: settings, objective, data, model.
    state_dict: of the model; `elbowroom.models.load` reads it too.
    optimizer:  the state of the optimizer.
    history:    one dictionary of numbers for each finished epoch.
    """

    identity: dict[str, str]
    state_dict: dict[str, Tensor]
    optimizer: dict[str, Any]
    history: list[dict[str, Any]]

    def write(self, folder: Path) -> None:
        """Write into `folder`, whole or not at all."""
        buffer = io.BytesIO()
        torch.save(vars(self), buffer)
        write_atomically(folder / FILE, buffer.getvalue())

    @staticmethod
    def read(folder: Path) -> Checkpoint | None:
        """The checkpoint in `folder`, or None; `ValueError` for one that is broken."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            return Checkpoint(**torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # whatever torch.load makes of foreign bytes
            first_line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"{str(path)!r} is not a readable checkpoint ({first_line}); delete it to start "
                "the run anew, or train into another folder"
            ) from error

    @staticmethod
    def resumed(folder: Path | None, identity: Mapping[str, str]) -> Checkpoint | None:
        """The checkpoint to go on from, if the folder has one; the folder is made if missing.

        Raises `ValueError` for a broken one, and for that of another run.
        """
        if folder is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint = Checkpoint.read(folder)
        if checkpoint is not None:
            checkpoint.require(identity, folder)
        return checkpoint

    def require(self, identity: Mapping[str, str], folder: Path) -> None:
        """Raise `ValueError` naming every field in which `identity` differs from this run's."""
        names = [*identity, *(name for name in self.identity if name not in identity)]
        changes = [
            f"{name} was {_short(self.identity.get(name))}, is now {_short(identity.get(name))}"
            for name in names
            if self.identity.get(name) != identity.get(name)
        ]
        if changes:
            raise ValueError(
                f"{str(folder)!r} holds a run with other settings: {'; '.join(changes)}. Resume "
                "it with its own settings, or train into another folder"
            )


def _short(value: str | None) -> str:
    if value is None:
        return "not set"
    # A long value, such as an architecture, is told apart by its digest.
    digest = hashlib.sha256(value.encode()).hexdigest()
    return value if len(value) <= 60 else f"{value[:40]}... ({digest[:16]})"


def fingerprint(data: Dataset) -> str:
    """The name, size and a digest of the content of a data set."""
    sha = hashlib.sha256()
    for tensor in (data.x, data.y):
        sha.update(tensor.contiguous().numpy().data)
    return f"{data.name}/{data.split}, {len(data)} samples, SHA-256 {sha.hexdigest()[:16]}"
