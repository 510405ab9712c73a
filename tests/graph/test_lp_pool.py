"""Lp pooling: what it computes, where it is refused, how steep it is; and curvatures."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from elbowroom import L1, L2, Linf
from elbowroom.certificates.gain import gains
from elbowroom.certificates.pooling import lp_pool_norm
from elbowroom.certificates.rounding import layer_errors
from elbowroom.graph import UnsupportedOperationError, pattern, trace
from elbowroom.graph.evaluate import evaluate
from elbowroom.graph.ops import LpPool, Smooth
from elbowroom.graph.signs import cannot_be_negative


def windows(x, p, kernel, stride, ceil):
    """Lp pooling by its definition, partial windows scaled up, for `(N, C, H, W)`."""
    rows = [range(0, size, step) for size, step in zip(x.shape[2:], stride, strict=True)]
    starts = [
        [a for a in r if a + k <= size or (ceil and a - s + k < size)]
        for r, k, s, size in zip(rows, kernel, stride, x.shape[2:], strict=True)
    ]
    out = x.new_zeros(*x.shape[:2], *(len(s) for s in starts))
    for (i, a), (j, b) in itertools.product(*(enumerate(s) for s in starts)):
        part = x[:, :, a : a + kernel[0], b : b + kernel[1]].flatten(2)
        scale = math.prod(kernel) / part.shape[2]
        out[:, :, i, j] = (scale * part.pow(p).sum(dim=2)) ** (1 / p)
    return out


@pytest.mark.parametrize("p", [0.5, 1, 2, 3, 4])
@pytest.mark.parametrize("ceil", [False, True])
def test_traces_to_the_definition(p, ceil):
    layer = nn.LPPool2d(p, (3, 2), stride=(2, 2), ceil_mode=ceil)
    model = nn.Sequential(nn.ReLU(), layer, nn.Flatten())
    graph = trace(model, (2, 6, 7), dtype=torch.float64)
    x = torch.rand(4, 2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = windows(x, p, (3, 2), (2, 2), ceil).flatten(1)
    assert torch.allclose(evaluate(graph, x)[-1], expected, rtol=1e-12)


def test_the_norm_of_signed_inputs_and_functional_style():
    class Net(nn.Module):
        def forward(self, x):
            largest = F.lp_pool1d(x, math.inf, 2)
            return torch.cat([F.lp_pool1d(x, 2, 2), F.lp_pool1d(x, 1.0, 2), largest], 1).flatten(1)

    graph = trace(Net(), (1, 6), dtype=torch.float64)
    x = torch.randn(5, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pairs = x.reshape(5, 3, 2)
    expected = [pairs.norm(dim=2), pairs.sum(dim=2), pairs.abs().amax(dim=2)]
    assert torch.allclose(evaluate(graph, x)[-1], torch.cat(expected, 1), rtol=1e-12)


@pytest.mark.parametrize(
    ("front", "p", "message"),
    [
        (nn.Identity(), 3, r"layer '1' \(LPPool1d\): Lp pooling with p=3 of inputs that can be"),
        (nn.LeakyReLU(), 1.5, "put an activation such as ReLU before it"),
        (nn.Tanh(), 0.5, "can be negative"),
        (nn.ReLU(), -1, "p must be positive"),
    ],
)
def test_what_is_no_real_number_is_refused(front, p, message):
    model = nn.Sequential(front, nn.LPPool1d(p, 2), nn.Flatten())
    with pytest.raises(UnsupportedOperationError, match=message):
        trace(model, (2, 4))


NEVER_NEGATIVE = [
    (nn.ReLU(), True), (nn.ReLU6(), True), (nn.Sigmoid(), True), (nn.Softplus(), True),
    (nn.Hardtanh(0.5, 1.0), True), (nn.Hardtanh(-0.1, 1.0), False), (nn.LeakyReLU(), False),
    (nn.PReLU(3, init=-0.2), True), (nn.PReLU(3), False), (nn.GELU(), False), (nn.ELU(), False),
    (nn.Sequential(nn.ReLU(), nn.MaxPool1d(2), nn.LocalResponseNorm(2), nn.Flatten()), True),
    (nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), True),
    (nn.Sequential(nn.ReLU(), nn.Conv1d(3, 3, 1)), False),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "expected"), NEVER_NEGATIVE, ids=str)
def test_signs(layers, expected):
    graph = trace(nn.Sequential(nn.Conv1d(3, 3, 1), layers).eval(), (3, 4))
    assert cannot_be_negative(graph.nodes, len(graph.nodes) - 1) == expected
    x = 9 * torch.randn(500, 3, 4, generator=torch.Generator().manual_seed(2))
    assert not expected or bool((evaluate(graph, x)[-1] >= 0).all())


def test_a_negative_shift_makes_values_negative():
    norm = nn.BatchNorm1d(3)
    norm.running_mean += 1.0
    graph = trace(nn.Sequential(nn.ReLU(), norm).eval(), (3, 4))
    assert not cannot_be_negative(graph.nodes, 2)


pools = st.tuples(
    st.sampled_from([1.0, 1.3, 2.0, 3.0, 6.0]),
    st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 2**16),
)  # fmt: skip


@given(pools)
@settings(max_examples=40)
def test_no_slope_exceeds_the_constant(pool):
    p, kernel, stride, ceil, seed = pool
    op = LpPool(p, (kernel, kernel), (stride, stride), ceil)
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 5, 6)
    a, b = 10 ** (2 * torch.rand(2, 400, 1, 1, 1, generator=generator, dtype=torch.float64) - 1)
    x = a * torch.rand(400, *shape, generator=generator, dtype=torch.float64).pow(8)
    y = (x + b * torch.randn(400, *shape, generator=generator, dtype=torch.float64)).clamp(min=0)
    change = windows(x, p, op.kernel, op.stride, ceil) - windows(y, p, op.kernel, op.stride, ceil)
    for norm in (L1, L2, Linf):
        slope = norm.length(change) / norm.length(x - y)
        assert float(slope.max()) <= lp_pool_norm(op, shape, norm)


@pytest.mark.parametrize("p", [1.5, 2.0, 3.0])
def test_the_constant_is_attained_without_overlap(p):
    # p < 2: by equal inputs; p > 2: by a single one.
    op = LpPool(p, (2, 2), (2, 2))
    step = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    if p > 2:
        step[..., 1:] = 0
        step[..., 1, :] = 0
    slope = L2.length(windows(step, p, (2, 2), (2, 2), False)) / L2.length(step)
    assert float(slope) == pytest.approx(lp_pool_norm(op, (1, 2, 2), L2), rel=1e-8)


def test_small_powers_have_no_constant_and_no_regions():
    graph = trace(nn.Sequential(nn.ReLU(), nn.LPPool1d(0.5, 2), nn.Flatten()), (2, 4))
    with pytest.raises(UnsupportedOperationError, match=r"p=0.5 < 1 has no Lipschitz constant"):
        gains(graph, L2)
    with pytest.raises(UnsupportedOperationError, match="no linear regions"):
        pattern(graph, torch.zeros(1, 2, 4))


@pytest.mark.parametrize("scale", [1.0, 1e-7, 1e-13])
def test_rounding_covers_underflow(scale):
    model = nn.Sequential(nn.ReLU(), nn.LPPool1d(4, 3), nn.Flatten())
    graph = trace(model, (1, 9))
    exact = graph.to(torch.float64)
    x = scale * torch.rand(50, 1, 9, generator=torch.Generator().manual_seed(3))
    bound = layer_errors(exact, torch.float32)[2].at
    error = (evaluate(graph, x)[2].double() - evaluate(exact, x.double())[2]).abs()
    assert bool((error > 0).any())
    assert bool((error <= bound(exact.nodes[2], x.double())).all())


SMOOTH = [
    nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.Softplus(beta=3.0), nn.SiLU(), nn.GELU(),
    nn.GELU("tanh"), nn.ELU(),
]  # fmt: skip


@pytest.mark.parametrize("activation", SMOOTH, ids=str)
def test_curvatures_are_the_largest_second_derivatives(activation):
    op = trace(activation, (1,), dtype=torch.float64).nodes[-1].op
    assert isinstance(op, Smooth)
    z = torch.linspace(-12, 12, 240_001, dtype=torch.float64)  # a grid through 0
    largest = 0.0
    derivative = torch.func.grad(lambda v: activation(v).sum())
    second = torch.func.grad(lambda v: derivative(v).sum())(z).abs()
    largest = float(second.max())
    assert largest == pytest.approx(op.curvature, rel=1e-6)
    assert largest <= op.curvature * (1 + 1e-9)
    assert float(derivative(z).abs().max()) <= op.lipschitz


def test_a_kink_has_no_curvature():
    op = trace(nn.ELU(0.5), (1,)).nodes[-1].op
    assert isinstance(op, Smooth)
    assert op.curvature == math.inf
