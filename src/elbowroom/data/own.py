"""Your own data: an .npz file, a folder of images, or a function."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from elbowroom.data.dataset import Bounds, Dataset, unknown_split
from elbowroom.data.splits import interleaved
from elbowroom.files import write_atomically
from elbowroom.imports import call, resolve

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".pgm", ".ppm"}
COLOUR_MODES = {"RGB", "RGBA", "P", "CMYK", "YCbCr"}


def from_arrays(
    x: Any,
    y: Any,
    *,
    name: str,
    split: str,
    source: str,
    classes: Sequence[str] | None = None,
    bounds: Any | None = None,
) -> Dataset:
    """A data set from arrays or tensors.

    x:       `(N, *shape)` as the model takes it. uint8 is divided by 255 and its bounds are
             (0, 1); floating point is taken as it is.
    y:       `(N,)` whole numbers.
    classes: names; "0", "1", ... by default.
    bounds:  (lower, upper), scalars or of the shape of a sample, after the division; may be left
             out where x lies in [0, 1].

    Raises `ValueError` for any other dtype, or missing bounds.
    """
    x, y = (torch.as_tensor(values) for values in (x, y))
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise ValueError(f"{name}: y must be whole numbers, not {y.dtype}")
    if x.dtype == torch.uint8:
        x = x.float() / 255
    elif not x.dtype.is_floating_point:
        raise ValueError(f"{name}: x must be uint8 or floating point, not {x.dtype}")
    x, y = x.float(), y.long()
    if not len(x):
        raise ValueError(f"{name}: there are no samples in x")
    finite = x.reshape(len(x), -1).isfinite().all(dim=1)
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0])
        raise ValueError(f"{name}: sample {first} has NaN or infinite values")
    if len(y) and int(y.min()) < 0:
        raise ValueError(f"{name}: labels must not be negative, the smallest is {int(y.min())}")
    limits: Bounds = (0.0, 1.0)
    if bounds is not None:
        if len(bounds) != 2:
            raise ValueError(f"{name}: bounds must be (lower, upper), not {len(bounds)} values")
        lower, upper = (torch.as_tensor(bound).float() for bound in bounds)
        limits = (lower, upper) if lower.ndim else (lower.item(), upper.item())
    elif not bool(((x >= 0) & (x <= 1)).all()):
        raise ValueError(
            f"{name}: x runs from {x.min().item():g} to {x.max().item():g}, so bounds are needed"
        )
    if classes is None:
        classes = [str(label) for label in range(int(y.max()) + 1 if len(y) else 0)]
    return Dataset(name, split, x, y, tuple(str(c) for c in classes), limits, source)


def from_npz(path: Path, split: str) -> Dataset:
    """The arrays `x` and `y` of an .npz file, and `classes` and `bounds` if it has them.

    They are read as `from_arrays` says; `bounds` has shape `(2,)` or `(2, *shape)`. The file
    holds one split, whatever it is called. Raises `ValueError` for a missing array, or one of
    Python objects, which could run code when it is read.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held = sorted(file.files)
            arrays = {key: file[key] for key in ("x", "y", "classes", "bounds") if key in held}
    except (ValueError, OSError, EOFError, AttributeError, BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as plain arrays: {error}") from error
    if not {"x", "y"} <= set(arrays):
        raise ValueError(
            f"{path} must hold the arrays x and y; it holds {', '.join(held) or 'nothing'}"
        )
    x, y = arrays.pop("x"), arrays.pop("y")
    return from_arrays(x, y, name=path.stem, split=split, source=str(path), **arrays)


def to_npz(data: Dataset, path: str | Path) -> None:
    """Save a data set in the form `from_npz` reads. Raises `OSError` if it cannot be written."""
    bounds = np.stack(
        [np.broadcast_to(np.asarray(bound, np.float32), data.shape) for bound in data.bounds]
    )
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        x=data.x.numpy(),
        y=data.y.numpy(),
        classes=np.array(data.classes, dtype=np.str_),
        bounds=bounds,
    )
    write_atomically(path, buffer.getvalue())


def from_folder(path: Path, split: str) -> Dataset:
    """Images `(N, C, H, W)` in [0, 1] of a folder with one sub-folder per class.

    If there are sub-folders train, val or test, the classes lie in them; if not, the folder holds
    one split, whatever it is called. Classes are in alphabetical order, the images one of each
    class in turn. A set with any colour image is read as RGB, else as grey; transparency is
    dropped. Raises `ValueError` naming an image that cannot be read or has another size.
    """
    known = [name for name in SPLITS if (path / name).is_dir()]
    if known and split not in known:
        raise unknown_split(str(path), split, known)
    # Over all splits: a class without images in one of them must not shift the labels.
    roots = [path / name for name in known] or [path]
    classes = sorted({folder.name for root in roots for folder in root.iterdir() if _shown(folder)})
    root = path / split if known else path
    files = [
        (label, file)
        for label, folder in enumerate(classes)
        for file in sorted((root / folder).glob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]
    if not files:
        raise ValueError(f"{root} has no sub-folders with images, one per class")
    order = interleaved([label for label, _ in files])
    images = _read_images([files[i][1] for i in order])
    y = torch.tensor([files[i][0] for i in order])
    return Dataset(path.name, split, images, y, tuple(classes), (0.0, 1.0), str(path))


def from_callable(reference: str, split: str) -> Dataset:
    """What `package.module:callable` returns when called with the split.

    A `Dataset`, or a pair (x, y) as `from_arrays` takes it. Raises `ValueError` for anything
    else.
    """
    result = call(reference, resolve(reference), split)
    if isinstance(result, Dataset):
        return result
    if isinstance(result, tuple) and len(result) == 2:
        x, y = result
        return from_arrays(x, y, name=reference, split=split, source=reference)
    raise ValueError(
        f"{reference} must return a Dataset or a pair (x, y), not {type(result).__name__}"
    )


def _shown(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def _read_images(files: list[Path]) -> Tensor:
    arrays = [_read_image(file) for file in files]
    colour = any(array.ndim == 3 for array in arrays)
    first = arrays[0].shape[:2]
    for file, array in zip(files, arrays, strict=True):
        if array.shape[:2] != first:
            height, width = array.shape[:2]
            raise ValueError(
                f"{file} has {width}x{height} pixels, {files[0]} has {first[1]}x{first[0]}: "
                "all images must have one size"
            )
    if colour:
        arrays = [a if a.ndim == 3 else np.repeat(a[:, :, None], 3, axis=2) for a in arrays]
    stacked = torch.from_numpy(np.stack(arrays))
    stacked = stacked.permute(0, 3, 1, 2) if colour else stacked[:, None]
    return stacked.float() / 255


def _read_image(file: Path) -> np.ndarray:
    """Pixels `(H, W)` of a grey or `(H, W, 3)` of a colour image, uint8."""
    try:
        with Image.open(file) as image:
            if image.mode in COLOUR_MODES:
                return np.asarray(image.convert("RGB"))
            if image.mode in {"1", "L", "LA"}:
                return np.asarray(image.convert("L"))
            raise ValueError(f"{file} has mode {image.mode}; only 8-bit images are read")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{file} cannot be read as an image: {error}") from error
