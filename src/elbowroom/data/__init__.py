"""Data sets by name, from files, or from your own function."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from elbowroom.data import fonts
from elbowroom.data.dataset import Dataset
from elbowroom.data.fetch import report_progress
from elbowroom.data.mnist import MNIST

__all__ = ["DATASETS", "Dataset", "load", "report_progress"]

DATASETS: dict[str, Callable[[str], Dataset]] = {
    "fonts": fonts.generate,
    "mnist": MNIST.load,
}
"""Name -> loader(split). A new data set is one entry here."""

GENERATED: dict[str, Callable[[str, int], Dataset]] = {
    "fonts": fonts.generate,
}
"""Those of `DATASETS` that make as many samples as they are asked for: (split, count)."""


def load(spec: str, split: str = "test", count: int | None = None) -> Dataset:
    """The data set `spec`, or its first `count` samples.

    spec: a name in `DATASETS`.

    Raises `ValueError` for a name or split that does not exist, listing those that do.
    """
    if spec in GENERATED and count is not None:
        return GENERATED[spec](split, count)
    if spec not in DATASETS:
        raise _unknown(spec)
    dataset = DATASETS[spec](split)
    return dataset if count is None else dataset.take(count)


def _unknown(spec: str) -> ValueError:
    close = difflib.get_close_matches(spec, DATASETS, n=3, cutoff=0.5)
    guess = f"Did you mean {' or '.join(close)}? " if close else ""
    return ValueError(f"unknown data set {spec!r}. {guess}The names are {', '.join(DATASETS)}")
