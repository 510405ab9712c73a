"""Data sets by name, from files, or from your own function."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from elbowroom.data import celeba, cifar10_jpeg, digits, fonts, own, tabular, two_moons
from elbowroom.data.dataset import Dataset
from elbowroom.data.fetch import report_progress
from elbowroom.data.mnist import EMNIST_DIGITS, FASHION_MNIST, MNIST
from elbowroom.imports import is_reference

__all__ = ["COUNTED", "DATASETS", "Dataset", "load", "report_progress"]

DATASETS: dict[str, Callable[[str], Dataset]] = {
    "fonts": fonts.generate,
    "mnist": MNIST.load,
    "fashion-mnist": FASHION_MNIST.load,
    "emnist-digits": EMNIST_DIGITS.load,
    "celeba": celeba.load,
    "cifar10-jpeg75": cifar10_jpeg.load,
    "digits": digits.load,
    "iris": tabular.iris,
    "wine": tabular.wine,
    "spambase": tabular.spambase,
    "two-moons": two_moons.generate,
}
"""Name -> loader(split). A new data set is one entry here."""

COUNTED: dict[str, Callable[[str, int], Dataset]] = {
    "celeba": celeba.load,
    "fonts": fonts.generate,
    "two-moons": two_moons.generate,
}
"""Those of `DATASETS` that make or read as many samples as they are asked for: (split, count)."""


def load(spec: str, split: str = "test", count: int | None = None) -> Dataset:
    """The data set `spec`, or its first `count` samples.

    spec: a name in `DATASETS`; a path to an .npz file with arrays x and y, or to a folder of
          images with one sub-folder per class; or `package.module:callable`, which is called
          with the split and returns a `Dataset` or a pair (x, y). See `elbowroom.data.own`.

    Raises `ValueError` for a name or split that does not exist, listing those that do, and for
    data that do not fit; `FileNotFoundError` for files that cannot be had, saying what to put
    where.
    """
    if spec in COUNTED and count is not None:
        return COUNTED[spec](split, count)
    dataset = _load_all(spec, split)
    return dataset if count is None else dataset.take(count)


def _load_all(spec: str, split: str) -> Dataset:
    path = Path(spec)
    if spec in DATASETS:
        return DATASETS[spec](split)
    if path.suffix == ".npz":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {spec}")
        return own.from_npz(path, split)
    if path.is_dir():
        return own.from_folder(path, split)
    if is_reference(spec):
        return own.from_callable(spec, split)
    close = difflib.get_close_matches(spec, DATASETS, n=3, cutoff=0.5)
    guess = f"Did you mean {' or '.join(close)}? " if close else ""
    raise ValueError(
        f"unknown data set {spec!r}. {guess}The names are {', '.join(DATASETS)}; "
        "or give an .npz file, a folder of images, or package.module:callable"
    )
