"""The preimage as a function of parameters: against pseudo-inverses, kernels and a solver."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from elbowroom import L2, Classifier
from elbowroom.invariance.layer_preimages import (
    AffinePreimage,
    BijectionPreimage,
    HeldReluPreimage,
    ReluPreimage,
)
from elbowroom.invariance.parametrised import ParametrisedPreimage
from elbowroom.invariance.parametrised_descent import ParametrisedDescent
from elbowroom.regions.newton import project_dense
from nets import randomise_statistics

QUICK = {"newton_steps": 8, "steps": 60, "weights": (1.0, 100.0, 1e4), "learning_rates": (0.01,)}
KERNELS = ["basis", "projector"]
INVERTIBLE = {
    "leaky": lambda: nn.LeakyReLU(0.2),
    "prelu": lambda: nn.PReLU(init=0.3),
    "softplus": lambda: nn.Softplus(beta=2.0),
    "elu": lambda: nn.ELU(alpha=1.5),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _mlp(sizes, activation, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1]).double()


def _conv_net() -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1),
        nn.BatchNorm2d(4),
        nn.PReLU(4),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.LeakyReLU(0.1),
        nn.Linear(16, 3),
    )
    return randomise_statistics(model.double())


# -- one layer ---------------------------------------------------------------------------------


@given(
    outputs=st.integers(1, 6),
    inputs=st.integers(1, 8),
    rank=st.integers(1, 6),
    kernel=st.sampled_from(KERNELS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_an_affine_layer_has_the_pseudo_inverse_and_the_kernel(outputs, inputs, rank, kernel, seed):
    weight = _normal(outputs, rank, seed=seed) @ _normal(rank, inputs, seed=seed + 1)
    bias = _normal(outputs, seed=seed + 2)
    layer = AffinePreimage(weight, bias, kernel)
    null = scipy.linalg.null_space(weight.numpy())
    assert int(layer.rank) == np.linalg.matrix_rank(weight.numpy()) == inputs - null.shape[1]
    assert layer.size == (null.shape[1] if kernel == "basis" else inputs)
    x = _normal(4, inputs, seed=seed + 3)
    y = x @ weight.T + bias
    scale = float(torch.linalg.cond(weight[:1])) + np.linalg.norm(np.linalg.pinv(weight.numpy()))
    # The parameters 0 give the solution of least norm.
    least = torch.from_numpy((y - bias).numpy() @ np.linalg.pinv(weight.numpy()).T)
    assert torch.allclose(layer.point(y, y.new_zeros(4, layer.size)), least, atol=1e-10 * scale)
    # Any parameters give a solution, and every solution has parameters.
    other = layer.point(y, _normal(4, layer.size, seed=seed + 4))
    assert torch.allclose(other @ weight.T + bias, y, atol=1e-10 * scale)
    assert torch.allclose(layer.point(y, layer.parameters(x)), x, atol=1e-10 * scale)
    # The moves are the kernel, all of it.
    moves = (other - least).numpy()
    assert np.allclose(moves, moves @ null @ null.T, atol=1e-9 * scale)
    jacobian = torch.func.jacfwd(lambda v: layer.point(y[:1], v[None])[0])(_normal(layer.size))
    singular = np.linalg.svd(jacobian.numpy(), compute_uv=False)
    assert (singular > 1e-9).sum() == null.shape[1]


def test_outputs_outside_of_the_range_are_reported_and_not_projected():
    weight = torch.tensor([[1.0, 0.0, 2.0], [2.0, 0.0, 4.0]], dtype=torch.float64)
    bias = torch.tensor([1.0, 2.0], dtype=torch.float64)
    layer = AffinePreimage(weight, bias)
    assert int(layer.rank) == 1
    y = torch.tensor([[3.0, 6.0], [3.0 - 2.0, 6.0 + 1.0]], dtype=torch.float64)
    assert torch.allclose(layer.residual(y), torch.tensor([0.0, 5**0.5]).double())
    x = layer.point(y, _normal(2, 2))
    assert torch.allclose(x[0] @ weight.T + bias, y[0])
    assert x[1].isnan().all()
    tall = AffinePreimage(_normal(4, 2), None)
    assert tall.point(_normal(3, 4), _normal(3, 0)).isnan().all()


def test_held_inputs_stay_and_the_others_are_free():
    weight, bias, x = _normal(3, 7, seed=1), _normal(3, seed=2), _normal(5, 7, seed=3)
    held = _normal(5, 7, seed=4) > 0.6
    layer = AffinePreimage(weight, bias, held=held, at=x)
    y = x @ weight.T + bias
    assert torch.allclose(layer.point(y, layer.parameters(x)), x, atol=1e-12)
    other = layer.point(y, _normal(5, 7, seed=5))
    assert torch.equal(other[held], x[held])
    assert torch.allclose(other @ weight.T + bias, y, atol=1e-12)
    dimensions = 0
    for row in range(5):
        free = ~held[row]
        null = scipy.linalg.null_space(weight[:, free].numpy())
        move = (other - x)[row, free].numpy()
        assert np.allclose(move, null @ null.T @ move)
        assert null.shape[1] == 0 or np.abs(move).max() > 1e-3
        dimensions += null.shape[1]
    assert dimensions == 5
    with pytest.raises(ValueError, match="held inputs need the values"):
        AffinePreimage(weight, bias, held=held)
    with pytest.raises(ValueError, match="kernel must be basis or projector, not 'svd'"):
        AffinePreimage(weight, bias, kernel="svd")


def test_relu_has_its_preimage_where_the_output_is_not_negative():
    y = torch.tensor([[2.0, 0.0, 0.0], [1.0, 0.0, -1.0]], dtype=torch.float64)
    v = torch.tensor([[5.0, -3.0, 2.0], [5.0, -3.0, 2.0]], dtype=torch.float64)
    layer = ReluPreimage(3)
    x = layer.point(y, v)
    assert torch.equal(x[0], torch.tensor([2.0, -3.0, -2.0]).double())
    assert torch.equal(x[1].isnan(), torch.tensor([False, False, True]))
    assert torch.equal(layer.point(y[:1], layer.parameters(x[:1])), x[:1])
    held = HeldReluPreimage(torch.tensor([[True, False, True], [True, False, True]]))
    assert torch.equal(held.point(y, v)[:, :2], torch.tensor([[2.0, -3.0], [1.0, -3.0]]).double())
    assert torch.equal(held.point(y, v)[:, 2].isnan(), torch.tensor([False, True]))
    assert torch.equal(held.extended(y, v)[:, 2], y[:, 2])


def _only(activation: nn.Module) -> BijectionPreimage:
    """The preimage of an activation alone, on five features."""
    layers = ParametrisedPreimage(Classifier(activation.double()), (5,))._layers
    assert isinstance(layers[0][1], BijectionPreimage)
    return layers[0][1]


@pytest.mark.parametrize("name", INVERTIBLE)
def test_activations_are_inverted_in_their_range(name):
    activation = INVERTIBLE[name]().double()
    layer = _only(activation)
    z = 3 * _normal(200, 5)
    y = activation(z).detach()
    assert torch.allclose(layer.point(y, y[:, :0]), z, atol=1e-10)
    mild = activation(z[:4] / 6).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: layer.point(t, t[:, :0]), mild)


@pytest.mark.parametrize(
    ("name", "outside"),
    [
        ("tanh", [-1.0, 1.0, 1.5]),
        ("sigmoid", [0.0, 1.0, -0.5]),
        ("softplus", [0.0, -0.5]),
        ("elu", [-1.5, -2.0]),
    ],
)
def test_outside_of_their_range_there_is_nothing(name, outside):
    layer = _only(INVERTIBLE[name]())
    for value in outside:
        y = torch.full((1, 5), value, dtype=torch.float64)
        assert layer.point(y, y[:, :0]).isnan().all(), value


def test_softplus_is_the_identity_above_its_threshold():
    layer = _only(nn.Softplus(beta=2.0))
    y = torch.tensor([[10.5, 30.0, 800.0, 9.9, 1e-8]], dtype=torch.float64)
    x = layer.point(y, y[:, :0])
    assert torch.allclose(nn.Softplus(beta=2.0)(x), y, rtol=1e-12, atol=0)
    assert torch.equal(x[:, :3], y[:, :3])


# -- the network -------------------------------------------------------------------------------


@given(
    widths=st.lists(st.integers(2, 12), min_size=2, max_size=5),
    slope=st.floats(0.05, 2.0),
    kernel=st.sampled_from(KERNELS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_all_parameters_give_the_features_and_all_inputs_have_parameters(
    widths, slope, kernel, seed
):
    sizes = sorted(widths, reverse=True)
    model = _mlp(sizes, lambda: nn.LeakyReLU(slope), seed)
    for index, module in enumerate(m for m in model if isinstance(m, nn.Linear)):
        # Orthonormal rows: random square ones can be singular for all practical purposes.
        rows = torch.linalg.qr(_normal(module.in_features, module.out_features, seed=seed + index))
        module.weight.data = 1.5 * rows.Q.T.clone()
    clf = Classifier(model)
    preimage = ParametrisedPreimage(clf, sizes[:1], kernel)
    if kernel == "basis":
        assert preimage.size == sizes[0] - sizes[-1]
    else:
        assert preimage.size == sum(sizes[:-1])
    assert preimage.size == sum(size for _, size in preimage.sizes)
    x = _normal(4, sizes[0], seed=seed)
    targets = preimage.features(x)
    assert torch.allclose(targets, clf.logits(x), atol=1e-12)
    again = preimage.point(targets, preimage.parameters(x))
    assert torch.allclose(again, x, atol=1e-10)
    anywhere = preimage.point(targets, 3 * _normal(4, preimage.size, seed=seed + 1))
    assert (clf.logits(anywhere) - targets).abs().max() < 1e-10
    any_targets = 5 * _normal(4, sizes[-1], seed=seed + 2)
    anywhere = preimage.point(any_targets, _normal(4, preimage.size, seed=seed + 3))
    assert (clf.logits(anywhere) - any_targets).abs().max() < 1e-10


@pytest.mark.parametrize("kernel", KERNELS)
def test_convolution_pooling_batch_norm_and_normalisation(kernel):
    clf = Classifier(_conv_net(), mean=[0.4, 0.6], std=[0.2, 0.5])
    preimage = ParametrisedPreimage(clf, (2, 8, 8), kernel)
    if kernel == "basis":
        assert preimage.sizes == (("0", 64), ("3", 48), ("6", 13))
        assert preimage.size == 2 * 8 * 8 - 3
    x = _normal(3, 2, 8, 8)
    targets = preimage.features(x)
    assert torch.allclose(preimage.point(targets, preimage.parameters(x)), x, atol=1e-10)
    anywhere = preimage.point(targets, _normal(3, preimage.size, seed=1))
    assert anywhere.shape == x.shape
    assert L2.length(anywhere - x).min() > 1
    assert (clf.logits(anywhere) - targets).abs().max() < 1e-10


def test_the_inverse_activation_belongs_inside_and_not_outside():
    """(3.65) applies it to the input of the layer; what is inverted is its output."""
    model = _mlp((12, 8, 5, 3), lambda: nn.LeakyReLU(0.1), seed=3)
    clf = Classifier(model)
    linears = [m for m in model if isinstance(m, nn.Linear)]
    x = _normal(6, 12)
    targets = clf.logits(x)
    pseudo = [torch.linalg.pinv(m.weight.detach()) for m in linears]
    pairs = zip(linears, pseudo, strict=True)
    kernels = [torch.eye(m.in_features) - p @ m.weight.detach() for m, p in pairs]
    v = [_normal(6, m.in_features, seed=k) for k, m in enumerate(linears)]
    printed = targets
    for k in reversed(range(3)):
        printed = (printed - linears[k].bias.detach()) @ pseudo[k].T + v[k] @ kernels[k].T
        printed = torch.where(printed > 0, printed, printed / 0.1)
    assert (clf.logits(printed) - targets).abs().max() > 1
    preimage = ParametrisedPreimage(clf, (12,), "projector")
    ours = preimage.point(targets, torch.cat(v, dim=1))
    assert (clf.logits(ours) - targets).abs().max() < 1e-13


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "softplus", "elu"])
def test_activations_with_a_range_give_points_or_nothing(name):
    clf = Classifier(_mlp((10, 6, 4, 3), INVERTIBLE[name], seed=2))
    preimage = ParametrisedPreimage(clf, (10,))
    x = _normal(64, 10)
    targets = preimage.features(x)
    p = preimage.parameters(x)
    assert torch.allclose(preimage.point(targets, p), x, atol=1e-9)
    points = preimage.point(targets, p + 0.5 * _normal(64, preimage.size, seed=1))
    there = points.isfinite().all(dim=1)
    assert 0 < there.sum() < 64
    assert points[~there].isnan().all()
    assert (clf.logits(points[there]) - targets[there]).abs().max() < 1e-9


@pytest.mark.parametrize("kernel", KERNELS)
def test_gradients_are_those_of_finite_differences(kernel):
    preimage = ParametrisedPreimage(Classifier(_conv_net()), (2, 8, 8), kernel)
    x = _normal(2, 2, 8, 8)
    targets, p = preimage.features(x), preimage.parameters(x)
    direction = _normal(2, preimage.size, seed=1)
    p.requires_grad_()
    weights = _normal(2, 2, 8, 8, seed=2)
    value = (preimage.point(targets, p) * weights).sum()
    (gradient,) = torch.autograd.grad(value, p)
    step = 1e-7
    ends = [preimage.point(targets, p.detach() + s * step * direction) for s in (1, -1)]
    slope = ((ends[0] - ends[1]) * weights).sum() / (2 * step)
    assert torch.allclose((gradient * direction).sum(), slope, rtol=1e-6)


def _relu_problem(activation=nn.ReLU):
    clf = Classifier(_mlp((20, 12, 3), activation, seed=5), bounds=(-4, 4))
    x = _normal(16, 20)
    return clf, x, ParametrisedPreimage(clf, (20,), like=x)


def test_a_held_relu_keeps_its_activity_and_its_features():
    clf, x, preimage = _relu_problem()
    targets, p = preimage.features(x), preimage.parameters(x)
    assert torch.allclose(preimage.point(targets, p), x, atol=1e-12)
    moved = preimage.point(targets, p + 0.03 * _normal(16, preimage.size, seed=1))
    there = moved.isfinite().all(dim=1)
    assert there.sum() >= 8
    assert (clf.logits(moved[there]) - targets[there]).abs().max() < 1e-12
    hidden = clf.network[1]
    assert torch.equal(hidden(moved[there]) > 0, hidden(x[there]) > 0)
    assert (L2.length(moved[there] - x[there]) > 0.01).all()
    # Inactive units alone may take any value: all of these points exist.
    free = p.clone()
    free[:, 8:20] = 3 * _normal(16, 12, seed=2)
    assert preimage.sizes == (("1", 8), ("2", 12), ("3", 12))
    loose = preimage.point(targets, free)
    assert (clf.logits(loose) - targets).abs().max() < 1e-12
    # Far away, active units would have to be negative.
    moved = p + 50 * _normal(16, preimage.size, seed=3)
    far, (x_far, slack) = preimage.point(targets, moved), preimage.relaxed(targets, moved)
    outside = (slack < 0).any(dim=1)
    assert outside.sum() >= 12
    assert torch.equal(far.isnan().all(dim=1), outside)
    assert torch.equal(far[~outside], x_far[~outside])
    with pytest.raises(ValueError, match=r"sample \d+ has other active units in layer '2'"):
        preimage.parameters(-x)
    with pytest.raises(ValueError, match="units of 16 inputs are held, got 2 rows"):
        preimage.point(targets[:2], p[:2])


def test_relu_behind_batch_norm_keeps_inactive_units_where_they_are():
    torch.manual_seed(0)
    layers = [nn.Linear(20, 12), nn.ReLU(), nn.BatchNorm1d(12), nn.LeakyReLU(0.2), nn.Linear(12, 3)]
    clf = Classifier(randomise_statistics(nn.Sequential(*layers).double()))
    x = _normal(16, 20)
    preimage = ParametrisedPreimage(clf, (20,), like=x)
    targets, p = preimage.features(x), preimage.parameters(x)
    assert torch.allclose(preimage.point(targets, p), x, atol=1e-12)
    moved = preimage.point(targets, p + 0.01 * _normal(16, preimage.size, seed=1))
    there = moved.isfinite().all(dim=1)
    assert there.any()
    assert (clf.logits(moved[there]) - targets[there]).abs().max() < 1e-12


def test_a_last_layer_without_full_rank_has_points_for_its_own_outputs_only():
    model = _mlp((8, 6, 3), lambda: nn.LeakyReLU(0.1))
    model[3].weight.data[2] = -model[3].weight.data[:2].sum(dim=0)
    preimage = ParametrisedPreimage(Classifier(model), (8,))
    assert preimage.size == 8 - 2
    x = _normal(4, 8)
    targets = preimage.features(x)
    points = preimage.point(targets, _normal(4, preimage.size, seed=1))
    assert torch.allclose(preimage.features(points), targets, atol=1e-12)
    assert preimage.point(targets + 1.0, _normal(4, preimage.size, seed=1)).isnan().all()


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6).double(), nn.Linear(6, 3).double()

    def forward(self, x):
        return self.two(x + nn.functional.leaky_relu(self.one(x), 0.1))


class _Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64))
        self.head = nn.Linear(4, 2).double()

    def forward(self, x):
        return self.head(x * self.scale)


def _deficient() -> nn.Module:
    model = _mlp((6, 4, 2), lambda: nn.LeakyReLU(0.1))
    model[1].weight.data[3] = model[1].weight.data[0]
    return model


def _twice_relu() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def _pooled() -> nn.Module:
    return nn.Sequential(nn.MaxPool1d(2), nn.Flatten(), nn.Linear(6, 2))


REFUSED = {
    "widens": (lambda: _mlp((4, 6, 2), nn.Tanh), (4,), "layer '1' .* widens from 4 to 6 features"),
    "branches": (_Residual, (6,), "layer 'add.*' .* joins branches"),
    "max pool": (_pooled, (2, 6), "layer '0' .MaxPool. has no parametrised preimage"),
    "gelu": (lambda: _mlp((4, 3, 2), nn.GELU), (4,), "layer '2' .gelu.: it cannot be inverted"),
    "silu": (lambda: _mlp((4, 3, 2), nn.SiLU), (4,), ".silu.: it cannot be inverted"),
    "hardtanh": (lambda: _mlp((4, 3, 2), nn.Hardtanh), (4,), ".hardtanh.: it has a slope"),
    "prelu": (
        lambda: _mlp((4, 3, 2), lambda: nn.PReLU(init=-0.1)),
        (4,),
        ".prelu.: it has a slope",
    ),
    "relu": (lambda: _mlp((4, 3, 2), nn.ReLU), (4,), "layer '2' .* is a ReLU.* pass like="),
    "rank": (_deficient, (6,), "layer '1' .* has rank 3 for 4 outputs"),
    "scale 0": (_Scaled, (4,), "multiplies a feature by 0"),
    "large": (
        lambda: nn.Sequential(nn.Conv1d(1, 1, 3, stride=2), nn.Flatten(), nn.Linear(2500, 2)),
        (1, 5001),
        "layer '0' .Conv. has 5001 inputs",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_parametrised_is_refused_by_name(name):
    make, shape, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        ParametrisedPreimage(Classifier(make().double().eval()), shape)


def test_refusals_of_a_relu_on_a_relu_and_of_wrong_parameters():
    clf = Classifier(_twice_relu().double().eval())
    with pytest.raises(ValueError, match=r"layer '3' .* is a ReLU on a ReLU"):
        ParametrisedPreimage(clf, (6,), like=_normal(2, 6))
    preimage = ParametrisedPreimage(Classifier(_mlp((6, 4, 2), nn.Tanh)), (6,))
    with pytest.raises(ValueError, match=r"must have shape \(3, 4\), got \(3, 5\)"):
        preimage.point(_normal(3, 2), _normal(3, 5))


# -- the descent -------------------------------------------------------------------------------


def _affine_problem(bounds):
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(12, 7), nn.Linear(7, 3)]
    clf = Classifier(nn.Sequential(*layers).double(), bounds=bounds)
    start, toward = torch.rand(2, 6, 12, generator=torch.Generator().manual_seed(1)).double()
    matrix = clf.network[2].weight.detach() @ clf.network[1].weight.detach()
    return clf, start, (toward > 0.5).double(), matrix


@pytest.mark.parametrize("kernel", KERNELS)
def test_on_an_affine_network_it_ends_at_the_orthogonal_projection(kernel):
    clf, start, toward, matrix = _affine_problem((-torch.inf, torch.inf))
    result = ParametrisedDescent(kernel=kernel, learning_rates=())(clf, start=start, toward=toward)
    nearest = toward + (start - toward) @ (torch.linalg.pinv(matrix) @ matrix).T
    assert result.success.all()
    assert result.feature_mse.max() < 1e-24
    assert torch.allclose(result.distance, L2.length(nearest - toward), rtol=1e-6)
    assert (result.example - nearest).abs().max() < 1e-6


BOTH = {
    "newton": {"learning_rates": ()},
    "adam": {"newton_steps": 0, "learning_rates": (0.01,), "steps": 200},
}


@pytest.mark.parametrize("name", BOTH)
def test_in_a_box_it_ends_where_a_quadratic_program_does(name):
    clf, start, toward, matrix = _affine_problem((0.0, 1.0))
    result = ParametrisedDescent(margin=1e-6, **BOTH[name])(clf, start=start, toward=toward)
    rows = torch.cat([matrix, -matrix]).expand(6, -1, -1)
    product = start @ matrix.T
    box = torch.zeros(12).double(), torch.ones(12).double()
    found = project_dense(
        toward,
        rows,
        torch.cat([product, -product], dim=1),
        *box,
        torch.zeros(6, 6).double(),
        ceiling=torch.full((6,), torch.inf).double(),
    )
    exact = L2.length(found.z - toward)
    assert found.error.max() < 1e-8
    outside = start - (start - toward) @ (torch.eye(12) - torch.linalg.pinv(matrix) @ matrix).T
    assert ((outside < 0) | (outside > 1)).any(dim=1).all()  # the box does matter
    assert ((result.example >= 0) & (result.example <= 1)).all()
    assert result.feature_mse.max() < 1e-24
    assert (result.distance >= exact * (1 - 1e-8)).all()
    assert torch.allclose(result.distance, exact, rtol=1e-5 if name == "newton" else 0.03)


def _leaky_problem(dtype=torch.float64, scale: float = 1.0):
    model = _mlp((16, 10, 6, 3), lambda: nn.LeakyReLU(0.3), seed=4)
    model[1].weight.data /= scale
    clf = Classifier(model.to(dtype), bounds=(0.0, scale))
    start, toward = torch.rand(2, 8, 16, generator=torch.Generator().manual_seed(2)).to(dtype)
    return clf, scale * start, scale * toward


def test_on_a_leaky_network_the_features_are_exact_and_the_gain_large():
    clf, start, toward = _leaky_problem()
    result = ParametrisedDescent(**QUICK)(clf, start=start, toward=toward)
    assert result.success.all()
    assert result.feature_mse.max() < 1e-24
    assert ((result.example >= 0) & (result.example <= 1)).all()
    assert (result.distance < 0.75 * L2.length(start - toward)).all()
    # Nothing in the linear region of the answer is much nearer.
    x = result.example
    jacobian = torch.func.vmap(torch.func.jacrev(lambda t: clf.network(t[None])[0]))(x)
    # Without the box and the kinks, the tangent space bounds the distance from below.
    normal = torch.linalg.pinv(jacobian) @ jacobian
    least = L2.length(torch.bmm(normal, (x - toward)[..., None]).squeeze(2))
    assert (result.distance >= least - 1e-9).all()
    assert result.cost.backward >= 3 * 60 * 8


def test_float32_and_other_units_of_the_input_end_at_the_same_distances():
    def distances(*problem):
        clf, start, toward = _leaky_problem(*problem)
        result = ParametrisedDescent(**QUICK)(clf, start=start, toward=toward)
        assert result.example.dtype == clf.dtype
        assert result.success.all()
        return result.distance

    expected = distances()
    assert torch.allclose(distances(torch.float32), expected, rtol=1e-2)
    assert torch.allclose(distances(torch.float64, 255.0), 255 * expected, rtol=1e-6)


def test_samples_do_not_depend_on_their_batch():
    clf, start, toward = _leaky_problem()
    method = ParametrisedDescent(**QUICK)
    together = method(clf, start=start, toward=toward)
    alone = method(clf, start=start[2:4], toward=toward[2:4])
    assert torch.allclose(together.distance[2:4], alone.distance, rtol=1e-6)


@pytest.mark.parametrize("options", BOTH.values(), ids=BOTH)
def test_each_method_alone_gains_on_a_leaky_network(options):
    clf, start, toward = _leaky_problem()
    result = ParametrisedDescent(**{**QUICK, **options})(clf, start=start, toward=toward)
    assert result.feature_mse.max() < 1e-24
    # Newton stops at a kink for one of them.
    assert (result.distance < 0.9 * L2.length(start - toward)).sum() >= 7


def test_features_that_no_input_was_given_for():
    clf, start, toward = _leaky_problem()
    method = ParametrisedDescent(**QUICK)
    with_start = method(clf, start=start, toward=toward)
    result = method(clf, target=clf.logits(start), toward=toward)
    found = result.success
    assert found.sum() >= 7
    assert result.feature_mse[found].max() < 1e-24
    assert (result.distance[found] < 1.3 * with_start.distance[found]).all()
    # Logits that no point of the box has: a miss, and said to be one.
    missed = method(clf, target=clf.logits(start) + 100, toward=toward)
    assert not missed.success.any()
    assert missed.distance.isinf().all()


def test_features_of_an_inner_layer_and_logits_up_to_a_shift():
    clf, start, toward = _leaky_problem()
    inner = ParametrisedDescent(**{**QUICK, "learning_rates": ()}, layer="3")(
        clf, start=start, toward=toward
    )
    assert (clf.network[:4](inner.example) - clf.network[:4](start)).abs().max() < 1e-12
    # A single descent can find nothing; which one does depends on the processor's last bits.
    between = L2.length(start - toward)
    assert (inner.distance <= between * (1 + 1e-9)).all()
    assert (inner.distance < 0.9 * between).sum() >= 7
    shifted = ParametrisedDescent(**QUICK, up_to_shift=True)(clf, start=start, toward=toward)
    change = clf.logits(shifted.example) - clf.logits(start)
    assert (change - change[:, :1]).abs().max() < 1e-12
    plain = ParametrisedDescent(**QUICK)(clf, start=start, toward=toward)
    assert shifted.distance.mean() < plain.distance.mean()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["relu", "tanh"])
def test_networks_with_a_range_gain_and_stay_exact(activation):
    clf, x, _ = _relu_problem(activation)
    start, toward = x[:8].clamp(-4, 4), x[8:].clamp(-4, 4)
    result = ParametrisedDescent(**{**QUICK, "steps": 120})(clf, start=start, toward=toward)
    assert result.success.all()
    assert result.feature_mse.max() < 1e-20
    assert (result.distance < L2.length(start - toward)).all()
    if activation is nn.ReLU:
        hidden = clf.network[1]
        assert torch.equal(hidden(result.example) > 0, hidden(start) > 0)


def test_where_a_held_relu_leaves_nothing_free_the_answer_is_the_start():
    clf = Classifier(_mlp((8, 8, 8, 2), nn.ReLU, seed=1), bounds=(-5, 5))
    start, toward = _normal(4, 8), _normal(4, 8, seed=1)
    result = ParametrisedDescent(**QUICK)(clf, start=start, toward=toward)
    assert result.success.all()
    assert result.feature_mse.max() < 1e-20
    assert (result.distance <= L2.length(start - toward)).all()


def test_hyperparameters_and_networks_that_it_cannot_work_with():
    with pytest.raises(ValueError, match=r"less than 0\.5, not 0\.5"):
        ParametrisedDescent(margin=0.5)
    with pytest.raises(ValueError, match=r"weights must be positive, at least one, not \(\)"):
        ParametrisedDescent(weights=())
    with pytest.raises(ValueError, match="learning_rates must be positive, not"):
        ParametrisedDescent(learning_rates=(0.1, 0.0))
    with pytest.raises(ValueError, match="newton_steps must be an integer of at least 0, not -1"):
        ParametrisedDescent(newton_steps=-1)
    clf = Classifier(_mlp((4, 6, 2), nn.Tanh))
    x = torch.rand(2, 4).double()
    with pytest.raises(ValueError, match=r"layer '1' .* widens"):
        ParametrisedDescent()(clf, start=x, toward=x)
