"""Confidences around a path: closed forms, and directions that are what they should be."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from elbowroom import L2, Classifier
from elbowroom.invariance.confidence import confidence
from elbowroom.invariance.equi_confidence import EquiConfidence, tangents
from elbowroom.invariance.nspgd import NSPGD
from elbowroom.sampling import SampleRng
from nets import make
from oracles.linear import problem


class Bowl(nn.Module):
    """Two logits whose difference is `1 - |x|^2 / 4`: confidence depends on the length alone."""

    def forward(self, x):
        half = (1 - x.flatten(1).square().sum(dim=1) / 4) / 2
        return torch.stack([half, -half], dim=1)


def test_in_a_bowl_the_confidence_at_each_radius_is_known():
    clf = Classifier(Bowl().double(), bounds=(-9.0, 9.0), dtype=torch.float64)
    path = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.zeros(2, dtype=torch.int64)
    result = EquiConfidence(radii=(0.0, 0.5, 2.0), samples=7)(clf, path, y)
    lengths = path.square().sum(dim=2)
    torch.testing.assert_close(result.on_path, torch.sigmoid(1 - lengths / 4))
    # A tangent of length r at x makes the squared length |x|^2 + r^2.
    radii = result.radii
    expected = torch.sigmoid(1 - (lengths[..., None] + radii.square()) / 4)
    assert result.percentiles.shape == (3, 2, 3, 2)
    for place in (0, 1):
        torch.testing.assert_close(result.percentiles[..., place], expected)


def test_on_two_linear_classes_the_tangent_plane_is_the_equi_confidence_set():
    clf, start, y = problem(2, 8, classes=2)
    walk = NSPGD(path_every=50, steps=200)(clf, start=start, toward=start.flip(0))
    result = EquiConfidence(radii=(1.0, 4.0), samples=20)(clf, walk.path)
    assert torch.equal(result.classes, y)
    for place in (0, 1):
        wanted = result.on_path[..., None].expand(-1, -1, 2)
        torch.testing.assert_close(result.percentiles[..., place], wanted)


def test_percentiles_are_those_of_the_confidences_of_the_directions():
    model, shape = make("mlp")
    clf = Classifier(model)
    x = torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 1, 2])
    attack = EquiConfidence(radii=(2.0,), samples=50, seed=3, batch=7)
    result = attack(clf, x[None], y, indices=[4, 5, 6])
    streams = SampleRng(3, [4, 5, 6]).children(torch.arange(3), torch.zeros(3, dtype=torch.int64))
    points = x.clone().requires_grad_()
    p = clf.network(points).softmax(dim=1).gather(1, y[:, None])
    (gradient,) = torch.autograd.grad(p.sum(), points)
    around = x[:, None] + 2 * tangents(gradient, 50, streams)
    found = confidence(clf.logits(around.flatten(0, 1)), y.repeat_interleave(50)).view(3, 50)
    low, high = torch.quantile(found, torch.tensor([0.05, 0.95], dtype=torch.float64), dim=1)
    torch.testing.assert_close(result.percentiles[0, :, 0, 0], low)
    torch.testing.assert_close(result.percentiles[0, :, 0, 1], high)
    assert (low < high).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tangents_are_unit_orthogonal_and_uniform(dtype):
    gradient = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    gradient[2] = 0
    gradient[1] *= 1e-30
    v = tangents(gradient, 4000, SampleRng(0, range(3)))
    assert v.dtype == dtype
    tolerance = 20 * torch.finfo(dtype).eps
    flat, normal = v.flatten(2), L2.steepest(gradient).flatten(1)
    assert (flat.norm(dim=2) - 1).abs().max() < tolerance
    assert torch.einsum("nsd,nd->ns", flat, normal).abs().max() < tolerance
    # Uniform on the sphere of a space of k dimensions: covariance is its projection over k.
    covariance = torch.einsum("nsd,nse->nde", flat, flat) / 4000
    eye = torch.eye(8, dtype=dtype)
    for n, dimension in ((0, 7), (1, 7), (2, 8)):
        projection = eye - torch.outer(normal[n], normal[n])
        assert (covariance[n] - projection / dimension).abs().max() < 0.02
    assert flat.mean(dim=1).abs().max() < 0.03


def test_samples_places_and_batches_do_not_depend_on_each_other():
    model, shape = make("resnet")
    clf = Classifier(model)
    path = torch.rand(3, 4, *shape, dtype=torch.float64)
    whole = EquiConfidence(radii=(1.0, 2.0), samples=12)(clf, path, indices=[9, 8, 7, 6])
    part = EquiConfidence(radii=(1.0, 2.0), samples=12, batch=5)(
        clf, path[:2, 2:3], whole.classes[2:3], indices=[7]
    )
    torch.testing.assert_close(part.percentiles[:, 0], whole.percentiles[:2, 2])
    other = EquiConfidence(radii=(1.0, 2.0), samples=12, seed=1)(clf, path, indices=[9, 8, 7, 6])
    assert not torch.allclose(other.percentiles, whole.percentiles)


def test_clipping_keeps_to_the_box():
    seen = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 3).double()

        def forward(self, x):
            seen.append((float(x.detach().min()), float(x.detach().max())))
            return self.layer(x)

    clf = Classifier(Watched())
    path = torch.rand(2, 3, 6, dtype=torch.float64)
    EquiConfidence(samples=5, clip=True)(clf, path)
    assert all(low >= 0 and high <= 1 for low, high in seen)
    EquiConfidence(samples=5)(clf, path)
    assert min(low for low, _ in seen) < 0


def test_mistakes_are_named():
    clf, start, _ = problem(1, 4, classes=3)
    attack = EquiConfidence(radii=(1.0,), samples=3)
    with pytest.raises(ValueError, match=r"\(P, N, \*shape\)"):
        attack(clf, start)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
        attack(clf, start[None], torch.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match="2 indices for 4 samples"):
        attack(clf, start[None], indices=[0, 1])
    for options in ({"radii": ()}, {"radii": (-1.0,)}, {"radii": (math.inf,)}, {"samples": 1}):
        with pytest.raises(ValueError, match="must be"):
            EquiConfidence(**options)
    one = Classifier(nn.Linear(1, 2))
    with pytest.raises(ValueError, match="no tangent plane"):
        attack(one, torch.rand(2, 3, 1))
