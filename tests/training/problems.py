"""Small data sets and networks to train in a second."""

import torch
from sklearn.datasets import load_digits, make_moons
from torch import nn

from elbowroom.data import Dataset


def moons(split: str, count: int = 400) -> Dataset:
    """Two interleaved half circles, scaled into [0, 1]."""
    x, y = make_moons(count, noise=0.1, random_state=["train", "test"].index(split))
    x = (torch.from_numpy(x).float() + 2) / 5
    return Dataset("moons", split, x, torch.from_numpy(y).long(), ("a", "b"), (0.0, 1.0), "sklearn")


def digits(split: str) -> Dataset:
    """8x8 digits in [0, 1]: the first 1200 to train, the other 597 to test."""
    x, y = load_digits(return_X_y=True)
    rows = slice(1200) if split == "train" else slice(1200, None)
    x = torch.from_numpy(x[rows]).float().reshape(-1, 1, 8, 8) / 16
    classes = tuple("0123456789")
    return Dataset(
        "digits", split, x, torch.from_numpy(y[rows]).long(), classes, (0.0, 1.0), "sklearn"
    )


def seeded(factory, seed: int = 0) -> nn.Module:
    """What `factory` builds when torch's generator has this seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return factory()


def moons_net() -> nn.Module:
    """Batch norm and dropout: the layers that carry state and draw random numbers."""
    return nn.Sequential(
        nn.Linear(2, 32), nn.ReLU(), nn.BatchNorm1d(32), nn.Dropout(0.1), nn.Linear(32, 2)
    )


def digits_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
