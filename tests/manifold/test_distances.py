"""Distances to manifolds, Jacobians and tangents against closed forms and independent solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from elbowroom import Classifier
from elbowroom.manifold import Codes, Fonts, Generator, Neighbours, project, tangent_cosine
from elbowroom.manifold.tangent import jacobian


def linear_decoder(seed, size=3, features=12):
    torch.manual_seed(seed)
    network = nn.Linear(size, features).double()
    return Generator(network, size), network.weight.detach(), network.bias.detach()


def empty(count):
    return torch.zeros(count, 0)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10)
def test_projections_onto_a_plane(seed):
    decoder, weight, bias = linear_decoder(seed)
    x = torch.randn(4, 12, dtype=torch.float64)
    start = Codes(torch.zeros(4, 3, dtype=torch.float64), empty(4))
    found = project(decoder, x, start, steps=600)
    solved = np.linalg.lstsq(weight.numpy(), (x - bias).T.numpy(), rcond=None)[0]
    rest = np.linalg.norm((x - bias).T.numpy() - weight.numpy() @ solved, axis=0)
    torch.testing.assert_close(found.distance, torch.from_numpy(rest), rtol=2e-3, atol=1e-3)
    assert bool((found.distance >= torch.from_numpy(rest) - 1e-12).all())


def test_samples_of_the_manifold_are_at_distance_zero():
    decoder = Fonts()
    codes = decoder.codes(20)
    x = decoder.samples(codes)
    assert float(project(decoder, x, codes).distance.max()) < 1e-4
    near = codes.at(decoder.clamp(codes.z + 0.01))
    found = project(decoder, x, near)
    there = project(decoder, x, near, steps=1)
    assert float(found.distance.max()) < 0.1 * float(there.distance.max())


def test_more_steps_are_never_farther():
    decoder = Fonts()
    codes = decoder.codes(8)
    x = (decoder.samples(codes) + 0.1 * torch.randn(8, 1, 28, 28)).clamp(0, 1)
    few, many = (project(decoder, x, codes, steps=steps).distance for steps in (3, 30))
    assert bool((many <= few).all())
    assert bool((project(decoder, x, codes).codes.z <= decoder.upper).all())


@pytest.mark.parametrize("centre", ["sample", "mean"])
def test_planes_of_neighbours(centre):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(60, 2, 8, generator=generator)
    points = torch.randn(5, 2, 8, generator=generator)
    origin = points + 0.1 * torch.randn(5, 2, 8, generator=generator)
    found = Neighbours(x, 6).distance(points, origin, centre=centre)
    flat = x.flatten(1).double().numpy()
    for i in range(5):
        point = points[i].flatten().double().numpy()
        nearest = np.argsort(np.linalg.norm(flat - point, axis=1))[:6]
        middle = origin[i].flatten().double().numpy()
        middle = middle if centre == "sample" else flat[nearest].mean(axis=0)
        columns = (flat[nearest] - middle).T
        solution = np.linalg.lstsq(columns, point - middle, rcond=None)[0]
        assert float(found[i]) == pytest.approx(np.linalg.norm(point - middle - columns @ solution))


def test_planes_that_hold_everything_and_bad_input():
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    found = Neighbours(x, 30).distance(x[:3] + 1, x[:3])
    torch.testing.assert_close(found, torch.zeros(3).double(), atol=1e-9, rtol=0)
    same = Neighbours(x[:1].repeat(5, 1), 5).distance(x[:1] + 1, x[:1])
    assert float(same) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="31 neighbours of 30"):
        Neighbours(x, 31)
    with pytest.raises(ValueError, match="centre"):
        Neighbours(x, 3).distance(x, x, centre="median")


def test_the_jacobian_of_fonts_is_that_of_differences():
    decoder = Fonts()
    codes = decoder.codes(6)
    codes = Codes(codes.z.double(), codes.context)
    found, step = jacobian(decoder, codes), 1e-6
    for i in range(6):
        change = torch.zeros(6, dtype=torch.float64)
        change[i] = step
        up, down = (decoder.decode(codes.z + s * change, codes.context) for s in (1, -1))
        wrong = (found[:, i] - (up - down) / (2 * step)).abs() > 1e-4
        assert float(wrong.double().mean()) < 1e-3  # bilinear interpolation has kinks


def test_the_cosine_with_a_plane():
    decoder, weight, _ = linear_decoder(3)
    torch.manual_seed(4)
    network = nn.Linear(12, 3).double()
    codes = Codes(torch.randn(5, 3, dtype=torch.float64), empty(5))
    y = torch.tensor([0, 1, 2, 0, 1])
    found = tangent_cosine(Classifier(network, bounds=(-9.0, 9.0)), decoder, codes, y)
    basis = torch.linalg.qr(weight).Q
    x = decoder.samples(codes).requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(network(x), y), x)
    expected = (gradient @ basis).norm(dim=1) / gradient.norm(dim=1)
    torch.testing.assert_close(found, expected)
