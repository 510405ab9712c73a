"""The networks of the benchmark, with the test images that they classify correctly.

A model is left out, with a message, when its weights are not there.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import elbowroom
from elbowroom import Classifier

WEIGHTS = Path(__file__).parent / "weights"
MNIST_RADII = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
"""Thresholds of robust accuracy: Croce, Rauber and Hein 2020 (LRA), Tables 2 and 5."""
CIFAR_PLAIN_RADII = (0.1, 0.15, 0.2, 0.3, 0.4)
CIFAR_ROBUST_RADII = (0.25, 0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True)
class BenchModel:
    """A trained network.

    weights:   relative to the folder of published weights (`published`), or of our own.
    published: whether the weights are somebody else's, in $ELBOWROOM_DATA/weights.
    radii:     thresholds at which robust accuracy is reported.
    batch:     samples attacked at a time.
    """

    architecture: str
    weights: str
    radii: tuple[float, ...]
    published: bool = False
    data: str = "mnist"
    batch: int = 50

    def file(self, own_weights: Path) -> Path:
        if self.published:
            return Path(os.environ.get("ELBOWROOM_DATA", ".")) / "weights" / self.weights
        return own_weights / self.weights


@dataclass(frozen=True)
class Problem:
    """A classifier and the first samples of the test set that it classifies correctly.

    indices: of the samples in the test set. fingerprint: of the weights.
    """

    clf: Classifier
    x: Tensor
    y: Tensor
    indices: list[int]
    fingerprint: str


MODELS: dict[str, BenchModel] = {
    "kw_mnist": BenchModel(
        "wong-kolter-mnist", "auto_LiRPA/kw_mnist.pth", MNIST_RADII, published=True
    ),
    "WK17a": BenchModel(
        "wong-kolter-mnist",
        "MIPVerify_data/WK17a/linf0.1/master_seed_1_epochs_100.pth",
        MNIST_RADII,
        published=True,
    ),
    "RSL18a": BenchModel(
        "raghunathan-mnist", "MIPVerify_data/RSL18a/linf0.1", MNIST_RADII, published=True
    ),
    **{
        f"madry-{training}": BenchModel(
            "madry-mnist", f"madry-mnist-{training}.safetensors", MNIST_RADII
        )
        for training in ("plain", "l2", "linf")
    },
    **{
        f"cifar-{training}": BenchModel(
            "fab-cifar",
            f"fab-cifar-{training}.safetensors",
            CIFAR_PLAIN_RADII if training == "plain" else CIFAR_ROBUST_RADII,
            data="cifar10-jpeg75",
            batch=25,
        )
        for training in ("plain", "l2", "linf")
    },
}


def load(name: str, samples: int, own_weights: Path = WEIGHTS) -> Problem:
    """Raises `FileNotFoundError` or `ValueError` saying what is missing or does not fit."""
    entry = MODELS[name]
    network = elbowroom.models.load(entry.architecture, entry.file(own_weights))
    data = elbowroom.data.load(entry.data, "test")
    clf = Classifier(network, bounds=data.bounds, name=name)
    indices = first_correct(clf, data.x, data.y, samples)
    return Problem(clf, data.x[indices], data.y[indices], indices, fingerprint(network))


def first_correct(clf: Classifier, x: Tensor, y: Tensor, count: int) -> list[int]:
    """Indices of the first `count` samples that are classified as labelled."""
    found: list[int] = []
    for start in range(0, len(x), 500):
        rows = slice(start, start + 500)
        correct = clf.logits(x[rows]).argmax(dim=1) == y[rows]
        found += (start + correct.nonzero().squeeze(1)).tolist()
        if len(found) >= count:
            return found[:count]
    raise ValueError(f"only {len(found)} samples are classified correctly, not {count}")


def fingerprint(network: nn.Module) -> str:
    """A hash of the weights: results of other weights are never taken for these."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().to(torch.float64).numpy().tobytes())
    return digest.hexdigest()[:16]
