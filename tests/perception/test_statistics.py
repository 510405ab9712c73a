"""Medians and their intervals against the binomial distribution and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from elbowroom import L1, L2, Linf
from elbowroom.perception import (
    class_distances,
    median_interval,
    rescale_by_dimension,
    rescale_by_typical,
)
from elbowroom.perception.distance import Lp


@given(st.integers(1, 200), st.sampled_from([0.5, 0.8, 0.95, 0.99]))
def test_the_interval_is_the_narrowest_that_is_wide_enough(count, confidence):
    # Values 1..N, so that an order statistic is its own rank.
    found = median_interval([float(rank) for rank in range(1, count + 1)], confidence)
    assert found.median == (count + 1) / 2

    def coverage(k):
        """P(k <= B <= N - k): at least k values on each side of the median."""
        return sum(binom.pmf(b, count, 0.5) for b in range(k, count - k + 1))

    if math.isinf(found.lower):
        assert found.upper == math.inf
        assert found.confidence == 1
        k = 0
    else:
        k = int(found.lower)
        assert found.upper == count + 1 - k
        assert found.confidence == pytest.approx(coverage(k))
        assert found.confidence >= confidence
    if k + 1 <= count // 2:
        assert coverage(k + 1) < confidence


@pytest.mark.parametrize("count", [5, 12, 41])
def test_coverage_by_simulation(count):
    generator = np.random.default_rng(0)
    trials = 2000
    samples = generator.standard_cauchy((trials, count))
    found = [median_interval(torch.from_numpy(sample), 0.8) for sample in samples]
    covered = sum(interval.lower <= 0 <= interval.upper for interval in found) / trials
    promised = found[0].confidence
    assert promised >= 0.8
    assert covered == pytest.approx(promised, abs=4 * math.sqrt(0.25 / trials))


def test_failures_count_as_infinite():
    found = median_interval(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0] + [math.inf] * 4), 0.8)
    assert (found.median, found.lower, found.upper) == (5.0, 3.0, math.inf)
    assert median_interval([1.0, math.inf]).median == math.inf
    assert median_interval([math.inf] * 20).lower == math.inf


def test_order_and_type_of_the_values_do_not_matter():
    values = torch.rand(31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = median_interval(values)
    assert median_interval(values.flip(0)) == expected
    assert median_interval(values.tolist()) == expected
    assert expected.median == float(values.median())


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [
        ([], 0.8, "at least one number"),
        ([[1.0, 2.0]], 0.8, "list of at least one"),
        ([math.nan], 0.8, "NaN"),
        ([-math.inf, 1.0], 0.8, "-inf"),
        ([1.0], 1.0, "between 0 and 1"),
    ],
)
def test_bad_values_are_refused(values, confidence, message):
    with pytest.raises(ValueError, match=message):
        median_interval(values, confidence)


def test_the_factors_of_the_thesis():
    assert rescale_by_dimension(3 * 32**2, 3 * 224**2) == pytest.approx(7)
    assert rescale_by_dimension(3 * 32**2, 3 * 224**2, L1) == pytest.approx(49)
    assert rescale_by_dimension(3 * 32**2, 3 * 224**2, Linf) == 1
    assert rescale_by_typical(torch.full((3,), 19.0), torch.full((2,), 136.7)) == pytest.approx(
        7.19, abs=0.01
    )


@pytest.mark.parametrize("norm", [L1, L2, Linf])
def test_larger_copies_of_images_are_as_far_apart_after_rescaling(norm):
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    large = x.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    small, big = (class_distances(Lp(norm), images, y).inter for images in (x, large))
    torch.testing.assert_close(small * rescale_by_dimension(16, 144, norm), big)
    assert rescale_by_typical(small, big) == pytest.approx(rescale_by_dimension(16, 144, norm))


def test_bad_factors_are_refused():
    with pytest.raises(ValueError, match="at least one value"):
        rescale_by_dimension(0, 3)
    with pytest.raises(ValueError, match="positive and finite"):
        rescale_by_typical(torch.tensor([1.0]), torch.tensor([math.inf]))
