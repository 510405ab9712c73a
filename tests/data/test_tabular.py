"""Iris, Wine, Spambase, digits and two moons."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris, load_wine

from elbowroom.data import load, tabular, two_moons

PARTS = ("train", "test", "val")


def rows(data):
    return {tuple(row) for row in data.x.tolist()}


def check_standardised(parts):
    train = parts[0].x.double()
    assert train.mean(dim=0).abs().max() < 1e-5
    assert (train.std(dim=0, correction=0) - 1).abs().max() < 1e-5
    everything = torch.cat([part.x for part in parts])
    for part in parts:
        lower, upper = part.bounds
        assert torch.equal(lower, everything.amin(dim=0))
        assert torch.equal(upper, everything.amax(dim=0))


@pytest.mark.parametrize(
    ("name", "bunch", "sizes"),
    [("iris", load_iris, (105, 30, 15)), ("wine", load_wine, (125, 35, 18))],
)
def test_iris_and_wine(name, bunch, sizes):
    parts = [load(name, split) for split in PARTS]
    assert tuple(len(part) for part in parts) == sizes
    check_standardised(parts)
    original = bunch()
    assert parts[0].classes == tuple(original.target_names)
    counts = torch.cat([part.y for part in parts]).bincount()
    assert counts.tolist() == np.bincount(original.target).tolist()
    assert not rows(parts[0]) & rows(parts[1])
    assert not rows(parts[0]) & rows(parts[2])


def test_standardising_can_be_undone():
    # x = (f - mean) / std is increasing in f: within a feature the order of values is kept,
    # and the largest value belongs to the flower that has it.
    original = load_iris()
    train = load("iris", "train")
    largest = {
        tuple(row) for row in original.data[original.data[:, 2] == original.data[:, 2].max()]
    }
    assert len(largest) == 1
    scale = (train.bounds[1] - train.bounds[0]).double()
    width = torch.from_numpy(original.data.max(axis=0) - original.data.min(axis=0))
    features = (train.x.double() - train.bounds[0]) / scale * width + torch.from_numpy(
        original.data.min(axis=0)
    )
    known = {tuple(row) for row in original.data.round(3)}
    assert all(tuple(row) in known for row in features.numpy().round(3))


def spambase_text(count=40):
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        features = [f"{value:.2f}" for value in rng.random(57)]
        lines.append(",".join([*features, str(i % 2)]))
    return "\n".join([*lines, lines[0], lines[0], ""])


def test_spambase_rows():
    features, labels = tabular.read_spambase(spambase_text(4))
    assert features.shape == (6, 57)
    assert labels.tolist() == [0, 1, 0, 1, 0, 0]
    assert features[0].tolist() == features[5].tolist()
    assert features[0, 0] == 0.64  # the first number of the generator with seed 0, rounded


@pytest.mark.parametrize(
    ("text", "message"),
    [("1,2,3\n4,5,6\n", "3 columns"), (",".join(["0"] * 57 + ["2"]) + "\n", r"labels \[2\.\]")],
)
def test_other_tables_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        tabular.read_spambase(text)


def test_spambase(real_data):
    parts = [load("spambase", split) for split in PARTS]
    assert [len(part) for part in parts] == pytest.approx(
        [0.7 * 4601, 0.2 * 4601, 0.1 * 4601], abs=5
    )
    assert sum(len(part) for part in parts) == 4601
    assert torch.cat([part.y for part in parts]).bincount().tolist() == [2788, 1813]
    for part in parts:
        assert part.y.float().mean().item() == pytest.approx(1813 / 4601, abs=0.005)
    check_standardised(parts)
    distinct = [rows(part) for part in parts]
    assert len(set.union(*distinct)) == 4601 - 394
    assert sum(len(part) for part in distinct) == 4601 - 394  # so none is on two sides


def test_digits():
    train, test = load("digits", "train"), load("digits", "test")
    assert len(train) + len(test) == 1797
    assert test.shape == (1, 8, 8)
    assert test.bounds == (0.0, 1.0)
    assert torch.equal(train.x * 16, (train.x * 16).round())
    assert train.x.max() == 1
    assert all(34 <= count <= 38 for count in test.y.bincount().tolist())


def test_two_moons_prefix_and_shape():
    few, many = load("two-moons", "test", 30), load("two-moons", "test", 400)
    assert torch.equal(few.x, many.x[:30])
    assert many.y.bincount().tolist() == [200, 200]
    assert not torch.equal(few.x, load("two-moons", "train", 30).x)
    lower, upper = many.bounds
    assert lower.tolist() == list(two_moons.LOWER)
    assert upper.tolist() == list(two_moons.UPPER)
    centre = torch.stack([torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.5])])[many.y]
    radius = (many.x - centre).norm(dim=1)
    # Noise of 0.1 in the plane: the mean radius of a circle of radius 1 grows by 0.1^2 / 2.
    assert radius.mean().item() == pytest.approx(1.005, abs=0.02)
    assert radius.std().item() == pytest.approx(0.1, abs=0.015)
    upper_moon = many.x[many.y == 0]
    assert (upper_moon[:, 1] > -0.5).all()
    assert upper_moon[:, 1].mean().item() == pytest.approx(2 / torch.pi, abs=0.08)


def test_two_moons_negative_count():
    with pytest.raises(ValueError, match="must not be negative"):
        two_moons.generate("test", -1)


@pytest.mark.parametrize("name", ["iris", "wine", "digits", "two-moons"])
def test_unknown_split(name):
    with pytest.raises(ValueError, match=f"{name} has no split 'tset'; it has train, test"):
        load(name, "tset")
