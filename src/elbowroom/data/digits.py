"""Digits: 1,797 handwritten digits of 8x8 pixels, part of scikit-learn."""

from __future__ import annotations

import torch

from elbowroom.data.dataset import Dataset, unknown_split
from elbowroom.data.splits import stratified

FRACTIONS = {"train": 0.8, "test": 0.2}
SOURCE = "Optical Recognition of Handwritten Digits, UCI, as in scikit-learn; CC BY 4.0"


def load(split: str = "test") -> Dataset:
    """Images `(N, 1, 8, 8)` in [0, 1]; 80 % training and 20 % test data, stratified."""
    from sklearn.datasets import load_digits

    if split not in FRACTIONS:
        raise unknown_split("digits", split, list(FRACTIONS))
    bunch = load_digits()
    chosen = stratified(bunch.target, FRACTIONS)[split]
    # A pixel counts the dark points of a 4x4 block: 0 to 16.
    x = torch.from_numpy(bunch.images[chosen]).float()[:, None] / 16
    y = torch.from_numpy(bunch.target[chosen]).long()
    return Dataset("digits", split, x, y, tuple("0123456789"), (0.0, 1.0), SOURCE)
