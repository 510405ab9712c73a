"""Weights files: every accepted format, and every way a file can be wrong."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from elbowroom import models

NAME = "wong-kolter-mnist"


@pytest.fixture
def model():
    return models.load(NAME)


def assert_same(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_save_and_load_with_metadata(model, tmp_path):
    path = tmp_path / "new" / "w.safetensors"
    models.save(model, path, {"seed": "7"})
    assert_same(models.load(NAME, path), model)
    assert models.read_metadata(path) == {"seed": "7"}
    assert os.listdir(path.parent) == ["w.safetensors"]


def test_a_failed_save_keeps_the_old_file(model, tmp_path):
    path = tmp_path / "w.safetensors"
    models.save(model, path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        models.save(model, path, {"seed": 7})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "module", "both", "legacy"])
def test_torch_checkpoints(model, tmp_path, wrap):
    state = dict(model.state_dict())
    if wrap in ("module", "both"):
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    checkpoint = {"state_dict": state, "epoch": 3} if wrap in ("state_dict", "both") else state
    torch.save(checkpoint, tmp_path / "w", _use_new_zipfile_serialization=wrap != "legacy")
    assert_same(models.load(NAME, tmp_path / "w"), model)


def test_a_folder_of_npy_files(tmp_path):
    rng = np.random.default_rng(0)
    sizes = (4, 5, 3)
    x = rng.normal(size=(7, 4)).astype(np.float32)
    expected = x
    for i in (1, 2):
        w = rng.normal(size=sizes[i - 1 : i + 1]).astype(np.float32)
        b = rng.normal(size=sizes[i]).astype(np.float32)
        np.save(tmp_path / f"W{i}.npy", w)
        np.save(tmp_path / f"B{i}.npy", b)
        expected = (expected if i == 1 else np.maximum(expected, 0)) @ w + b
    found = models.load("mlp", tmp_path, sizes=sizes)(torch.from_numpy(x))
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    (tmp_path / "B2.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no B2\.npy"):
        models.read_state(tmp_path)


class TestBadFiles:
    def read(self, path, error, *parts):
        with pytest.raises(error) as caught:
            models.read_state(path)
        for part in (path.name, *parts):
            assert part in str(caught.value)

    def test_missing(self, tmp_path):
        self.read(tmp_path / "none.pth", FileNotFoundError, "check the path")
        with pytest.raises(FileNotFoundError, match="none"):
            models.read_metadata(tmp_path / "none.safetensors")

    def test_empty_folder(self, tmp_path):
        self.read(tmp_path, FileNotFoundError, "without W1.npy")

    @pytest.mark.parametrize(
        "content", [b"", b"hello, this is no weights file", b"<!DOCTYPE html>"]
    )
    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_other_content(self, tmp_path, content, suffix):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(content)
        self.read(path, ValueError, "not a readable weights file", "of another format")

    def test_git_lfs_pointer(self, tmp_path):
        path = tmp_path / "w.pth"
        path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        self.read(path, ValueError, "git lfs pull")

    @pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
    def test_truncated(self, model, tmp_path, kind):
        path = tmp_path / f"w.{kind}"
        if kind == "safetensors":
            models.save(model, path)
        else:
            torch.save(model.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
        content = path.read_bytes()
        for keep in (len(content) // 2, 100, 8):
            path.write_bytes(content[:keep])
            self.read(path, ValueError, "truncated", f"({keep} bytes)")
        if kind == "safetensors":
            with pytest.raises(ValueError, match="truncated"):
                models.read_metadata(path)

    def test_pickled_objects_are_refused_unread(self, model, tmp_path):
        path = tmp_path / "w.pth"
        torch.save(model, path)
        self.read(path, ValueError, "could run code", "state_dict()")

    @pytest.mark.parametrize("content", [[1.0], {}, {"weights": {"a": 1}}])
    def test_no_tensors(self, tmp_path, content):
        path = tmp_path / "w.pth"
        torch.save(content, path)
        self.read(path, ValueError, "not a dictionary of tensors", "models.save")

    def test_damaged_npy(self, tmp_path):
        (tmp_path / "W1.npy").write_bytes(b"no array")
        self.read(tmp_path, ValueError, "W1.npy")


def test_names_and_shapes_that_differ_are_listed(model, tmp_path):
    state = dict(model.state_dict())
    state["7.weight"] = torch.zeros(43, 100)
    state["9.weight"] = state.pop("0.bias")
    path = tmp_path / "w.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match="3 tensors differ") as caught:
        models.load(NAME, path)
    message = str(caught.value)
    assert "w.pth" in message
    assert "7.weight: model (10, 100), file (43, 100)" in message
    assert "0.bias: model (16,), file has none" in message
    assert "9.weight: model has none, file (16,)" in message
    assert "classes" in message


def test_a_long_list_of_differences_is_cut(model, tmp_path):
    models.save(model, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"and \d+ more\. Choose the model"):
        models.load("resnet13", tmp_path / "w.safetensors")


@pytest.fixture(scope="module")
def mnist_test(data_folder):
    def read(name, offset):
        return np.frombuffer(gzip.open(data_folder / "mnist" / name).read(), np.uint8, -1, offset)

    images = read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28).copy()
    labels = read("t10k-labels-idx1-ubyte.gz", 8).copy()
    return torch.from_numpy(images).float() / 255, torch.from_numpy(labels).long()


@pytest.fixture(scope="module")
def data_folder():
    folder = os.environ.get("ELBOWROOM_DATA")
    if not folder:
        pytest.skip("ELBOWROOM_DATA does not point to a folder of data and weights")
    return Path(folder)


@pytest.mark.parametrize(
    ("name", "file", "percent"),
    [
        ("wong-kolter-mnist", "auto_LiRPA/kw_mnist.pth", 98.2),
        (
            "wong-kolter-mnist",
            "MIPVerify_data/WK17a/linf0.1/master_seed_1_epochs_100.pth",
            98.1,
        ),
        ("raghunathan-mnist", "MIPVerify_data/RSL18a/linf0.1", 95.8),
    ],
)
def test_published_weights_have_their_published_accuracy(
    name, file, percent, data_folder, mnist_test
):
    model = models.load(name, data_folder / "weights" / file)
    x, y = mnist_test
    with torch.no_grad():
        correct = (model(x).argmax(dim=1) == y).double().mean().item()
    assert len(y) == 10_000
    assert round(100 * correct, 1) == percent
