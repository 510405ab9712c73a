"""The hunt finds what is known to be wrong, and nothing wrong with what is sound."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from elbowroom import L2, Classifier, Linf
from elbowroom.attacks import DDN
from elbowroom.certificates import (
    CERTIFICATES,
    GlobalLipschitz,
    LayerWise,
    PublishedLayerWise,
    modulus,
)
from elbowroom.certificates.hunt import Case, LayerRule, LayerSearch, hunt_model
from elbowroom.certificates.rules import LAYER_RULES
from elbowroom.graph import activations
from oracles.linear import problem

QUICK = LayerSearch(layers=2, starts=8, steps=60)


def case(layer: nn.Module, x: list[float], kappa: float, claim: float) -> Case:
    one = torch.ones(1, dtype=torch.float64)
    point = torch.tensor([x], dtype=torch.float64)
    return Case(layer.double().requires_grad_(False), "", point, kappa * one, claim * one)


def unit(activation: nn.Module, weights: list[float], bias: float) -> nn.Module:
    layer = nn.Linear(len(weights), 1)
    layer.weight.data.copy_(torch.tensor([weights]))
    layer.bias.data.fill_(bias)
    return nn.Sequential(layer, activation)


def _channels(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Unflatten(1, (-1, 1)), layer, nn.Flatten())


LRN = _channels(nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0))
# The counterexamples that are known: the layer, x, kappa, what is claimed, the true distance (of
# response normalisation, the best known) and the premise.
KNOWN = {
    "ReLU": (unit(nn.ReLU(), [1.0], 0.0), [-0.001], 0.5, 1.0, 0.501, "norm"),
    "tanh": (unit(nn.Tanh(), [1.0], 0.0), [-1.21], 0.7867, 1.388, 1.160, "change"),
    "softplus": (unit(nn.Softplus(), [1.0] * 784, -6.0), [0.0] * 784, 5.0, 6.05, 0.393, "norm"),
    "response norm": (LRN, [10.0, 0.0], 1.0, 8.19, 1.7042, "norm"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_counterexamples_are_found_again(name):
    layer, x, kappa, claim, true, premise = KNOWN[name]
    known = case(layer, x, kappa, claim)
    r, found = LayerSearch().shortest(known, premise, torch.Generator().manual_seed(0))
    assert float(found) == pytest.approx(true, rel=3e-3)
    moved = known.layer(known.x + r) - known.layer(known.x)
    assert float(moved.norm()) >= kappa * (1 - 1e-12)  # what both premises imply
    assert float(r.norm()) == pytest.approx(float(found), rel=1e-12)


def test_the_shortest_way_through_a_linear_layer():
    torch.manual_seed(0)
    layer = nn.Linear(5, 4)
    sharpest = float(torch.linalg.matrix_norm(layer.weight.detach().double(), ord=2))
    known = case(layer, [0.1, 0.2, -0.3, 0.4, 0.5], 2.0, 1.0)
    _, found = LayerSearch().shortest(known, "change", torch.Generator().manual_seed(0))
    assert 2 / sharpest <= float(found) * (1 + 1e-12)
    assert float(found) == pytest.approx(2 / sharpest, rel=1e-4)


def test_nothing_is_found_where_there_is_nothing():
    known = case(unit(nn.Sigmoid(), [1.0], 0.0), [0.0], 2.0, 1.0)
    _, found = QUICK.shortest(known, "change", torch.Generator().manual_seed(0))
    assert float(found) == math.inf


WRONG = {
    "4.2 tanh", "4.2 ReLU", "4.2 elementwise M", "5.1 convolution", "5.3 Lp pooling, p < 1",
    "5.6 batch norm", "5.9 response norm",
}  # fmt: skip


def test_the_published_rules_that_are_wrong():
    rules = LAYER_RULES["published-layer-wise"]
    results = QUICK(rules)
    assert {found.rule for found in results if found.violations} == WRONG
    assert not any(rule.sound for rule in rules if rule.name in WRONG)
    for found in results:
        worst = found.worst
        assert (worst is None) == (found.violations == 0)
        assert found.violations <= found.claims == 24
        if worst is not None:
            assert found.worst_ratio == pytest.approx(worst.claimed / worst.found)
            assert torch.tensor(worst.r).double().norm() == pytest.approx(worst.found, rel=1e-4)
            assert worst.found < worst.claimed


@pytest.mark.parametrize("method", ["global-lipschitz", "layer-wise"])
def test_the_rules_of_sound_certificates_hold_and_are_met(method):
    results = QUICK(LAYER_RULES[method])
    assert all(found.sound and found.violations == 0 for found in results)
    # The search is good enough to reach what it cannot pass.
    reached = [found.rule for found in results if found.worst_ratio > 0.98]
    assert len(reached) >= 6
    assert CERTIFICATES[method].sound


def _rule(name: str) -> list[LayerRule]:
    return [rule for rule in LAYER_RULES["layer-wise"] if rule.name == name]


def test_a_curvature_of_half_its_size_is_found_out(monkeypatch):
    right = activations._smooth

    def half(b, x, name, function, lipschitz, curvature, deviation=0.0):
        return right(b, x, name, function, lipschitz, curvature / 2, deviation)

    monkeypatch.setattr(activations, "_smooth", half)
    (found,) = LayerSearch()(_rule("smooth"))
    assert found.violations > 0


def test_units_counted_flat_for_too_long_are_found_out(monkeypatch):
    right = modulus.turned
    monkeypatch.setattr(
        modulus, "turned", lambda op, z, error, moved: right(op, z, error, moved / 2)
    )
    (found,) = LayerSearch()(_rule("piecewise affine"))
    assert found.violations > 0


def test_results_depend_on_the_seed_alone():
    rules = LAYER_RULES["layer-wise"][:1]
    assert QUICK(rules) == QUICK(rules)
    other = LayerSearch(layers=2, starts=8, steps=60, seed=1)(rules)
    assert other != QUICK(rules)


@dataclass(frozen=True, kw_only=True)
class Boastful(GlobalLipschitz):
    """Claims 1.5 times what is proved."""

    def bound(self, clf, x, y):
        return 1.5 * super().bound(clf, x, y)


def test_a_false_certificate_is_found_out():
    clf, x, y = problem(1, 8, classes=3)
    honest = hunt_model(GlobalLipschitz()(clf, x, y), DDN(), clf, x, y)
    assert not honest.violated.any()
    boast = hunt_model(Boastful()(clf, x, y), DDN(), clf, x, y)
    assert boast.violated.any()
    inside = boast.found.distance < boast.claimed.radius
    assert torch.equal(boast.violated, inside)
    moved = clf.logits(boast.found.adversarial).argmax(dim=1)
    assert (moved[boast.violated] != y[boast.violated]).all()


def test_an_example_within_a_published_bound():
    # Eight ones slide over the input: the windows overlap, which the thesis's bound forgets.
    slide = nn.Conv1d(1, 1, 8, bias=False)
    nn.init.ones_(slide.weight)
    model = nn.Sequential(slide, nn.Flatten(), nn.Linear(30, 2))
    model[2].weight.data.copy_(torch.stack([torch.ones(30), -torch.ones(30)]))
    model[2].bias.data.copy_(torch.tensor([2.0, -2.0]))
    clf = Classifier(model, bounds=(-9, 9))
    x, y = torch.zeros(1, 1, 37), torch.tensor([0])
    found = hunt_model(PublishedLayerWise()(clf, x, y), DDN(), clf, x, y)
    assert found.violated.all()
    assert not found.claimed.sound
    assert not hunt_model(LayerWise()(clf, x, y), DDN(), clf, x, y).violated.any()


def test_norms_must_agree():
    clf, x, y = problem(1, 2, classes=3)
    claimed = GlobalLipschitz(norm=Linf)(clf, x, y)
    with pytest.raises(ValueError, match="attack is in L2, the certificate in Linf"):
        hunt_model(claimed, DDN(norm=L2), clf, x, y)
