"""A linear classifier, for which every distance is known in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from elbowroom import L2, Classifier, Norm

SHAPES = {1: (6,), 2: (3, 4), 3: (2, 3, 4)}  # by input rank


class LinearModel(nn.Module):
    def __init__(self, shape: tuple[int, ...], classes: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        features = math.prod(shape)
        weight = torch.randn(classes, features, generator=generator, dtype=torch.float64)
        bias = 0.1 * torch.randn(classes, generator=generator, dtype=torch.float64)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(features, classes).double()
        self.linear.weight.data.copy_(weight)
        self.linear.bias.data.copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.flatten(x))


def problem(rank: int, batch: int, classes: int, seed: int = 0, dtype=torch.float64):
    """A classifier with a box too wide to matter, its inputs, and its own decisions."""
    shape = SHAPES[rank]
    model = LinearModel(shape, classes, seed).to(dtype)
    generator = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(batch, *shape, generator=generator, dtype=torch.float64).to(dtype)
    clf = Classifier(model, bounds=(-6.0, 6.0))
    return clf, x, clf.logits(x).argmax(dim=1)


def distances(clf: Classifier, x: Tensor, y: Tensor, norm: Norm = L2) -> Tensor:
    """`(N, classes)`: exact distance to the boundary with each other class; inf for `y`."""
    layer = clf.network.linear.double()
    logits = layer(x.double().flatten(1)).detach()
    gap = logits.gather(1, y[:, None]) - logits
    normal = layer.weight.detach()[y][:, None] - layer.weight.detach()[None]
    length = torch.linalg.vector_norm(normal, ord=norm.dual.p, dim=2)
    return torch.where(length > 0, gap / length, torch.inf)
