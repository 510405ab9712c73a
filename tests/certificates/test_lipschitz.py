"""The Lipschitz certificate: exact where it should be, and never beyond an attack."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from elbowroom import L1, L2, Classifier, Linf, models
from elbowroom.attacks import DDN, FGS, FGV, PGD, CarliniWagner, DeepFool
from elbowroom.certificates import GlobalLipschitz
from elbowroom.certificates.gain import gains, tails
from elbowroom.certificates.margins import constants
from elbowroom.certificates.rounding import rounding
from elbowroom.graph import UnsupportedOperationError, trace
from elbowroom.graph.evaluate import evaluate
from nets import PIECEWISE_AFFINE, make, randomise_statistics
from oracles.linear import distances, problem


@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_linear_classifiers_exactly(norm, rank, batch):
    clf, x, y = problem(rank, batch, classes=5)
    result = GlobalLipschitz(norm=norm)(clf, x, y)
    expected = distances(clf, x, y, norm).amin(dim=1)
    assert torch.allclose(result.radius, expected, rtol=1e-6)
    assert (result.radius <= expected).all()
    assert result.sound


def test_misclassified_samples_get_no_radius():
    clf, x, y = problem(1, 8, classes=3)
    wrong = (y + 1) % 3
    assert (GlobalLipschitz()(clf, x, wrong).radius == 0).all()


def _random_network(kind: str, seed: int, dtype: torch.dtype) -> tuple[Classifier, torch.Tensor]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    if kind in PIECEWISE_AFFINE:
        model, shape = make(kind, seed)
    else:
        layers: list[nn.Module] = {
            "smooth": [nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Softplus(), nn.Linear(5, 3)],
            "gelu": [nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5), nn.ELU(), nn.Linear(5, 3)],
            "sigmoid": [nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3)],
            "silu": [nn.Linear(6, 8), nn.SiLU(), nn.Linear(8, 3)],
            "lrn": [
                nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 5, 2, padding=1),
                nn.LocalResponseNorm(3, 0.5, 0.75, 1.0), nn.ReLU(), nn.Flatten(), nn.Linear(60, 3),
            ],
        }[kind]  # fmt: skip
        model, shape = randomise_statistics(nn.Sequential(*layers), seed), (6,)
    model = model.to(dtype)
    for parameter in model.parameters():
        parameter.data.mul_(0.5 + 2 * torch.rand((), generator=generator))
    x = torch.rand(4, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return Classifier(model), x


KINDS = [*PIECEWISE_AFFINE, "smooth", "gelu", "sigmoid", "silu", "lrn"]


@given(st.sampled_from(KINDS), st.integers(0, 2**20), st.booleans())
@settings(max_examples=220)
def test_no_certificate_exceeds_any_attack(kind, seed, single):
    clf, x = _random_network(kind, seed, torch.float32 if single else torch.float64)
    y = clf.logits(x).argmax(dim=1)
    cheap = {"line_search_steps": 30}
    attacks = {
        L2: [
            DDN(steps=25, runner_ups=2, **cheap), DeepFool(steps=10, **cheap), FGV(**cheap),
            PGD(eps=2.0, steps=8, early_stop=False, **cheap),
            CarliniWagner(steps=20, search_steps=2, **cheap),
        ],
        Linf: [FGS(**cheap), PGD(norm=Linf, eps=0.5, steps=8, early_stop=False, **cheap)],
    }  # fmt: skip
    for norm, methods in attacks.items():
        if kind == "lrn" and norm == Linf:
            continue
        radius = GlobalLipschitz(norm=norm)(clf, x, y).radius
        for attack in methods:
            assert (radius <= attack(clf, x, y).distance).all(), (kind, seed, attack)


@pytest.mark.parametrize("name", ["lenet5", "madry-mnist", "fonts-cnn", "lenet5-lrn3"])
def test_certifies_the_librarys_networks(name):
    torch.manual_seed(0)
    clf = Classifier(randomise_statistics(models.build(name)))
    x = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    radius = GlobalLipschitz()(clf, x).radius
    attacked = DDN(steps=30)(clf, x).distance
    assert (radius >= 0).all()
    assert (radius <= attacked).all()


def test_batch_norm_is_folded_into_the_next_layer():
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(2), nn.Linear(2, 2)).double()
    model[1].running_var.copy_(torch.tensor([100.0, 0.01]))
    model[2].weight.data.copy_(torch.tensor([[1.0, 0.0], [0.5, 0.0]]))
    graph = trace(model.eval(), (2,), dtype=torch.float64)
    # Only the first feature is used, and batch norm divides it by 10.
    assert gains(graph, L2)[-1].settled() == pytest.approx(1.25**0.5 / 10, rel=1e-6)


@pytest.mark.parametrize("name", ["resnet", "dense", "1d", "mlp"])
def test_both_directions_bound_the_slope_between_random_points(name):
    model, shape = make(name, seed=5)
    graph = trace(model, shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 200, *shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        slope = float((L2.length(model(a) - model(b)) / L2.length(a - b)).max())
    assert slope <= gains(graph, L2)[-1].settled()
    assert slope <= tails(graph)[0]


def test_rounding_of_a_network_in_single_precision():
    torch.manual_seed(0)
    model = randomise_statistics(models.build("fonts-cnn"))
    clf = Classifier(model)
    graph = clf.graph((1, 28, 28))
    known = constants(graph, L2)
    x = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    values = evaluate(known.exact, x.double())
    bound = rounding(known.exact, values, known.l2_gains, known.tails, known.errors)
    error = L2.length(clf.logits(x).double() - values[-1])
    assert (error > 0).all()
    assert (error <= bound.here).all()


def test_rounding_is_paid_for():
    # A margin of 1e-4 on top of cancelling terms of 1e4 is lost in float32.
    layer = nn.Linear(2, 2)
    layer.weight.data.copy_(torch.tensor([[1e4, -1e4], [0.0, 0.0]]))
    layer.bias.data.copy_(torch.tensor([1e-4, 0.0]))
    x = torch.tensor([[0.7, 0.7]])
    y = torch.tensor([0])
    assert GlobalLipschitz()(Classifier(layer), x, y).radius == 0
    exact = GlobalLipschitz()(Classifier(layer, dtype=torch.float64), x.double(), y).radius
    assert float(exact) == pytest.approx(1e-4 / (2**0.5 * 1e4), rel=1e-3)


def test_linf_has_no_bound_for_response_normalisation():
    clf = Classifier(models.build("lenet5-lrn1"))
    with pytest.raises(
        UnsupportedOperationError, match=r"LocalResponseNorm\) has no Lipschitz bound in Linf"
    ):
        GlobalLipschitz(norm=Linf)(clf, torch.rand(1, 1, 28, 28))


def test_a_constant_model_is_certified_everywhere_or_nowhere():
    layer = nn.Linear(3, 2)
    layer.weight.data.zero_()
    layer.bias.data.copy_(torch.tensor([1.0, 0.0]))
    x = torch.rand(2, 3)
    assert torch.isinf(GlobalLipschitz()(Classifier(layer), x, torch.tensor([0, 0])).radius).all()
    layer.bias.data.zero_()
    assert (GlobalLipschitz()(Classifier(layer), x, torch.tensor([0, 0])).radius == 0).all()
