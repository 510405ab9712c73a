"""The region's affine map equals the network and autograd, sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from elbowroom import Classifier, models
from elbowroom.graph import AffineMap, UnsupportedOperationError, pattern, trace
from elbowroom.graph.evaluate import evaluate
from nets import PIECEWISE_AFFINE, make

LIBRARY = {
    "lenet5": (1, 28, 28),
    "resnet13": (1, 28, 28),
    "fonts-cnn": (1, 28, 28),
    "madry-mnist": (1, 28, 28),
}


def _network(name):
    if name in PIECEWISE_AFFINE:
        return make(name)
    from nets import randomise_statistics

    torch.manual_seed(0)
    return randomise_statistics(models.build(name).double()), LIBRARY[name]


@pytest.mark.parametrize("name", [*PIECEWISE_AFFINE, *LIBRARY])
def test_values_and_products_match_autograd(name):
    model, shape = _network(name)
    graph = trace(model, shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(5, *shape, generator=generator, dtype=torch.float64)
    v = torch.randn(5, *shape, generator=generator, dtype=torch.float64)
    u = torch.randn(5, model(x).shape[1], generator=generator, dtype=torch.float64)
    region = AffineMap.at(graph, x)

    logits, tangent = torch.func.jvp(model, (x,), (v,))
    _, pull = torch.func.vjp(model, x)
    assert torch.allclose(region(x), logits, rtol=1e-10, atol=1e-10)
    assert torch.allclose(region.jvp(v), tangent, rtol=1e-10, atol=1e-10)
    assert torch.allclose(region.vjp(u), pull(u)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", PIECEWISE_AFFINE)
def test_rows_are_rows_of_the_jacobian(name):
    model, shape = make(name)
    graph = trace(model, shape, dtype=torch.float64)
    x = torch.rand(4, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(model, x[i : i + 1])[0, :, 0] for i in range(4)]
    )
    units = torch.tensor([[0, 2], [1, 1], [2, 0], [0, 1]])
    rows = AffineMap.at(graph, x).rows(units)
    expected = torch.stack([jacobian[i, units[i]] for i in range(4)])
    assert torch.allclose(rows, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", PIECEWISE_AFFINE)
def test_the_map_is_the_network_throughout_the_region(name):
    model, shape = make(name)
    graph = trace(model, shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(16, *shape, generator=generator, dtype=torch.float64)
    near = x + 1e-4 * torch.randn(16, *shape, generator=generator, dtype=torch.float64)
    region = AffineMap.at(graph, x)
    inside = region.regions.same_as(pattern(graph, near))
    assert inside.any()
    assert torch.allclose(region(near)[inside], model(near)[inside], rtol=1e-10, atol=1e-10)


def test_rows_of_hidden_units_and_regions_taken_twice():
    model, shape = make("mlp")
    graph = trace(model, shape, dtype=torch.float64)
    x = torch.rand(2, *shape, dtype=torch.float64)
    hidden = next(node.index for node in graph.nodes if node.shape == (12,))
    twice = AffineMap.at(graph, x).take(torch.tensor([1, 1]))
    rows = twice.rows(torch.tensor([[3], [7]]), node=hidden)
    weight = model[1].weight
    assert torch.allclose(rows.flatten(2)[:, 0], weight[[3, 7]], atol=1e-12)


def test_points_on_a_kink_follow_pytorchs_derivative():
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    model[0].bias.data.zero_()
    x = torch.zeros(1, 1, dtype=torch.float64)
    region = AffineMap.at(trace(model, (1,), dtype=torch.float64), x)
    _, tangent = torch.func.jvp(model, (x,), (torch.ones_like(x),))
    assert torch.equal(region.jvp(torch.ones_like(x)), tangent)


def test_a_region_pattern_needs_piecewise_affine_layers():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    graph = trace(model, (2,))
    with pytest.raises(UnsupportedOperationError, match=r"'1' \(tanh\) is not piecewise affine"):
        pattern(graph, torch.zeros(1, 2))


def test_normalisation_is_part_of_the_traced_network():
    model, shape = make("resnet")
    clf = Classifier(model, mean=[0.3], std=[0.7])
    x = torch.rand(3, *shape, dtype=torch.float64)
    graph = clf.graph(shape)
    assert torch.allclose(evaluate(graph, x)[-1], clf.logits(x), atol=1e-10)
    assert clf.graph(shape) is graph
