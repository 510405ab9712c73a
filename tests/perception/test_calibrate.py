"""Thresholds: closed forms for norms, and the same order whatever the scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elbowroom import L2, Linf
from elbowroom.perception import (
    SSIM,
    Lp,
    NoticeableNoise,
    matched_noise,
    threshold_from_changes,
)
from elbowroom.sampling import SampleRng


def images(count=7):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 1, 12, 12, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("norm", [L2, Linf])
def test_a_norm_gets_the_size_of_its_own_noise(norm):
    found = NoticeableNoise(size=0.3, norm=norm, copies=2)(Lp(norm), images())
    assert found.value == pytest.approx(0.3)
    assert found.distances.shape == (7, 2)
    assert str(norm) in found.meaning
    assert "median" in found.meaning


def test_it_is_the_quantile_of_distances_to_noisy_copies():
    x, rng = images(), SampleRng(5, range(7))
    copies = [matched_noise(x, 0.5, rng=rng).noisy for _ in range(3)]
    expected = torch.stack([SSIM()(x, copy) for copy in copies], dim=1)
    assert not torch.equal(copies[0], copies[1])
    for quantile in (0.0, 0.1, 0.5, 1.0):
        noise = NoticeableNoise(size=0.5, quantile=quantile, copies=3, seed=5)
        found = noise(SSIM(), x)
        torch.testing.assert_close(found.distances, expected)
        assert found.value == pytest.approx(np.quantile(expected.numpy(), quantile), rel=1e-12)


def test_it_does_not_depend_on_batches_and_grows_with_the_noise():
    x, noise = images(), NoticeableNoise(size=0.5, copies=2, seed=1)
    whole = noise(SSIM(), x)
    assert noise(SSIM(), x, chunk=3).value == pytest.approx(whole.value, rel=1e-12)
    part = noise(SSIM(), x[4:], indices=[4, 5, 6])
    torch.testing.assert_close(part.distances, whole.distances[4:], rtol=1e-12, atol=0)
    assert NoticeableNoise(size=1.0, copies=2, seed=1)(SSIM(), x).value > whole.value


def test_given_changes():
    x = torch.zeros(4, 3)
    changed = x + torch.tensor([1.0, 2.0, 3.0, 10.0])[:, None] / 3**0.5
    found = threshold_from_changes(Lp(L2), x, changed, what="steps")
    assert found.value == pytest.approx(2.5)
    assert found.meaning == "median of L2 over steps, 4 images"
    whole = threshold_from_changes(Lp(L2), x, changed, quantile=1.0, chunk=3)
    assert whole.value == pytest.approx(10)
    assert (whole.distances <= whole.value).all()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="positive and finite"):
        NoticeableNoise(size=0.0)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        NoticeableNoise(size=1.0, quantile=1.5)
    with pytest.raises(ValueError, match="copies"):
        NoticeableNoise(size=1.0, copies=0)
    with pytest.raises(ValueError, match="does not fit into the bounds around image 0"):
        NoticeableNoise(size=13.0)(Lp(L2), images())
    with pytest.raises(ValueError, match="2 indices for 7 images"):
        NoticeableNoise(size=1.0)(Lp(L2), images(), indices=[1, 2])
    with pytest.raises(ValueError, match="one changed image for each"):
        threshold_from_changes(Lp(L2), images(), images(3))
