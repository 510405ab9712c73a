"""Iris, Wine and Spambase: features in a table, standardised (Bounds thesis, 4.3).

Each is split into 70 % training, 20 % test and 10 % validation data, stratified by class, from a
fixed seed; equal rows always fall on the same side (Spambase has 394 rows with the features of
an earlier one). Features are standardised with mean and standard deviation of the training
part. The bounds are the smallest and largest value of each feature over the whole set.
"""

from __future__ import annotations

import io

import numpy as np
import torch

from elbowroom.data.dataset import Dataset, unknown_split
from elbowroom.data.fetch import RemoteFile
from elbowroom.data.splits import stratified

FRACTIONS = {"train": 0.7, "test": 0.2, "val": 0.1}

SPAMBASE = RemoteFile(
    path="spambase/spambase.data",
    sha256="ebec58cfca94ea61c77df632314acae15bad410f4769d38b1a66cb41050e3431",
    url="https://archive.ics.uci.edu/static/public/94/spambase.zip",
    note="UCI Spambase",
)


def iris(split: str = "test") -> Dataset:
    """Iris: 150 flowers, 4 features (cm), 3 species."""
    from sklearn.datasets import load_iris

    bunch = load_iris()
    source = "Iris, R. A. Fisher 1936, as in scikit-learn; CC BY 4.0 (UCI)"
    return _dataset("iris", split, bunch.data, bunch.target, tuple(bunch.target_names), source)


def wine(split: str = "test") -> Dataset:
    """Wine: 178 wines of three cultivars, 13 chemical features."""
    from sklearn.datasets import load_wine

    bunch = load_wine()
    source = "Wine, M. Forina et al. 1991, as in scikit-learn; CC BY 4.0 (UCI)"
    return _dataset("wine", split, bunch.data, bunch.target, tuple(bunch.target_names), source)


def spambase(split: str = "test") -> Dataset:
    """Spambase: 4601 e-mails, 57 word, character and run-length features, spam or not."""
    features, labels = read_spambase(SPAMBASE.read().decode("ascii"))
    source = "Spambase, M. Hopkins et al. 1999, UCI Machine Learning Repository; CC BY 4.0"
    return _dataset("spambase", split, features, labels, ("not spam", "spam"), source)


def read_spambase(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Features `(N, 57)` and labels `(N,)` from lines of 58 comma-separated numbers.

    Raises `ValueError` for any other table.
    """
    table = np.loadtxt(io.StringIO(text), delimiter=",", ndmin=2)
    if table.shape[1] != 58 or not np.isin(table[:, -1], (0, 1)).all():
        raise ValueError(
            "a Spambase row has 57 features and a label 0 or 1; "
            f"the table has {table.shape[1]} columns and labels {np.unique(table[:, -1])[:5]}"
        )
    return table[:, :-1], table[:, -1].astype(np.int64)


def _dataset(
    name: str,
    split: str,
    features: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    source: str,
) -> Dataset:
    if split not in FRACTIONS:
        raise unknown_split(name, split, list(FRACTIONS))
    _, copies = np.unique(features, axis=0, return_inverse=True)
    parts = stratified(labels, FRACTIONS, copies.reshape(-1))
    train = features[parts["train"]]
    # Rounded to float32 before the bounds are taken, so that every sample lies inside them.
    x = torch.from_numpy((features - train.mean(axis=0)) / train.std(axis=0)).float()
    bounds = (x.amin(dim=0), x.amax(dim=0))
    chosen = torch.from_numpy(parts[split])
    y = torch.from_numpy(labels).long()
    names = tuple(str(c) for c in classes)
    return Dataset(name, split, x[chosen], y[chosen], names, bounds, source)
