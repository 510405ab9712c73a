"""Comparisons against linear classifiers, whose distances are known, and against known truths."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import elbowroom
from elbowroom import L2, Classifier, Linf
from elbowroom.attacks import DDN, DeepFool
from elbowroom.audit.compare import BUDGET
from elbowroom.audit.comparison import Measured, compare_measured
from elbowroom.certificates import GlobalLipschitz
from elbowroom.results import Cost
from oracles.linear import LinearModel, distances

SHAPE, CLASSES = (6,), 3


def measured(distance, radius=None, *, right=None, farthest=100.0) -> Measured:
    distance = np.asarray(distance, dtype=np.float64)
    return Measured(
        right=distance > 0 if right is None else np.asarray(right),
        radius=0.5 * np.minimum(distance, farthest) if radius is None else np.asarray(radius),
        distance=distance,
        farthest=np.full(len(distance), float(farthest)),
        uncertified=None,
        cost=Cost(),
    )


def compared(**classifiers: Measured):
    return compare_measured(
        classifiers, norm=L2, attack="a", certificate="c", resamples=2000, level=0.95, seed=0
    )


@pytest.fixture(scope="module")
def linear():
    """Four linear classifiers, their samples, and the exact distances `(4, N)`; 0 where wrong."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, *SHAPE, generator=generator, dtype=torch.float64).clamp(-4, 4)
    shared = LinearModel(SHAPE, CLASSES, 0)
    y = shared(x).argmax(dim=1)
    every = {}
    for k, noise in enumerate((0.0, 0.15, 0.3, 1.0)):
        model = LinearModel(SHAPE, CLASSES, 0)
        with torch.no_grad():
            weight = model.linear.weight
            weight += noise * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        every[f"net{k}"] = Classifier(model, bounds=(-60.0, 60.0))
    exact = torch.stack([distances(clf, x, y).amin(dim=1) for clf in every.values()]).clamp(min=0)
    return every, x, y, exact.detach().numpy()


def test_both_sides_of_linear_classifiers_are_exact_and_so_is_the_ranking(linear):
    every, x, y, exact = linear
    told: list[tuple[int, int, str]] = []
    found = elbowroom.compare(
        every, x, y, attack=DeepFool(), chunk=16, progress=lambda *a: told.append(a)
    )
    assert [done for done, _, _ in told] == list(range(4 * 3 * 2 + 1))
    assert {total for _, total, _ in told} == {24}
    assert told[1][2] == "net0: attack"
    for row, one in zip(exact, found.measured.values(), strict=True):
        assert (one.right == (row > 0)).all()
        assert one.radius == pytest.approx(row, rel=1e-6)
        assert one.distance == pytest.approx(row, rel=1e-4)
        assert (one.radius <= row).all()
        assert (one.radius[one.right] < one.distance[one.right]).all()
    order = tuple(f"net{k}" for k in np.argsort(-exact.mean(axis=1)))
    assert found.certified is not None
    assert found.attacked is not None
    assert found.certified.order == found.attacked.order == order
    for ranking in (found.certified, found.attacked):
        for each in ranking.differences:
            first, second = exact[int(each.first[3:])], exact[int(each.second[3:])]
            difference = (first - second).mean()
            assert each.mean == pytest.approx(difference, abs=1e-4)
            assert each.low <= each.mean <= each.high
    # What is proved on a sample is the order of the exact distances.
    for pair in found.proved:
        first, second = exact[int(pair.first[3:])], exact[int(pair.second[3:])]
        assert pair.first_farther == (first > second).mean()
        assert pair.second_farther == (first < second).mean()


def test_the_robust_accuracy_of_linear_classifiers_is_exact(linear):
    every, x, y, exact = linear
    found = elbowroom.compare(every, x, y, attack=DeepFool())
    for row, curves in zip(exact, found.curves.values(), strict=True):
        truth = (row > found.eps[:, None]).mean(axis=1)
        clear = (np.abs(row - found.eps[:, None]) > 1e-3 * row).all(axis=1)
        assert clear.sum() > 50
        assert (curves[:, clear] == truth[clear]).all()


def test_a_classifier_is_not_separated_from_itself(linear):
    every, x, y, _ = linear
    clf = every["net0"]
    found = elbowroom.compare({"a": clf, "b": clf}, x, y, attack=DDN(steps=20), resamples=500)
    for ranking in (found.certified, found.attacked):
        (each,) = ranking.differences
        assert (each.mean, each.low, each.high, each.separated) == (0, 0, 0, False)
        assert ranking.groups == (("a", "b"),)
        assert ranking.ranks == {"a": (1, 2), "b": (1, 2)}
    assert found.proved[0].first_farther == found.proved[0].second_farther == 0


def test_the_usual_attack_is_that_of_an_audit_and_chunks_do_not_matter(linear):
    every, x, y, _ = linear
    some = {"net0": every["net0"]}
    alone, together = (
        elbowroom.compare(some, x[:7], y[:7], norm="Linf", chunk=chunk).measured["net0"]
        for chunk in (2, 7)
    )
    assert alone.distance == pytest.approx(together.distance, rel=1e-6)
    clf = every["net0"]
    expected = distances(clf, x[:7], y[:7], Linf).amin(dim=1)
    assert together.distance == pytest.approx(expected.detach().numpy(), rel=1e-3)
    assert f"budget={BUDGET}" in elbowroom.compare(some, x[:1], y[:1]).attack


def test_paired_differences_have_the_truth_in_their_intervals():
    """A difference of 0.1 on samples that vary by ten times that, told by pairing them."""
    covered = separated = 0
    for repetition in range(150):
        rng = np.random.default_rng(repetition)
        base = rng.gamma(4.0, 0.5, 30)
        one = measured(base + 0.1 + 0.1 * rng.normal(size=30))
        two, three = measured(base), measured(base + 0.02 * rng.normal(size=30))
        found = compare_measured(
            {"one": one, "two": two, "three": three},
            norm=L2, attack="", certificate="", resamples=300, level=0.95, seed=repetition,
        )  # fmt: skip
        each = {(d.first, d.second): d for d in found.attacked.differences}
        truths = {("one", "two"): 0.1, ("one", "three"): 0.1, ("two", "three"): 0.0}
        good = []
        for (a, b), truth in truths.items():
            d = each.get((a, b))
            low, high = (d.low, d.high) if d else (-each[b, a].high, -each[b, a].low)
            good.append(low <= truth <= high)
        covered += all(good)
        separated += found.attacked.order[0] == "one" and each["one", "two"].separated
        own = found.attacked_sides["one"].mean.interval
        assert own[1] - own[0] > 3 * (each["one", "two"].high - each["one", "two"].low)
    assert 0.9 < covered / 150 < 0.99
    assert separated / 150 > 0.95


def test_what_measuring_again_could_change_is_no_difference():
    base = np.linspace(1.0, 2.0, 20)
    found = compared(a=measured(base), b=measured(base * (1 + 9e-5)), c=measured(base * 1.0002))
    told = {(d.first, d.second): d for d in found.attacked.differences}
    assert told["b", "a"].mean == 0
    assert told["c", "a"].mean == pytest.approx(3e-4)
    assert told["c", "a"].separated
    # The order has what the differences leave out, and one sample more turns them round.
    rounding = np.append(base * (1 + 9e-5), 1.0)
    found = compared(a=measured(np.append(base, 1.001)), b=measured(rounding))
    assert found.attacked.order == ("b", "a")
    (each,) = found.attacked.differences
    assert (each.first, each.separated) == ("a", False)
    assert each.mean == pytest.approx(0.001 / 21)


def test_ranks_and_groups_where_some_are_told_apart():
    rng = np.random.default_rng(0)
    base = rng.uniform(1, 2, 50)
    found = compared(
        low=measured(base),
        high=measured(base + 3 + 0.01 * rng.normal(size=50)),
        # Told from neither of its neighbours, which are told from each other.
        between=measured(base + 0.5 + 2.5 * rng.uniform(-0.4, 0.4, 50)),
        above=measured(base + 0.7),
    )
    ranking = found.attacked
    assert ranking.order == ("high", "above", "between", "low")
    told = {(d.first, d.second): d.separated for d in ranking.differences}
    assert told["above", "low"]
    assert told["between", "low"]
    assert not told["above", "between"]
    assert ranking.groups == (("high",), ("above", "between"), ("low",))
    assert ranking.ranks == {"high": (1, 1), "above": (2, 3), "between": (2, 3), "low": (4, 4)}


@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_curves_fall_and_certified_ones_lie_below(seed, samples):
    rng = np.random.default_rng(seed)
    distance = rng.exponential(size=samples) * (rng.random(samples) < 0.7)
    distance[rng.random(samples) < 0.2] = np.inf
    radius = np.minimum(distance, 5.0) * rng.uniform(0, 0.999, samples)
    found = compared(a=measured(distance, radius), b=measured(np.roll(distance, 1)))
    for name, (certified, attacked) in found.curves.items():
        assert certified[0] == attacked[0] == found.measured[name].accuracy
        assert (np.diff(certified) <= 0).all()
        assert (np.diff(attacked) <= 0).all()
        assert (certified <= attacked).all()


def test_failures_count_as_the_farthest_point_and_as_infinite():
    distance, other = [1.0, 2, 3, 4, 5, np.inf], [1, 1, 1, 2, 2, 2]
    found = compared(a=measured(distance, farthest=10), b=measured(other, farthest=10))
    side = found.attacked_sides["a"]
    assert side.mean.value == pytest.approx(25 / 6)
    assert side.median.value == 3.5
    assert side.median.interval == (1.0, math.inf)
    assert found.attacked.order == ("a", "b")
    assert found.measured["a"].failed == 1
    found = compared(
        a=measured(distance, [0.5] * 6, farthest=math.inf),
        b=measured(other, [0.5] * 6, farthest=math.inf),
    )
    assert found.attacked_sides["a"].mean.value == math.inf
    assert found.attacked is None
    assert found.certified is not None


def test_wrong_samples_count_as_zero(linear):
    every, x, _, _ = linear
    wrong = (every["net0"].logits(x).argmax(dim=1) + 1) % CLASSES
    names = ("net0", "net1")
    found = elbowroom.compare({n: every[n] for n in names}, x, wrong, attack=DeepFool())
    none = found.measured["net0"]
    assert (none.accuracy, none.radius.sum(), none.distance.sum()) == (0, 0, 0)
    mean = found.attacked_sides["net0"].mean
    assert (mean.value, mean.interval) == (0, None)
    assert found.attacked_sides["net0"].median.interval == (0, 0)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_few_samples_tell_no_order(samples):
    found = compared(
        a=measured(np.arange(1.0, samples + 1)), b=measured(np.arange(1.0, samples + 1) + 9)
    )
    (each,) = found.attacked.differences
    assert (each.first, each.mean, each.separated) == ("b", 9.0, False)
    assert found.attacked_sides["a"].mean.interval is None


def test_one_classifier_has_figures_and_no_ranking():
    found = compared(a=measured(np.arange(1.0, 9)))
    assert (found.certified, found.attacked, found.proved) == (None, None, ())
    assert found.attacked_sides["a"].mean.value == 4.5


@pytest.mark.parametrize("radius", [1.0, 1.5])
def test_an_example_in_a_certified_ball_is_an_error(radius):
    with pytest.raises(ValueError, match=r"b, sample 1: an example at distance 1 lies in"):
        compared(a=measured([1.0, 1.0]), b=measured([1.0, 1.0], [0.5, radius]))


class _Sorts(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sort(dim=1).values[:, :CLASSES]


def test_a_classifier_that_no_certificate_covers_is_left_out(linear):
    every, x, y, _ = linear
    sorts = Classifier(_Sorts().double(), bounds=(-60.0, 60.0), dtype=torch.float64)
    some = {"sorts": sorts, "net0": every["net0"], "net1": every["net1"]}
    found = elbowroom.compare(some, x[:8], y[:8], attack=DDN(steps=10))
    assert set(found.certified.order) == {"net0", "net1"}
    assert set(found.attacked.order) == set(some)
    assert "sort" in found.measured["sorts"].uncertified
    assert (found.measured["sorts"].radius == 0).all()
    assert "sorts" not in found.certified_sides


class _Detached(LinearModel):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).detach()


class _Published(GlobalLipschitz):
    sound: ClassVar[bool] = False


MISTAKES = {
    "none": ({}, {}, "there is no classifier"),
    "norms": ({}, {"attack": DDN(), "norm": "Linf"}, "the attack measures in L2"),
    "certificate": ({}, {"certificate": GlobalLipschitz(norm=Linf)}, "certificate measures in Li"),
    "unsound": ({}, {"certificate": _Published()}, "no guarantee; use one of global-lipschitz"),
    "level": ({}, {"level": 95}, "between 0 and 1"),
    "resamples": ({}, {"resamples": 100}, "take at least 200"),
    "chunk": ({}, {"chunk": 0}, "chunk must be"),
    "classes": ({"b": LinearModel(SHAPE, 4, 0)}, {}, "a has 3 classes and b has 4"),
    "gradient": (
        {"b": _Detached(SHAPE, CLASSES, 0)},
        {"attack": DDN()},
        "b: the model's logits carry no",
    ),
    "shape": ({"b": LinearModel((7,), CLASSES, 0)}, {}, "b: the model rejects inputs of shape"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(linear, name):
    _, x, y, _ = linear
    others, options, message = MISTAKES[name]
    models = {"a": LinearModel(SHAPE, CLASSES, 0), **others}
    every = {k: Classifier(model, bounds=(-60.0, 60.0)) for k, model in models.items()}
    with pytest.raises(ValueError, match=message):
        elbowroom.compare({} if name == "none" else every, x, y, **options)


def test_other_bounds_are_refused_and_other_precisions_are_not(linear):
    every, x, y, _ = linear
    with pytest.raises(ValueError, match="a and b have different input bounds"):
        elbowroom.compare(
            {"a": every["net0"], "b": Classifier(every["net1"].network, bounds=(-60.0, 61.0))}, x, y
        )
    single = Classifier(LinearModel(SHAPE, CLASSES, 0), bounds=(-60, 60), dtype=torch.float32)
    found = elbowroom.compare({"a": every["net0"], "b": single}, x, y, attack=DeepFool())
    # Both are measured on the same points: those that float32 has.
    for points, right in ((x.float().double(), True), (x, False)):
        exact = distances(every["net0"], points, y).amin(dim=1).detach().numpy()
        assert (found.measured["a"].radius == pytest.approx(exact, rel=1e-10)) is right
    # Rounding makes one of them a little farther on every sample: that is no order.
    assert (found.measured["b"].distance != found.measured["a"].distance).any()
    assert found.measured["b"].distance == pytest.approx(found.measured["a"].distance, rel=1e-4)
    assert len(found.attacked.groups) == 1
    assert found.attacked.differences[0].mean == 0
    assert found.certified.differences[0].mean == 0


def test_the_same_comparison_again_is_the_same(linear):
    every, x, y, _ = linear
    first, second = (
        elbowroom.compare(every, x[:10], y[:10], attack=DDN(steps=10), seed=1) for _ in range(2)
    )
    assert first.attacked == second.attacked
    assert first.certified == second.certified
    other = elbowroom.compare(every, x[:10], y[:10], attack=DDN(steps=10), seed=2)
    assert replace(other.attacked, differences=()) == replace(first.attacked, differences=())
    assert other.attacked.differences != first.attacked.differences
