"""MNIST and whatever else is published as IDX files.

Another data set of that format (Fashion-MNIST, EMNIST) is one more `IdxFiles` below.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from elbowroom.data.dataset import Dataset, unknown_split
from elbowroom.data.fetch import RemoteFile


def read_idx(content: bytes, name: str = "file") -> Tensor:
    """The uint8 tensor in an uncompressed IDX file.

    Two zero bytes, a type code (8: unsigned byte), the number of dimensions, each dimension as
    a big-endian 32-bit number, then the values. Raises `ValueError` naming what does not fit.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(
            f"{name} is not an IDX file of unsigned bytes: it begins with {content[:4].hex(' ')}"
        )
    rank = content[3]
    start = 4 + 4 * rank
    if rank == 0 or len(content) < start:
        raise ValueError(f"{name} is truncated: its header of {start} bytes is incomplete")
    shape = struct.unpack(f">{rank}I", content[4:start])
    if len(content) - start != prod(shape):
        raise ValueError(
            f"{name} should hold {prod(shape)} values for shape {shape}, "
            f"it holds {len(content) - start}"
        )
    values = np.frombuffer(content, np.uint8, offset=start).reshape(shape)
    return torch.from_numpy(values.copy())


@dataclass(frozen=True)
class IdxFiles:
    """Images and labels of each split, as IDX files."""

    name: str
    files: dict[str, tuple[RemoteFile, RemoteFile]]
    classes: tuple[str, ...]
    source: str

    def load(self, split: str = "test") -> Dataset:
        """Images `(N, 1, H, W)` in [0, 1]. Raises `ValueError` for an unknown split or a file
        that does not fit, `FileNotFoundError` for one that cannot be had."""
        if split not in self.files:
            raise unknown_split(self.name, split, list(self.files))
        images, labels = (read_idx(file.read(), file.path) for file in self.files[split])
        x = images[:, None].float() / 255
        return Dataset(self.name, split, x, labels.long(), self.classes, (0.0, 1.0), self.source)


_OFFICIAL = "https://ossci-datasets.s3.amazonaws.com/mnist/"


def _file(name: str, sha256: str) -> RemoteFile:
    return RemoteFile(f"mnist/{name}", sha256, _OFFICIAL + name, "MNIST")


MNIST = IdxFiles(
    name="mnist",
    files={
        "train": (
            _file(
                "train-images-idx3-ubyte.gz",
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            _file(
                "train-labels-idx1-ubyte.gz",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
        ),
        "test": (
            _file(
                "t10k-images-idx3-ubyte.gz",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            _file(
                "t10k-labels-idx1-ubyte.gz",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ),
    },
    classes=tuple("0123456789"),
    source="MNIST, Y. LeCun, C. Cortes, C. Burges, from NIST SD 3 and SD 1; CC BY-SA 3.0",
)
