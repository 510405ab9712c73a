"""Stratified splits with groups, and the order of sorted sets."""

import numpy as np
import pytest

from elbowroom.data.splits import interleaved, stratified

FRACTIONS = {"train": 0.7, "test": 0.2, "val": 0.1}


def test_every_class_is_divided_by_the_fractions():
    labels = np.repeat([0, 1, 2], [100, 50, 10])
    parts = stratified(labels, FRACTIONS)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(160))
    counts = {name: np.bincount(labels[part], minlength=3).tolist() for name, part in parts.items()}
    assert counts == {"train": [70, 35, 7], "test": [20, 10, 2], "val": [10, 5, 1]}


def test_shuffled_and_the_same_every_time():
    labels = np.zeros(50, dtype=int)
    first, second = stratified(labels, FRACTIONS), stratified(labels, FRACTIONS)
    assert first["train"].tolist() == second["train"].tolist()
    assert first["train"].tolist() != sorted(first["train"].tolist())


def test_groups_stay_together_and_sizes_stay_close():
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 300, size=1000)
    labels = groups % 2
    parts = stratified(labels, FRACTIONS, groups)
    assert sum(len(set(groups[part])) for part in parts.values()) == len(set(groups))
    for name, part in parts.items():
        for label in (0, 1):
            share = (labels[part] == label).sum() / (labels == label).sum()
            assert share == pytest.approx(FRACTIONS[name], abs=0.02)


def test_interleaved_takes_classes_in_turn():
    assert interleaved([0, 0, 0, 1, 2, 2]).tolist() == [0, 3, 4, 1, 5, 2]
    assert interleaved([1, 0, 1]).tolist() == [1, 0, 2]
