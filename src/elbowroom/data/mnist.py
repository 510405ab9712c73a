"""MNIST and whatever else is published as IDX files: Fashion-MNIST, EMNIST.

Another data set of that format is one more `IdxFiles` below.
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
    """Images and labels of each split, as IDX files.

    transposed: whether rows and columns of the images are exchanged in the files.
    """

    name: str
    files: dict[str, tuple[RemoteFile, RemoteFile]]
    classes: tuple[str, ...]
    source: str
    transposed: bool = False

    def load(self, split: str = "test") -> Dataset:
        """Images `(N, 1, H, W)` in [0, 1]. Raises `ValueError` for an unknown split or a file
        that does not fit, `FileNotFoundError` for one that cannot be had."""
        if split not in self.files:
            raise unknown_split(self.name, split, list(self.files))
        images, labels = (read_idx(file.read(), file.path) for file in self.files[split])
        if self.transposed:
            images = images.transpose(1, 2)
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

_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


def _fashion(name: str, md5: str) -> RemoteFile:
    return RemoteFile(f"fashion-mnist/{name}", None, _FASHION + name, "Fashion-MNIST", md5)


FASHION_MNIST = IdxFiles(
    name="fashion-mnist",
    files={
        "train": (
            _fashion("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            _fashion("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        ),
        "test": (
            _fashion("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
            _fashion("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    },
    classes=(
        "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
        "ankle boot",
    ),
    source="Fashion-MNIST, Zalando Research (H. Xiao, K. Rasul, R. Vollgraf 2017); MIT",
)  # fmt: skip

_EMNIST, _EMNIST_MD5 = (
    "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip",
    "58c8d27c78d21e728a6bc7b3cc06412e",
)


def _emnist(name: str) -> RemoteFile:
    note = "EMNIST, a download of 560 MB"
    return RemoteFile(f"emnist/emnist-digits-{name}.gz", None, _EMNIST, note, _EMNIST_MD5)


EMNIST_DIGITS = IdxFiles(
    name="emnist-digits",
    files={
        "train": (_emnist("train-images-idx3-ubyte"), _emnist("train-labels-idx1-ubyte")),
        "test": (_emnist("test-images-idx3-ubyte"), _emnist("test-labels-idx1-ubyte")),
    },
    classes=tuple("0123456789"),
    source="EMNIST (digits), G. Cohen, S. Afshar, J. Tapson, A. van Schaik 2017, from NIST SD 19",
    transposed=True,
)
