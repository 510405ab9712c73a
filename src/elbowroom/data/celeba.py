"""CelebA, small: aligned faces resized to 56x48, "Female" or "Male" (Manifold, 3.1)."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from elbowroom.data.dataset import Dataset, unknown_split
from elbowroom.data.fetch import RemoteFile

NAME = "celeba"
SIZE = (56, 48)  # height, width
CLASSES = ("Female", "Male")
ATTRIBUTE = "Male"
SOURCE = "CelebA (Z. Liu, P. Luo, X. Wang, X. Tang 2015), resized; for non-commercial research only"
# The paper's 182,000 training images are those that the authors of CelebA call train and val.
PARTITIONS = {"train": (0, 1), "test": (2,)}
_NOTE = "from mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
IMAGES = RemoteFile(
    "celeba/img_align_celeba.zip", None, None, _NOTE, "00d2c5bc6d35e252742224ab0c1e8fcb"
)
ATTRIBUTES = RemoteFile(
    "celeba/list_attr_celeba.txt", None, None, _NOTE, "75e246fa4810816ffd6ee81facbd2c4c"
)
PARTITION = RemoteFile(
    "celeba/list_eval_partition.txt", None, None, _NOTE, "d32c9cbf5e040fd4025c592c306e6668"
)


def load(split: str = "test", count: int | None = None) -> Dataset:
    """Images `(N, 3, 56, 48)` in [0, 1], the first `count` of the split: all take 6 GB of memory.

    Raises `ValueError` for an unknown split, too large a count or files that do not fit,
    `FileNotFoundError` saying what is needed where.
    """
    if split not in PARTITIONS:
        raise unknown_split(NAME, split, list(PARTITIONS))
    names = _names(PARTITION.read().decode(), PARTITIONS[split])
    if count is not None and count > len(names):
        raise ValueError(f"{NAME} ({split}) has {len(names)} samples, not {count}")
    names = names[:count]
    labels = _labels(ATTRIBUTES.read().decode(), names)
    x = _images(IMAGES.read(), names)
    return Dataset(NAME, split, x, labels, CLASSES, (0.0, 1.0), SOURCE)


def _names(text: str, partitions: tuple[int, ...]) -> list[str]:
    """Files of the partitions: lines `000001.jpg 0`."""
    rows = [line.split() for line in text.splitlines() if line.strip()]
    wrong = [row for row in rows if len(row) != 2 or not row[1].isdigit()]
    if wrong:
        raise ValueError(
            f"{PARTITION.path} has the line {' '.join(wrong[0])!r}: no file and number"
        )
    return [name for name, number in rows if int(number) in partitions]


def _labels(text: str, names: list[str]) -> Tensor:
    """Of `names`: after the number of images and the attributes' names, a line for each image has
    its name and 1 or -1 for each attribute.
    """
    lines = text.splitlines()
    attributes = lines[1].split() if len(lines) > 1 else []
    if ATTRIBUTE not in attributes:
        raise ValueError(f"{ATTRIBUTES.path} has no attribute {ATTRIBUTE!r} in its second line")
    column = 1 + attributes.index(ATTRIBUTE)
    rows = [line.split() for line in lines[2:] if line.strip()]
    found = {row[0]: row[column] for row in rows if len(row) == 1 + len(attributes)}
    missing = [name for name in names if found.get(name) not in ("1", "-1")]
    if missing:
        raise ValueError(f"{ATTRIBUTES.path} does not say {ATTRIBUTE!r} of {missing[0]}")
    return torch.tensor([int(found[name] == "1") for name in names], dtype=torch.int64)


def _images(content: bytes, names: list[str]) -> Tensor:
    height, width = SIZE
    found = torch.empty(len(names), 3, height, width)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for row, name in enumerate(names):
                with Image.open(io.BytesIO(archive.read(f"img_align_celeba/{name}"))) as image:
                    small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
                found[row] = torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255
    except (zipfile.BadZipFile, KeyError, UnidentifiedImageError) as error:
        raise ValueError(f"{IMAGES.path} does not hold the images: {error}") from error
    return found
