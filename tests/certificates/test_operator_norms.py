"""Bounds on operator norms against the dense matrix of the same layer."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elbowroom import L1, L2, Linf
from elbowroom.certificates import operator_norms
from elbowroom.certificates.gain import response_norm
from elbowroom.certificates.operator_norms import conv_norm, dense_norm
from elbowroom.certificates.pooling import pool_norm, pool_overlap
from elbowroom.graph import evaluate
from elbowroom.graph.graph import Node
from elbowroom.graph.ops import AvgPool, Conv, LocalResponseNorm, MaxPool


def _matrix(op, apply, shape):
    """The dense matrix of a linear layer, one basis vector at a time."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return apply(Node(1, "layer", op, (0,), ()), basis).flatten(1).T


def _true_norm(matrix, norm):
    order = {L1: 1, L2: 2, Linf: math.inf}[norm]
    return float(torch.linalg.matrix_norm(matrix, ord=order))


convolutions = st.tuples(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 2),  # inputs, outputs per group, groups
    st.integers(1, 4), st.integers(1, 3),  # kernel
    st.integers(1, 3), st.integers(0, 2), st.integers(1, 2),  # stride, padding, dilation
    st.integers(0, 2**16),
)  # fmt: skip


@given(convolutions)
@settings(max_examples=80)
def test_convolution(settings_):
    inputs, outputs, groups, kh, kw, stride, padding, dilation, seed = settings_
    shape = (inputs * groups, 9, 8)
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs * groups, inputs, kh, kw, generator=generator, dtype=torch.float64)
    op = Conv(weight, None, (stride, stride), (padding,) * 2, (dilation,) * 2, groups)
    matrix = _matrix(op, evaluate.conv, shape)
    for norm in (L1, Linf):
        assert conv_norm(op, shape, norm) == pytest.approx(_true_norm(matrix, norm), rel=1e-6)
    true = _true_norm(matrix, L2)
    assert true <= conv_norm(op, shape, L2) <= 1.6 * true


def test_fourier_bound_is_tight_on_images():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    op = Conv(weight, None, (2, 2), (1, 1), (1, 1), 1)
    true = _true_norm(_matrix(op, evaluate.conv, (3, 16, 16)), L2)
    assert true <= conv_norm(op, (3, 16, 16), L2) <= 1.14 * true


def test_one_dimensional_convolution():
    weight = torch.randn(2, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    op = Conv(weight, None, (2,), (3,), (1,), 1)
    true = _true_norm(_matrix(op, evaluate.conv, (3, 20)), L2)
    assert true <= conv_norm(op, (3, 20), L2) <= 1.2 * true


def test_many_channels_use_gram_iteration_from_above(monkeypatch):
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(20, 20, 3, 3, generator=generator, dtype=torch.float64)
    op = Conv(weight, None, (1, 1), (1, 1), (1, 1), 1)
    exact = conv_norm(op, (20, 7, 7), L2)
    monkeypatch.setattr(operator_norms, "LARGEST_EIGENPROBLEM", 1)
    assert exact <= conv_norm(op, (20, 7, 7), L2) <= 1.03 * exact


def test_the_papers_counterexample_for_convolutions():
    # The Bounds thesis bounds a convolution by |W|_F: sqrt(2) for w = (1, 1). Its norm is more.
    op = Conv(torch.ones(1, 1, 2, dtype=torch.float64), None, (1,), (0,), (1,), 1)
    assert conv_norm(op, (1, 3), L2) >= 2.828 / math.sqrt(3) > math.sqrt(2)


@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=str)
def test_dense(norm):
    weight = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert dense_norm(weight, norm) == pytest.approx(_true_norm(weight, norm), rel=1e-8)


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("window", [(2, 2, 0, False), (3, 1, 1, False), (3, 2, 1, True)])
def test_average_pooling_as_it_is_computed(window, include):
    kernel, stride, padding, ceil = window
    op = AvgPool((kernel,) * 2, (stride,) * 2, (padding,) * 2, ceil, include)
    matrix = _matrix(op, evaluate.avg_pool, (1, 6, 6))
    for norm in (L1, Linf):
        assert pool_norm(op, (1, 6, 6), norm) == pytest.approx(_true_norm(matrix, norm), rel=1e-6)
    assert pool_norm(op, (1, 6, 6), L2) >= _true_norm(matrix, L2)


@pytest.mark.parametrize("window", [(2, 2, 1), (3, 1, 1), (3, 2, 1), (2, 1, 3), (5, 3, 2)])
def test_max_pooling_overlap_counts_windows(window):
    kernel, stride, dilation = window
    op = MaxPool((kernel,), (stride,), (0,), (dilation,))
    taps = [{o * stride + t * dilation for t in range(kernel)} for o in range(12)]
    most = max(sum(i in tap for tap in taps) for i in range(60))
    assert most <= pool_overlap(op) <= kernel


@given(st.integers(1, 5), st.floats(0.05, 1.0), st.floats(0.01, 30.0), st.integers(0, 2**16))
@settings(max_examples=60)
def test_response_normalisation(size, beta, alpha, seed):
    op = LocalResponseNorm(size, alpha, beta, 1.7)
    node = Node(1, "lrn", op, (0,), ())
    generator = torch.Generator().manual_seed(seed)
    scale = 10 ** (2 * torch.rand((), generator=generator, dtype=torch.float64) - 1)
    x = scale * torch.randn(1, 6, 1, 1, generator=generator, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: evaluate.local_response_norm(node, v), x
    )
    assert float(torch.linalg.matrix_norm(jacobian.reshape(6, 6), 2)) <= response_norm(op) * 1.0001
