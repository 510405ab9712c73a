"""What a Dataset accepts, and what it says about the rest."""

import pytest
import torch

from elbowroom.data.dataset import Dataset


def dataset(**changes):
    fields = {
        "name": "tiny",
        "split": "test",
        "x": torch.tensor([[0.0, 0.5], [1.0, 0.25], [0.5, 0.5]]),
        "y": torch.tensor([0, 1, 1]),
        "classes": ("no", "yes"),
        "bounds": (0.0, 1.0),
        "source": "made up",
    }
    return Dataset(**(fields | changes))


def test_length_and_shape():
    assert len(dataset()) == 3
    assert dataset().shape == (2,)


def test_take_first_and_by_index():
    assert dataset().take(2).y.tolist() == [0, 1]
    taken = dataset().take([2, 0])
    assert taken.x.tolist() == [[0.5, 0.5], [0.0, 0.5]]
    assert taken.y.tolist() == [1, 0]
    assert dataset().take(torch.tensor([1])).classes == ("no", "yes")
    assert len(dataset().take([])) == len(dataset().take(0)) == 0


@pytest.mark.parametrize("which", [4, -1, [3], [0, -1]])
def test_take_more_than_there_is(which):
    with pytest.raises(ValueError, match="has 3 samples"):
        dataset().take(which)


def test_bounds_per_feature():
    limits = (torch.tensor([0.0, 0.25]), torch.tensor([1.0, 0.5]))
    assert len(dataset(bounds=limits)) == 3
    with pytest.raises(ValueError, match="inside the bounds"):
        dataset(bounds=(limits[0], torch.tensor([1.0, 0.4])))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(3, 2, dtype=torch.float64)}, "float64"),
        ({"y": torch.zeros(3, dtype=torch.int32)}, "int32"),
        ({"y": torch.zeros(2, dtype=torch.int64)}, r"\(3, 2\) and \(2,\)"),
        ({"x": torch.zeros(3)}, r"\(N, \*shape\)"),
        ({"y": torch.tensor([0, 1, 2])}, "from 0 to 2, but there are 2 classes"),
        ({"y": torch.tensor([0, -1, 1])}, "from -1 to 1"),
        ({"bounds": (0.0, 0.9)}, "runs from 0 to 1"),
        ({"bounds": (0.1, 1.0)}, "runs from 0 to 1"),
        ({"bounds": (1.0, 0.0)}, "must not exceed"),
        ({"bounds": (torch.zeros(3), torch.ones(3))}, r"shape of a sample \(2,\), not \(3,\)"),
        ({"x": torch.tensor([[0.0, float("nan")]] * 3)}, "finite"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataset(**changes)
