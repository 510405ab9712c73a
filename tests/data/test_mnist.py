"""IDX files: true ones, broken ones, and MNIST itself where it is."""

import gzip
import hashlib
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from elbowroom.data import load
from elbowroom.data.fetch import RemoteFile
from elbowroom.data.mnist import EMNIST_DIGITS, FASHION_MNIST, MNIST, IdxFiles, read_idx


def idx(values):
    header = b"\x00\x00\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.numpy().tobytes()


IMAGES = (torch.arange(3 * 4 * 5) * 4).to(torch.uint8).reshape(3, 4, 5)
LABELS = torch.tensor([2, 0, 1], dtype=torch.uint8)


def test_values_and_shape():
    assert torch.equal(read_idx(idx(IMAGES)), IMAGES)
    assert torch.equal(read_idx(idx(LABELS)), LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(IMAGES)[:-1], "should hold 60 values .* it holds 59"),
        (idx(IMAGES) + b"\x00", "it holds 61"),
        (idx(IMAGES)[:10], "header of 16 bytes"),
        (b"\x00\x00\x0d" + idx(IMAGES)[3:], "begins with 00 00 0d 03"),
        (b"\x1f\x8b\x08\x00", "begins with 1f 8b"),
        (b"", "not an IDX file"),
    ],
)
def test_broken_files(content, message):
    with pytest.raises(ValueError, match=message):
        read_idx(content, "name")


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """An IDX data set of three samples in a local mirror."""
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path))
    files = []
    for name, values in (("images.gz", IMAGES), ("labels.gz", LABELS)):
        (tmp_path / name).write_bytes(gzip.compress(idx(values)))
        files.append(RemoteFile(name, hashlib.sha256(idx(values)).hexdigest()))
    return IdxFiles("tiny", {"test": tuple(files)}, ("a", "b", "c"), "made up")


def test_load_scales_and_adds_the_channel(tiny):
    data = tiny.load("test")
    assert data.x.shape == (3, 1, 4, 5)
    assert torch.equal(data.x[:, 0], IMAGES / 255)
    assert data.y.tolist() == [2, 0, 1]
    assert data.bounds == (0.0, 1.0)


def test_unknown_split(tiny):
    with pytest.raises(ValueError, match="tiny has no split 'train'; it has test"):
        tiny.load("train")


# Counts of the digits 0 to 9 as published.
COUNTS = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist(split, real_data):
    data = load("mnist", split)
    assert data.y.bincount().tolist() == COUNTS[split]
    assert data.shape == (1, 28, 28)
    assert data.x.min() == 0
    assert data.x.max() == 1
    assert data.classes == tuple("0123456789") == MNIST.classes


def test_mnist_first_samples(real_data):
    # The first test digits, as any picture of MNIST shows them.
    assert load("mnist", "test", 10).y.tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_images_that_lie_on_their_side(tiny):
    data = replace(tiny, transposed=True).load("test")
    assert torch.equal(data.x[:, 0], IMAGES.transpose(1, 2) / 255)


@pytest.mark.parametrize("data", [FASHION_MNIST, EMNIST_DIGITS], ids=lambda data: data.name)
def test_files_of_the_other_sets(data, monkeypatch, tmp_path):
    """The true format in a mirror; what is not there is named with its source."""
    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path))
    monkeypatch.setenv("ELBOWROOM_CACHE", str(tmp_path / "cache"))
    images, labels = data.files["test"]
    for file, values in ((images, IMAGES), (labels, LABELS)):
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_bytes(gzip.compress(idx(values), mtime=0))
    if data is FASHION_MNIST:  # each file has its own checksum
        with pytest.raises(ValueError, match="is not the published file"):
            data.load("test")
        return
    found = data.load("test")
    assert found.x.shape == (3, 1, 5, 4)
    assert found.classes[2] == "2"
    assert len({file.url for pair in data.files.values() for file in pair}) == 1


def test_labels_of_fashion_mnist_where_they_are(real_data):
    """The sprite's labels are those of the published files."""
    folder = Path(os.environ["ELBOWROOM_DATA"]) / "fashion-mnist-sprite"
    if not folder.exists():
        pytest.skip("no labels of Fashion-MNIST here")
    for split, count in (("train", 6000), ("test", 1000)):
        file = FASHION_MNIST.files[split][1]
        raw = (folder / Path(file.path).name).read_bytes()
        assert hashlib.md5(raw, usedforsecurity=False).hexdigest() == file.md5
        assert read_idx(gzip.decompress(raw)).bincount().tolist() == [count] * 10
