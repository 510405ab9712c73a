"""Two moons: two interleaved half circles in the plane, with noise."""

from __future__ import annotations

import numpy as np
import torch

from elbowroom.data.dataset import Dataset, unknown_split

SPLITS = ("train", "test")
NOISE = 0.1
LOWER, UPPER = (-1.5, -1.0), (2.5, 1.5)
"""Bounds of the two features: five standard deviations beyond the moons."""


def generate(split: str = "test", count: int = 1000, seed: int = 0) -> Dataset:
    """The first `count` points `(N, 2)`, upper and lower moon in turn.

    Point i depends on (split, seed, i) alone. The upper moon is the unit half circle, the lower
    one is turned round and centred at (1, 0.5); the noise is normal with deviation `NOISE`, and
    the rare point beyond the bounds is moved onto them.
    """
    if split not in SPLITS:
        raise unknown_split("two-moons", split, SPLITS)
    if count < 0:
        raise ValueError(f"two-moons: count must not be negative, it is {count}")
    stream = [seed, SPLITS.index(split)]
    angle = np.pi * np.random.default_rng([*stream, 0]).random(count)
    noise = NOISE * np.random.default_rng([*stream, 1]).standard_normal((count, 2))
    y = np.arange(count) % 2
    side = 1 - 2 * y
    moons = np.stack([side * np.cos(angle) + y, side * np.sin(angle) + y / 2], axis=1)
    lower, upper = torch.tensor(LOWER), torch.tensor(UPPER)
    x = torch.from_numpy(moons + noise).float().clamp(lower, upper)
    labels = torch.from_numpy(y).long()
    classes = ("upper moon", "lower moon")
    source = "generated, after make_moons of scikit-learn"
    return Dataset("two-moons", split, x, labels, classes, (lower, upper), source)
