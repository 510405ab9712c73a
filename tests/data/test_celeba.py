"""CelebA from files of its format."""

import io
import zipfile
from dataclasses import replace

import pytest
import torch
from PIL import Image

from elbowroom import data
from elbowroom.data import celeba

NAMES = ["000001.jpg", "000002.jpg", "000003.jpg", "000004.jpg"]
COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (200, 200, 200)]
PARTITION = "000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n000004.jpg 2\n"
ATTRIBUTES = (
    "4\nBald Male Young\n"
    "000001.jpg -1  1 -1\n000002.jpg -1 -1  1\n000003.jpg  1  1  1\n000004.jpg -1 -1 -1\n"
)


def archive(names=NAMES):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, colour in zip(NAMES, COLOURS, strict=True):
            image = io.BytesIO()
            Image.new("RGB", (178, 218), colour).save(image, "JPEG")
            if name in names:
                written.writestr(f"img_align_celeba/{name}", image.getvalue())
    return file.getvalue()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A function that writes the three files, with other checksums than the published."""

    def write(images=None, attributes=ATTRIBUTES, partition=PARTITION):
        folder = tmp_path / "celeba"
        folder.mkdir(exist_ok=True)
        (folder / "img_align_celeba.zip").write_bytes(archive() if images is None else images)
        (folder / "list_attr_celeba.txt").write_text(attributes)
        (folder / "list_eval_partition.txt").write_text(partition)

    monkeypatch.setenv("ELBOWROOM_DATA", str(tmp_path))
    for name in ("IMAGES", "ATTRIBUTES", "PARTITION"):
        monkeypatch.setattr(celeba, name, replace(getattr(celeba, name), md5=None))
    return write


def test_images_and_labels(files):
    files()
    train, test = data.load("celeba", "train"), data.load("celeba", "test")
    assert train.shape == (3, 56, 48)
    assert train.y.tolist() == [1, 0]
    assert test.y.tolist() == [1, 0]
    assert train.classes == ("Female", "Male")
    expected = torch.tensor(COLOURS[2]) / 255
    assert float((test.x[0].mean(dim=(1, 2)) - expected).abs().max()) < 0.03
    assert len(data.load("celeba", "test", 1)) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition": "000001.jpg\n"}, "no file and number"),
        ({"attributes": "4\nBald Young\n"}, "no attribute 'Male'"),
        ({"attributes": "4\nMale\n000004.jpg 1\n"}, "does not say 'Male' of 000003.jpg"),
        ({"images": b"no zip"}, "does not hold the images"),
        ({"images": archive(NAMES[:3])}, "does not hold the images"),
    ],
)
def test_files_that_do_not_fit(files, changes, words):
    files(**changes)
    with pytest.raises(ValueError, match=words):
        data.load("celeba", "test")


def test_bad_requests(files, tmp_path, monkeypatch):
    files()
    with pytest.raises(ValueError, match="has 2 samples, not 3"):
        data.load("celeba", "test", 3)
    with pytest.raises(ValueError, match="no split 'val'"):
        data.load("celeba", "val")
    (tmp_path / "celeba" / "list_eval_partition.txt").unlink()
    monkeypatch.setenv("ELBOWROOM_CACHE", str(tmp_path / "cache"))
    with pytest.raises(FileNotFoundError, match=r"CelebA\.html"):
        data.load("celeba", "test")


def test_other_files_than_the_published_are_refused(files, monkeypatch):
    files()
    monkeypatch.setattr(
        celeba, "PARTITION", replace(celeba.PARTITION, md5="d32c9cbf5e040fd4025c592c306e6668")
    )
    with pytest.raises(ValueError, match="not the published file"):
        data.load("celeba", "test")
