"""Noise of a given norm inside of the box."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from elbowroom import L1, L2, Linf
from elbowroom.perception import matched_noise
from elbowroom.sampling import SampleRng

NORMS = [L1, L2, Linf]


def farthest(x, norm):
    """The distance of the farthest point of [0, 1]^d."""
    return norm.length(torch.maximum(x, 1 - x))


@settings(max_examples=50)
@given(
    st.integers(0, 10_000),
    st.sampled_from(NORMS),
    st.floats(1e-6, 1.2) | st.sampled_from([0.0, 1.0]),
)
def test_the_norm_is_exact_wherever_the_box_allows_it(seed, norm, share):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 1, 3, 4, generator=generator, dtype=torch.float64)
    x = torch.where(torch.rand(x.shape, generator=generator) < 0.5, x.round(), x)
    size = share * farthest(x, norm)
    found = matched_noise(x, size, norm=norm, rng=SampleRng(seed, range(4)))
    assert (found.noisy >= 0).all()
    assert (found.noisy <= 1).all()
    assert torch.equal(found.distance, norm.length(found.noisy - x))
    assert torch.equal(found.exact, size <= farthest(x, norm) * (1 + 1e-13))
    expected = torch.minimum(size, farthest(x, norm))
    torch.testing.assert_close(found.distance, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_without_bounds_it_is_a_scaled_draw(norm):
    x = torch.rand(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = matched_noise(x, 7.0, norm=norm, bounds=(-math.inf, math.inf))
    change = found.noisy - x
    torch.testing.assert_close(norm.length(change), torch.full((3,), 7.0).double())
    wide = matched_noise(x, 7.0, norm=norm, bounds=(-1e3, 1e3))
    torch.testing.assert_close(wide.noisy, found.noisy)
    twice = matched_noise(x, 14.0, norm=norm, bounds=(-math.inf, math.inf))
    torch.testing.assert_close(twice.noisy - x, 2 * change)


@pytest.mark.parametrize(("norm", "kurtosis"), [(L1, 6.0), (L2, 3.0), (Linf, 1.8)])
def test_features_have_the_distribution_of_the_norm(norm, kurtosis):
    x = torch.zeros(1, 200_000, dtype=torch.float64)
    change = matched_noise(x, 1.0, norm=norm, bounds=(-math.inf, math.inf)).noisy
    standard = change / change.square().mean().sqrt()
    assert float(standard.mean()) == pytest.approx(0, abs=0.01)
    assert float(standard.pow(4).mean()) == pytest.approx(kurtosis, rel=0.05)


def test_signs_are_turned_only_where_needed():
    x = torch.full((1, 1000), 0.1, dtype=torch.float64)
    outward = 0.1 * 1000**0.5  # reached with every sign
    free = matched_noise(x, outward)
    needed = matched_noise(x, 0.8 * float(farthest(x, L2)))
    signs = [(noise.noisy > x).double().mean().item() for noise in (free, needed)]
    assert signs[0] == pytest.approx(0.5, abs=0.06)
    assert 0.6 < signs[1] < 0.9  # some turned up, not all
    assert float(needed.distance) == pytest.approx(0.8 * float(farthest(x, L2)))


def test_float32_images_and_batches():
    x = torch.rand(6, 1, 5, 5, generator=torch.Generator().manual_seed(0)).round()
    size = torch.linspace(0.1, 3, 6)
    whole = matched_noise(x, size, rng=SampleRng(3, range(6)))
    torch.testing.assert_close(whole.distance, size.double(), rtol=1e-6, atol=0)
    part = matched_noise(x[4:], size[4:], rng=SampleRng(3, [4, 5]))
    assert torch.equal(part.noisy, whole.noisy[4:])


def test_zero_noise_changes_nothing():
    x = torch.rand(2, 4)
    found = matched_noise(x, 0.0)
    assert torch.equal(found.noisy, x)
    assert found.exact.all()


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.ones(2, 3), {"size": -1.0}, "at least 0"),
        (torch.ones(2, 3), {"size": math.nan}, "finite"),
        (torch.ones(2, 3) * 2, {"size": 1.0}, "inside the bounds"),
        (torch.ones(2, 3), {"size": 1.0, "rng": SampleRng(0, [1])}, "1 random streams for 2"),
    ],
)
def test_bad_arguments_are_refused(x, options, message):
    with pytest.raises(ValueError, match=message):
        matched_noise(x, **options)
