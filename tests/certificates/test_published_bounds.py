"""The thesis's formulas as printed: against other ways to write them, and their known errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from elbowroom import L1, L2, Classifier, models
from elbowroom.certificates import CERTIFICATES, LayerWise, PublishedLayerWise, published
from elbowroom.certificates.operator_norms import dense_norm
from elbowroom.graph import UnsupportedOperationError
from elbowroom.graph.ops import LocalResponseNorm
from nets import make, randomise_statistics
from oracles.linear import distances, problem


def one(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_certificate_does_not_call_itself_sound():
    assert CERTIFICATES["published-layer-wise"] is PublishedLayerWise
    clf, x, y = problem(1, 4, classes=3)
    found = PublishedLayerWise()(clf, x, y)
    assert found.sound is False
    # Theorem 3.6 is all there is to a linear classifier, and exact.
    assert torch.allclose(found.radius, distances(clf, x, y, L2).amin(dim=1), rtol=1e-6)
    with pytest.raises(ValueError, match="PublishedLayerWise is for L2, not L1"):
        PublishedLayerWise(norm=L1)


def test_convolution_claims_more_than_moves_it():
    weight, r = torch.ones(1, 1, 2, dtype=torch.float64), torch.ones(1, 1, 3, dtype=torch.float64)
    moved = float(nn.functional.conv1d(r, weight).norm())
    claimed = float(published.published_convolution(one(moved), weight))
    assert claimed == pytest.approx(math.sqrt(8) / math.sqrt(2))
    assert claimed > float(r.norm())


def test_batch_norm_of_two_features():
    claimed = published.published_batch_norm(
        one(1.0), torch.zeros(1, 2).double(), one(1.0), one(0.0), one(0.0),
        torch.tensor([1.0, 100.0], dtype=torch.float64),
    )  # fmt: skip
    assert float(claimed) == pytest.approx(7.0711, abs=1e-4)  # moving by 1 is enough


def test_batch_norm_solves_the_printed_equation():
    x, gamma, beta, mean = random(4, 5), random(5, seed=1), random(5, seed=2), random(5, seed=3)
    variance, kappa = random(5, seed=4).square() + 0.1, random(4, seed=5).abs()
    output = gamma * (x - mean) / variance.sqrt() + beta
    psi = ((2 * kappa * output.norm(dim=1) + kappa**2) / 5)[:, None]
    phi, chi = gamma / variance, 2 * gamma * (x - mean) + 2 * beta * variance.sqrt()
    root = (phi**2 * chi**2 + 4 * phi * gamma * psi).sqrt()
    rho = torch.stack([-(root + phi * chi), root - phi * chi]) / (2 * phi * gamma)
    expected = rho.abs().amin(dim=0).amax(dim=1)
    found = published.published_batch_norm(kappa, x, gamma, beta, mean, variance)
    assert torch.allclose(found, expected, rtol=1e-9)


def test_dense_layers_with_their_wrong_constants():
    m = published.published_m([torch.ones(1, 1)], ["relu"])
    assert float(published.published_dense(one(0.5), one(0.0), 1, m)) == pytest.approx(1.0)
    slope = one(1 - math.tanh(-1.21) ** 2)
    m = published.published_m([torch.ones(1, 1)], ["tanh"])
    claimed = published.published_dense(one(0.7867), slope, 1, m)
    assert float(claimed) == pytest.approx(1.388, abs=2e-3)  # the distance is 1.160
    # softplus(1'x) with 784 inputs: the largest second derivative is 1/4.
    jacobian = one(28 / (1 + math.exp(6)))
    claimed = published.published_dense(one(5.0), jacobian, 1, 1 / 4)
    assert float(claimed) == pytest.approx(6.05, abs=5e-3)  # the distance is 0.393


def test_the_table_of_derivatives():
    second = {name: pair[1] for name, pair in published.PUBLISHED_DERIVATIVES.items()}
    assert second["sigmoid"] == pytest.approx(1 / (6 * math.sqrt(3)))
    assert 2 * second["tanh"] == pytest.approx(4 / (3 * math.sqrt(3)))


def test_m_bounds_second_derivatives_where_the_table_does():
    weights = [random(4, 3), random(5, 4, seed=1)]
    m = published.published_m(weights, ["sigmoid", "softplus"])

    def hidden(x):
        return nn.functional.softplus(weights[1] @ torch.sigmoid(weights[0] @ x))

    hessian = torch.func.hessian(hidden)
    assert max(float(hessian(random(3, seed=s)).abs().max()) for s in range(2, 30)) <= m


def test_response_normalisation():
    op = LocalResponseNorm(5, 5e-4, 0.75, 2.0)  # AlexNet: alpha = 1e-4 there
    x = torch.tensor([[10.0, 0.0]], dtype=torch.float64)[:, :, None, None]
    claimed = published.published_response_norm(one(1.0), x, op)
    assert float(claimed) == pytest.approx(8.19, abs=1e-2)  # the distance is 1.71


@pytest.mark.parametrize("size", [2, 3, 5])
def test_the_gradient_of_response_normalisation(size):
    op = LocalResponseNorm(size, 0.8, 0.6, 1.3)
    x, kappa = random(1, 6, 2, 1), one(0.3)
    output = nn.functional.local_response_norm(x, size, 0.8, 0.6, 1.3)
    jacobian = torch.func.jacrev(
        lambda v: nn.functional.local_response_norm(v, size, 0.8, 0.6, 1.3)
    )(x)
    gradient = jacobian.reshape(12, 12).norm(dim=1)
    delta = output.abs().flatten() - (output.norm() + kappa) / math.sqrt(12)
    alpha, top = 0.8 / size, float(x.abs().max())
    m = 4 * top * alpha * 0.6 * (top**2 * alpha * 1.6 * 1.3**-2.6 + 1.3**-1.6)
    m += 2 * top * alpha * 0.6 * 1.3**-1.6
    claims = ((gradient**2 - 2 * m * delta).sqrt() - gradient) / m
    expected = claims[delta < 0].max()
    assert torch.allclose(published.published_response_norm(kappa, x, op), expected, rtol=1e-9)


def test_pooling():
    assert float(published.published_pooling(one(3.0), 4)) == 0.75
    assert float(published.published_lp_pooling(one(3.0), 2, 2, 2.0)) == 0.75
    assert float(published.published_lp_pooling(one(1e-2 * 2000), 1, 2, 0.5)) == pytest.approx(1.25)


def test_the_chain_of_a_convolutional_network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 6), nn.Sigmoid(), nn.Linear(6, 3),
    ).double()  # fmt: skip
    x = torch.rand(5, 1, 8, 8, dtype=torch.float64)
    features = model[:6](x)
    logits, weights = model(x), model[8].weight
    hidden = model[6:8]
    jacobian = torch.stack([torch.func.jacrev(hidden)(f).detach() for f in features])
    y = logits.argmax(dim=1)
    kappa = published.published_linear(logits, weights, y)
    m = published.published_m([model[6].weight.detach()], ["sigmoid"])
    spectral = torch.linalg.matrix_norm(jacobian, ord=2)
    kappa = published.published_dense(kappa, spectral, 6, m)
    expected = kappa / model[3].weight.norm() / 3 / model[0].weight.norm()
    found = PublishedLayerWise()(Classifier(model), x)
    assert torch.allclose(found.radius, expected, rtol=1e-9)
    assert found.cost.forward == 10


@pytest.mark.parametrize("name", ["lenet5", "lenet5-lrn1", "fonts-cnn"])
def test_networks_of_the_library(name):
    torch.manual_seed(0)
    clf = Classifier(randomise_statistics(models.build(name)))
    x = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    radius = PublishedLayerWise()(clf, x).radius
    assert ((radius > 0) & radius.isfinite()).all()


def test_it_can_be_wrong_where_the_corrected_one_is_not():
    # One convolution whose windows overlap: the thesis divides by |W|_F, the norm is larger.
    model = nn.Sequential(nn.Conv1d(1, 1, 8, bias=False), nn.Flatten(), nn.Linear(30, 2)).double()
    model[0].weight.data.fill_(1.0)
    matrix = model[0](torch.eye(37, dtype=torch.float64)[:, None])[:, 0].T.detach()
    direction = torch.linalg.svd(matrix)[0][:, 0]
    model[2].weight.data.copy_(torch.stack([direction, -direction]))
    model[2].bias.data.copy_(torch.tensor([1.0, -1.0]))
    clf = Classifier(model, bounds=(-9, 9))
    x = torch.zeros(1, 1, 37, dtype=torch.float64)
    true = 1 / dense_norm(matrix, L2)
    assert float(PublishedLayerWise()(clf, x).radius) > 2 * true
    assert 0.9 * true < float(LayerWise()(clf, x).radius) <= true


REFUSED = {
    "resnet": (lambda: make("resnet")[0], (1, 8, 8), r"'shortcut' \(Conv\): Algorithm 5.1 is"),
    "leaky": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(), nn.Linear(4, 2)), (3,),
        r"'1' \(leaky_relu\): Table 4.1 has no bounds",
    ),
    "softplus": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Softplus(3.0), nn.Linear(4, 2)), (3,),
        "softplus with beta=1 only",
    ),
    "end": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU()), (3,), "linear layer at the end"),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2)),
        (3,), r"'0' \(Linear\): the thesis has no formula for it there",
    ),
    "oblong": (
        lambda: nn.Sequential(nn.MaxPool2d((1, 2)), nn.Flatten(), nn.Linear(8, 2)), (1, 4, 4),
        "square feature maps",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_layers_without_a_formula_are_refused_by_name(name):
    model, shape, message = REFUSED[name]
    with pytest.raises(UnsupportedOperationError, match=message):
        PublishedLayerWise()(model().eval().float(), torch.rand(1, *shape))
