"""The certificate of one linear region, and that of branch and bound, against exact answers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from elbowroom import L1, L2, Classifier, Linf
from elbowroom.certificates import BranchAndBound, Region
from elbowroom.graph import UnsupportedOperationError
from elbowroom.graph.pattern import pattern
from elbowroom.regions import ExactDistance
from oracles.polytopes import classifier, shape_of


def samples(name: str, seed: int) -> tuple[Classifier, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, *shape_of(name), generator=generator, dtype=torch.float64)
    return classifier(name, seed), x


@pytest.mark.parametrize("name", ["mlp", "resnet", "dense", "1d", "pooled"])
@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=str)
def test_a_region_reaches_as_far_as_it_says(name, norm):
    clf, x = samples(name, 1)
    radius = Region(norm=norm)(clf, x).radius
    graph = clf.graph(shape_of(name))
    generator = torch.Generator().manual_seed(0)
    y = clf.logits(x).argmax(dim=1)
    inside = pattern(graph, x)
    for _ in range(200):
        move = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        size = (0.999 * radius / norm.length(move)).view(-1, *[1] * (x.ndim - 1))
        points = x + move * size
        assert bool((pattern(graph, points).same_as(inside) | (radius == 0)).all())
        assert bool((clf.logits(points).argmax(dim=1) == y).all())


def test_no_region_is_larger_than_its_nearest_facet():
    # One hidden layer: the facets are the units' hyperplanes, in closed form.
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    x = torch.rand(5, 4, dtype=torch.float64)
    first, last = model[0], model[2]
    z = first(x).detach()
    facets = (z.abs() / first.weight.norm(dim=1)).amin(dim=1)
    logits = model(x).detach()
    y = logits.argmax(dim=1)
    decision = torch.full((5,), math.inf, dtype=torch.float64)
    for n in range(5):
        affine = (last.weight * (z[n] > 0)) @ first.weight
        for j in range(3):
            if j != y[n]:
                length = (affine[y[n]] - affine[j]).norm()
                decision[n] = min(decision[n], (logits[n, y[n]] - logits[n, j]) / length)
    truth = torch.minimum(facets, decision).detach()
    torch.testing.assert_close(Region()(model, x).radius, truth, rtol=1e-6, atol=1e-9)


def test_branch_and_bound_is_the_exact_distance():
    clf, x = samples("mlp", 0)
    exact = ExactDistance(seconds=20)(clf, x)
    found = BranchAndBound(seconds=20)(clf, x).radius
    assert bool(exact.finished.all())
    assert bool((found <= exact.lower).all())
    torch.testing.assert_close(found, exact.lower, rtol=1e-5, atol=0)


def test_branch_and_bound_stopped_early_is_a_lower_bound():
    clf, x = samples("pooled", 0)
    exact = ExactDistance(seconds=20)(clf, x)
    early = BranchAndBound(regions=3)(clf, x).radius
    assert bool((early <= exact.upper).all())


def test_in_float32_it_keeps_a_distance_for_rounding():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.rand(2, 3)
    exact = ExactDistance(seconds=5)(model, x)
    found = BranchAndBound(seconds=5)(model, x).radius
    finite = exact.lower.isfinite()
    assert bool((found[finite] < exact.lower[finite]).all())
    torch.testing.assert_close(found[finite], exact.lower[finite], rtol=1e-4, atol=1e-5)


def test_what_they_are_not_for():
    smooth = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2))
    for certificate in (Region(), BranchAndBound()):
        with pytest.raises(UnsupportedOperationError, match="tanh"):
            certificate(smooth, torch.rand(1, 2))
    free = Classifier(nn.Linear(2, 2), bounds=(-math.inf, math.inf))
    with pytest.raises(ValueError, match="finite bounds"):
        BranchAndBound()(free, torch.rand(1, 2))
