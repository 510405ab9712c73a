"""The layer-wise certificate: exact where it should be, never below the product of norms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from elbowroom import L1, L2, Classifier, Linf, models
from elbowroom.attacks import DDN
from elbowroom.certificates import GlobalLipschitz, LayerWise, modulus
from elbowroom.certificates.gain import Gain, Pending
from elbowroom.certificates.last_layers import last_layers
from elbowroom.certificates.margins import constants
from elbowroom.certificates.modulus import Modulus, Weights, largest_radius
from elbowroom.graph import UnsupportedOperationError, trace
from elbowroom.graph.evaluate import evaluate
from elbowroom.graph.ops import Linear
from nets import PIECEWISE_AFFINE, make, randomise_statistics
from oracles.linear import distances, problem

FLATTENED = {
    "tanh": [nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 30), nn.Tanh(), nn.Linear(30, 3)],
    "sigmoid": [nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3)],
    "softplus": [nn.Linear(6, 40), nn.Softplus(2.0), nn.BatchNorm1d(40), nn.Linear(40, 3)],
    "kinked": [nn.Linear(6, 8), nn.ELU(0.4), nn.Linear(8, 5), nn.SiLU(), nn.Linear(5, 3)],
    "relu": [nn.Linear(6, 30), nn.ReLU(), nn.Linear(30, 20), nn.Hardtanh(), nn.Linear(20, 3)],
    "pools": [
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2, padding=1), nn.GELU(),
        nn.LocalResponseNorm(3, 0.5, 0.75, 1.0), nn.ReLU(), nn.LPPool2d(2, 2, 1),
        nn.Flatten(), nn.Linear(24, 3),
    ],
}  # fmt: skip
KINDS = [*PIECEWISE_AFFINE, *FLATTENED]


def network(kind: str, seed: int) -> tuple[nn.Module, torch.Tensor]:
    """A random network in float64 and four inputs in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    if kind in PIECEWISE_AFFINE:
        model, shape = make(kind, seed)
    else:
        model, shape = nn.Sequential(*FLATTENED[kind]).double(), (6,)
        randomise_statistics(model, seed)
        for parameter in model.parameters():
            size = 3 * torch.rand((), generator=generator) / math.sqrt(parameter[0].numel())
            draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.copy_(size * draw)
    return model, torch.rand(4, *shape, generator=generator, dtype=torch.float64)


def moduli(model: nn.Module, x: torch.Tensor) -> Modulus:
    known = constants(trace(model, x.shape[1:], dtype=torch.float64), L2)
    values = evaluate(known.exact, x)
    return Modulus(known.exact, known.l2_gains, values, [torch.zeros(len(x))] * len(values))


@pytest.mark.parametrize("rank", [1, 2])
def test_linear_classifiers_exactly(rank):
    clf, x, y = problem(rank, 5, classes=4)
    radius = LayerWise()(clf, x, y).radius
    expected = distances(clf, x, y, L2).amin(dim=1)
    assert torch.allclose(radius, expected, rtol=1e-6)
    assert (radius <= expected).all()


@given(st.sampled_from(KINDS), st.integers(0, 2**20), st.booleans())
@settings(max_examples=30)
def test_between_the_product_of_norms_and_attacks(kind, seed, single):
    model, x = network(kind, seed)
    dtype = torch.float32 if single else torch.float64
    clf, x = Classifier(model, dtype=dtype), x.to(dtype)
    radius = LayerWise()(clf, x).radius
    assert (radius >= GlobalLipschitz()(clf, x).radius * (1 - 1e-9)).all()
    assert (radius <= DDN(steps=25, runner_ups=2)(clf, x).distance).all()


@given(st.sampled_from(KINDS), st.integers(0, 2**20), st.floats(-2, 1))
@settings(max_examples=60)
def test_no_node_moves_farther_than_its_modulus(kind, seed, exponent):
    model, x = network(kind, seed)
    generator = torch.Generator().manual_seed(seed)
    radius = torch.full((len(x),), 10.0**exponent, dtype=torch.float64)
    bounds = moduli(model, x)(radius)
    graph = trace(model, x.shape[1:], dtype=torch.float64)
    start = evaluate(graph, x)
    # Random directions, and those that move the logits most.
    direction = torch.randn(60, *x.shape, generator=generator, dtype=torch.float64)
    for step in range(4):
        moved = x + radius[0] * L2.steepest(direction.flatten(0, 1)).view_as(direction)
        values = evaluate(graph, moved.flatten(0, 1))
        for value, before, bound in zip(values, start, bounds, strict=True):
            change = L2.length(value - before.repeat(60, *[1] * (before.ndim - 1)))
            assert (change.view(60, -1) <= bound * (1 + 1e-12)).all(), (kind, seed, step)
        with torch.enable_grad():
            point = moved.flatten(0, 1).requires_grad_()
            gap = model(point) - start[-1].repeat(60, 1)
            (direction,) = torch.autograd.grad(gap.square().sum(), point)
        direction = direction.view_as(moved)


def test_a_smooth_unit_to_second_order():
    model = nn.Sequential(nn.Linear(1, 1), nn.Tanh()).double()
    model[0].weight.data.fill_(2.0)
    model[0].bias.data.fill_(-1.5)
    x = torch.zeros(1, 1, dtype=torch.float64)
    slope, bend = 1 - math.tanh(1.5) ** 2, 4 / (3 * math.sqrt(3))
    for radius in (0.01, 0.1, 0.3):
        found = float(moduli(model, x)(torch.tensor([radius], dtype=torch.float64))[-1])
        assert found == pytest.approx(2 * radius * (slope + bend * 2 * radius / 2), rel=1e-7)
    assert float(moduli(model, x)(torch.tensor([5.0]).double())[-1]) == pytest.approx(10.0)


def test_units_that_stay_on_a_flat_piece_do_not_count():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).double()
    model[0].weight.data.copy_(torch.diag(torch.tensor([1.0, 5.0])))
    model[0].bias.data.copy_(torch.tensor([0.0, -10.0]))
    change = moduli(model, torch.zeros(1, 2, dtype=torch.float64))
    # From 2 on the second unit can move by 5 (r - 2): past the first one at r = 2.5.
    for radius, expected in ((1.0, 1.0), (1.99, 1.99), (2.4, 2.4), (3.0, 5.0), (4.0, 10.0)):
        found = float(change(torch.tensor([radius], dtype=torch.float64))[-1])
        assert found == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("directions", [2, 16])
def test_scaled_norms_from_above(directions, monkeypatch):
    monkeypatch.setattr(modulus, "DIRECTIONS", directions)
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.diag(2.0 ** -torch.arange(12, dtype=torch.float64))
    weight = torch.randn(20, 12, generator=generator, dtype=torch.float64) @ spectrum
    weights = Weights.of(Gain(L2, 1.0, 0, Pending(Linear(weight, None), (12,))))
    slopes = torch.rand(200, 20, generator=generator, dtype=torch.float64).pow(3)
    true = torch.linalg.matrix_norm(slopes[:, :, None] * weight, ord=2)
    found = weights.scaled(slopes)
    assert (found >= true).all()
    rest = float(torch.linalg.svdvals(weight)[2]) if directions == 2 else 0.0
    assert (found <= (true.square() + rest**2).sqrt() * (1 + 1e-6)).all()


ACTIVATIONS = [
    nn.ReLU(), nn.LeakyReLU(0.2), nn.Hardtanh(-0.3, 0.6), nn.Tanh(), nn.Sigmoid(), nn.GELU(),
    nn.Softplus(), nn.Softplus(2.0, 1.0),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_the_last_two_layers_together(activation):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 9), activation, nn.Linear(9, 3)).double()
    model[0].weight.data.mul_(2)
    x = torch.rand(6, 4, dtype=torch.float64)
    known = constants(trace(model, (4,), dtype=torch.float64), L2)
    values = evaluate(known.exact, x)
    zero, y = torch.zeros(6, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    errors = [zero] * len(values)
    together = last_layers(known.exact, known.l2_gains, values, errors, y)
    generator = torch.Generator().manual_seed(0)
    weights = model[2].weight.detach()
    gaps = weights[y][:, None] - weights
    beta = getattr(activation, "beta", None)
    modulus_of = Modulus(known.exact, known.l2_gains, values, errors)
    better = 0
    for radius in (0.01, 0.1, 0.5, 2.0):
        changes = modulus_of(zero + radius)
        bounds = together(changes)
        better += int((bounds < gaps.norm(dim=2) * changes[2][:, None]).sum())
        r = torch.randn(3000, 6, 4, generator=generator, dtype=torch.float64)
        # Random directions, and those of the differences' own gradients.
        jacobian = torch.func.vmap(torch.func.jacrev(model))(x).detach()
        r[:3] = (jacobian.gather(1, y[:, None, None].expand(-1, 1, 4)) - jacobian).mT.permute(
            2, 0, 1
        )
        r[3:6] = -r[:3]
        r = radius * r / r.norm(dim=2, keepdim=True).clamp(min=1e-300)
        z, moved = (model[0](point).detach() for point in (x, x + r))
        # Softplus without PyTorch's threshold, which counts as rounding.
        smooth = activation if beta is None else lambda v: torch.log1p((beta * v).exp()) / beta
        difference = ((smooth(moved) - smooth(z))[:, :, None] * gaps).sum(dim=3)
        assert (difference.abs() <= bounds * (1 + 1e-12)).all()
        if radius == 0.01 and getattr(activation, "threshold", 20) == 20:  # nearly linear: exact
            found = difference.abs().amax(dim=0)
            assert (found >= 0.9 * bounds - 1e-2 * radius).all()
    assert better > 20


def test_sums_and_concatenations():
    class Both(nn.Module):
        def forward(self, x):
            return torch.cat([x + 2 * x, 4 * x], dim=1)

    x = torch.rand(2, 3, dtype=torch.float64)
    radius = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.allclose(moduli(Both(), x)(radius)[-1], 5 * radius)


def test_bisection_finds_where_a_monotone_condition_ends():
    limit = torch.tensor([3.0, 1e30, 0.5, 1.0, 1.0], dtype=torch.float64)
    start = torch.tensor([0.1, 2.0, 0.5, 0.0, math.inf], dtype=torch.float64)
    found = largest_radius(lambda radius: radius <= limit, start)
    assert found.tolist() == pytest.approx([3.0, 1e30, 0.5, 0.0, math.inf], rel=1e-8)
    assert (found[:3] <= limit[:3]).all()


def test_gains_where_units_saturate():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 20), nn.Tanh(), nn.Linear(20, 3)).double()
    model[0].weight.data.mul_(10)
    x = torch.rand(50, 8, dtype=torch.float64)
    ratio = LayerWise()(model, x).radius / GlobalLipschitz()(model, x).radius
    assert float(ratio.median()) > 1.1


def test_costs_two_passes():
    clf = Classifier(models.build("fonts-cnn"))
    x = torch.rand(3, 1, 28, 28)
    for _ in range(2):
        cost = LayerWise()(clf, x).cost
        assert (cost.forward, cost.backward, cost.jvp, cost.vjp) == (6, 0, 0, 0)


@pytest.mark.parametrize("norm", [L1, Linf], ids=str)
def test_other_norms_are_refused(norm):
    with pytest.raises(ValueError, match=f"LayerWise is for L2, not {norm}"):
        LayerWise(norm=norm)


def test_layers_without_a_rule_are_refused_by_name():
    model = nn.Sequential(nn.ReLU(), nn.LPPool1d(0.5, 2), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UnsupportedOperationError, match=r"'1'.*p=0.5 < 1"):
        LayerWise()(model, torch.rand(1, 2, 4))
