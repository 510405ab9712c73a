"""Intervals against closed forms, and how often they cover what they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from elbowroom.audit.bootstrap import Means, fewest


def test_the_interval_of_many_normal_samples_is_students():
    values = np.random.default_rng(0).normal(3.0, 2.0, (5, 60))
    means = Means.of(values, 20_000, seed=1)
    student = stats.t.ppf(0.975, 59) * values.std(axis=1, ddof=1) / math.sqrt(60)
    assert means.mean == pytest.approx(values.mean(axis=1))
    assert means.error == pytest.approx(values.std(axis=1, ddof=1) / math.sqrt(60))
    assert means.widths(0.95) == pytest.approx(student, rel=0.06)


@pytest.mark.parametrize(
    ("draw", "truth", "low"),
    [
        (lambda rng, shape: rng.normal(size=shape), 0.0, 0.93),
        (lambda rng, shape: rng.exponential(size=shape), 1.0, 0.91),
        # As distances are: zeros where the classifier is wrong.
        (lambda rng, shape: rng.exponential(size=shape) * (rng.random(shape) < 0.7), 0.7, 0.91),
    ],
    ids=["normal", "exponential", "with zeros"],
)
def test_intervals_cover_the_mean_as_often_as_they_say(draw, truth, low):
    values = draw(np.random.default_rng(0), (600, 20))
    covered = []
    for row in values:  # each with resamples of its own
        means = Means.of(row[None], 399, seed=len(covered))
        covered.append(abs(means.mean[0] - truth) <= means.widths(0.95)[0])
    assert low < np.mean(covered) < 0.98


def test_simultaneous_intervals_cover_all_means_at_once():
    rng = np.random.default_rng(0)
    covered, one_by_one = [], []
    for repetition in range(300):
        # Differences to a common third, as differences of pairs are: correlated.
        values = rng.normal(size=(5, 25)) - rng.normal(size=25)
        means = Means.of(values, 399, seed=repetition)
        covered.append((np.abs(means.mean) <= means.simultaneous_widths(0.9)).all())
        one_by_one.append((np.abs(means.mean) <= means.widths(0.9)).all())
    assert 0.86 < np.mean(covered) < 0.95
    assert np.mean(one_by_one) < 0.8


def test_the_correction_is_that_of_the_largest_of_independent_normals():
    values = np.random.default_rng(0).normal(size=(8, 500))
    means = Means.of(values, 20_000, seed=0)
    largest = stats.norm.ppf((1 + 0.95 ** (1 / 8)) / 2)
    assert means.simultaneous_widths(0.95) == pytest.approx(largest * means.error, rel=0.03)
    # What is the same variable twice needs no correction.
    twice = Means.of(np.repeat(values[:1], 2, axis=0), 2000, seed=0)
    assert twice.simultaneous_widths(0.95) == pytest.approx(twice.widths(0.95))


def test_the_number_of_samples_that_would_do_does():
    rng = np.random.default_rng(0)
    first = rng.normal(size=30)
    first += 0.2 - first.mean()  # mean and spread of the population are those of the samples
    wanted = math.ceil(Means.of(first[None], 2000, seed=0).enough(0.95)[0])
    assert 100 < wanted < 400
    told = []
    for repetition in range(200):
        means = Means.of(rng.choice(first, (1, wanted)), 399, seed=repetition)
        told.append(means.mean[0] > means.widths(0.95)[0])
    assert 0.72 < np.mean(told) < 0.9  # POWER is 0.8


@given(st.integers(0, 2**32 - 1), st.floats(1e-9, 1e9))
def test_units_do_not_matter(seed, unit):
    values = np.random.default_rng(seed).exponential(size=(2, 9))
    plain, scaled = Means.of(values, 200, seed=3), Means.of(unit * values, 200, seed=3)
    assert scaled.widths(0.9) == pytest.approx(unit * plain.widths(0.9), rel=1e-6)


def test_without_spread_there_is_nothing_to_tell():
    means = Means.of(np.stack([np.zeros(8), np.full(8, 0.1)]), 200, seed=0)
    assert means.error.tolist() == means.simultaneous_widths(0.95).tolist() == [0, 0]
    assert means.enough(0.95).tolist() == [math.inf, 0]


def test_one_sample_that_differs_proves_nothing():
    values = np.zeros((1, 20))
    values[0, 7] = 1.0
    means = Means.of(values, 1000, seed=0)
    assert means.widths(0.95)[0] == means.simultaneous_widths(0.95)[0] == math.inf
    assert means.enough(0.95)[0] == math.inf


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.99])
def test_samples_that_agree_tell_nothing_while_they_are_too_few(level):
    least = fewest(level)
    assert 2.0 ** (1 - least) <= 1 - level < 2.0 ** (2 - least)
    for count in range(1, least + 3):
        same = Means.of(np.full((1, count), 0.5), 1000, seed=0)
        assert (same.simultaneous_widths(level)[0] == 0) == (count >= least)
