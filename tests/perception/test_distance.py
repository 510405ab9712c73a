"""Norms, PSNR and SSIM against plain formulas, and what all distances have in common."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from elbowroom import L1, L2, Classifier, Linf
from elbowroom.perception import L0, SSIM, FeatureDistance, Lp, across, psnr


def images(count=3, shape=(2, 14, 12), seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, generator=generator, dtype=dtype)


def dense_ssim(x, y, low, high):
    """Wang et al. 2004, window by window, for one image (C, H, W) in numpy."""
    offsets = np.arange(11) - 5
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * (high - low)) ** 2, (0.03 * (high - low)) ** 2
    channels = []
    for a, b in zip(x - low, y - low, strict=True):
        values = []
        for i in range(a.shape[0] - 10):
            for j in range(a.shape[1] - 10):
                p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                luminance = (2 * mp * mq + c1) / (mp**2 + mq**2 + c1)
                values.append(luminance * (2 * cov + c2) / (vp + vq + c2))
        channels.append(np.mean(values))
    return np.mean(channels)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, 255.0), (-1.0, 1.0)])
def test_ssim_agrees_with_a_dense_computation(bounds):
    low, high = bounds
    x = low + (high - low) * images(seed=1)
    y = (x + 0.2 * (high - low) * (images(seed=2) - 0.5)).clamp(low, high)
    expected = [dense_ssim(a, b, low, high) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    found = SSIM(bounds)
    np.testing.assert_allclose(found(x, y).numpy(), 1 - np.array(expected), rtol=1e-10)


def test_ssim_of_constant_images_is_their_luminance_term():
    x, y = torch.full((1, 1, 11, 11), 0.25), torch.full((1, 1, 11, 11), 0.75)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert float(SSIM()(x, y)) == pytest.approx(1 - expected, rel=1e-7)


def test_ssim_knows_an_inverted_pattern_from_a_shift_of_brightness():
    board = (torch.arange(16)[:, None] + torch.arange(16)).remainder(2).double()[None, None]
    board = 0.3 + 0.2 * board
    inverted, brighter = 0.8 - board, board + 0.1
    assert L2.length(inverted - board) > 0
    assert float(SSIM()(board, inverted)) > 1
    assert float(SSIM()(board, brighter)) < 0.1 < float(SSIM()(board, inverted))


def test_psnr_in_closed_form():
    x = torch.full((2, 1, 4, 4), 0.5, dtype=torch.float64)
    y = x.clone()
    y[1] += 0.1
    assert psnr(x, y).tolist() == [math.inf, pytest.approx(20.0)]
    assert psnr(255 * x, 255 * y, (0.0, 255.0))[1] == pytest.approx(20.0)


@given(st.integers(0, 10_000), st.sampled_from([L1, L2, Linf]))
def test_norms_are_metrics(seed, norm):
    a, b, c = (images(2, (1, 3, 3), seed + shift) for shift in (0, 1, 2))
    distance = Lp(norm)
    torch.testing.assert_close(distance(a, b), norm.length(a - b))
    assert (distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12).all()


def test_l0_counts_values():
    x = images(2, (3, 4, 4))
    y = x.clone()
    y[1, 0, 0, :3] += 0.1
    assert L0()(x, y).tolist() == [0, 3]


def every_distance():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(240, 3),
    )
    clf = Classifier(model.double())
    kinds = [FeatureDistance(clf, kind=kind) for kind in ("l2", "cosine", "lpips")]
    return [L0(), Lp(L1), Lp(L2), Lp(Linf), SSIM(), *kinds]


@pytest.mark.parametrize("distance", every_distance(), ids=lambda d: d.name)
def test_what_all_distances_share(distance, monkeypatch):
    x, y = images(5, seed=1), images(4, seed=2)
    table = across(distance, x, y)
    assert table.dtype == torch.float64
    assert table.shape == (5, 4)
    for i in range(5):
        row = distance(x[i : i + 1].expand_as(y), y)
        torch.testing.assert_close(table[i], row)
    torch.testing.assert_close(distance(x[:4], y), distance(y, x[:4]))
    assert (table > 0).all()
    assert distance(x, x.clone()).abs().max() < 1e-12
    torch.testing.assert_close(across(distance, x, y, chunk=2), table, rtol=1e-12, atol=0)
    monkeypatch.setattr("elbowroom.perception.distance.VALUES", 3000)
    torch.testing.assert_close(across(distance, x, y), table, rtol=1e-12, atol=0)


@pytest.mark.parametrize("distance", every_distance()[1:], ids=lambda d: d.name)
def test_gradients_agree_with_differences(distance):
    x, y = images(1, seed=1).requires_grad_(), images(1, seed=2)
    (gradient,) = torch.autograd.grad(distance(x, y).sum(), x)
    direction = images(1, seed=3) - 0.5
    with torch.no_grad():
        step = 1e-6
        slope = (distance(x + step * direction, y) - distance(x - step * direction, y)) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(slope), rel=1e-5)
    (at_zero,) = torch.autograd.grad(distance(x, x.detach().clone()).sum(), x)
    assert at_zero.isfinite().all()


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (images(2), images(3), "must have one shape"),
        (images(2)[0, 0, 0], images(2)[0, 0, 0], "non-empty batch"),
        (images(0), images(0), "non-empty batch"),
        (images(2).long(), images(2).long(), "floating point"),
        (images(2, (2, 10, 12)), images(2, (2, 10, 12)), "at least 11x11"),
    ],
)
def test_bad_images_are_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        SSIM()(x, y)


def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match="lower < upper"):
        SSIM((1.0, 0.0))
    with pytest.raises(ValueError, match="lower < upper"):
        psnr(images(), images(), (0.0, math.inf))
