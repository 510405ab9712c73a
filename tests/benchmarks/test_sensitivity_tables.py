"""The benchmark's arithmetic on hand-made cases, and its store."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import bench_tables as tables
from bench_store import Store

INF = math.inf


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def test_envelope_is_the_nearest_of_all_attacks() -> None:
    found = tables.lower_envelope([array(1, 5, INF), array(2, 3, INF)])
    assert found.tolist() == [1, 3, INF]


class TestOptimality:
    best = array(1, 2, 3)  # eps0 = 3; area under its curve 6/3 = 2, above it 1

    def test_envelope_is_one(self) -> None:
        assert tables.optimality(self.best, self.best) == 1

    def test_nothing_found_is_zero(self) -> None:
        assert tables.optimality(array(INF, INF, INF), self.best) == 0

    def test_between(self) -> None:
        # Area under min(d, 3): (2 + 3 + 3) / 3; above it 1/3 of the best's 1.
        assert tables.optimality(array(2, 7, INF), self.best) == pytest.approx(1 / 3)

    def test_integral_of_the_curves(self) -> None:
        """Against the definition: the staircases summed up on a fine grid."""
        rng = np.random.default_rng(0)
        mine = rng.uniform(0.5, 4, 20)
        best = np.minimum(mine, rng.uniform(0.5, 4, 20))
        eps = (np.arange(200_000) + 0.5) / 200_000 * best.max()
        curves = [np.mean([d > eps for d in which], axis=0).mean() for which in (mine, best)]
        expected = (1 - curves[0]) / (1 - curves[1])
        assert tables.optimality(mine, best) == pytest.approx(expected, abs=1e-4)

    def test_misclassified_samples_are_robust_for_nobody(self) -> None:
        # rho(0) = 1/2: full area 1/2 * 2, the envelope's 2/2, so nothing lies above it ...
        assert math.isnan(tables.optimality(array(0, 2), array(0, 2)))
        # ... and with a third sample: full 2/3 * 2, the envelope's (1 + 2)/3, mine (2 + 2)/3.
        assert tables.optimality(array(0, 2, 2), array(0, 1, 2)) == pytest.approx(0)

    def test_samples_nobody_broke_do_not_move_eps0(self) -> None:
        # eps0 = 2: full 2, the envelope's (1 + 2 + 2)/3, mine 2.
        assert tables.optimality(array(2, 2, INF), array(1, 2, INF)) == pytest.approx(0)

    def test_nothing_to_compare(self) -> None:
        assert math.isnan(tables.optimality(array(INF), array(INF)))


def test_gap_is_relative_to_the_best_over_what_was_found() -> None:
    best = array(1, 3, 2)
    assert tables.mean_gap(best, best) == 0
    assert tables.mean_gap(array(2, 4, INF), best) == pytest.approx(0.5)
    assert math.isnan(tables.mean_gap(array(INF, INF, INF), best))


def test_robust_accuracy_counts_all_images() -> None:
    distance = array(0.5, 1.0, 1.5, INF)  # of four correct ones among five images
    assert tables.robust_accuracy(distance, 0, 5) == 0.8
    assert tables.robust_accuracy(distance, 1.0, 5) == 0.4  # a move of exactly eps is allowed


def test_differences_are_taken_over_models_and_radii() -> None:
    found = tables.differences_to_best(
        {
            "one": {"strong": {1.0: 0.5, 2.0: 0.1}, "weak": {1.0: 0.6, 2.0: 0.5}},
            "two": {"strong": {1.0: 0.3, 2.0: 0.2}, "weak": {1.0: 0.2, 2.0: 0.2}},
            "three": {"strong": {1.0: 0.9, 2.0: 0.9}},
        }
    )
    assert found["strong"] == (pytest.approx(0.1 / 6), pytest.approx(0.1), 3)
    assert found["weak"] == (pytest.approx(0.5 / 4), pytest.approx(0.4), 2)


class TestDominating:
    ours = (
        tables.Point("closest-1", 0.1, 2.0),
        tables.Point("closest-2", 1.0, 1.5),
        tables.Point("closest-3", 10.0, 1.4),
    )

    def find(self, *others: tables.Point, from_seconds: float = 0.5) -> list[tuple[str, str]]:
        pairs = tables.dominating(self.ours, others, from_seconds)
        return [(other.name, budget.name) for other, budget in pairs]

    def test_as_fast_and_closer(self) -> None:
        assert self.find(tables.Point("other", 1.0, 1.49)) == [("other", "closest-2")]

    def test_slower_than_the_budget_it_beats(self) -> None:
        assert self.find(tables.Point("other", 1.1, 1.45)) == []
        assert self.find(tables.Point("other", 1.1, 1.39)) == [("other", "closest-3")]

    def test_equal_is_not_closer(self) -> None:
        assert self.find(tables.Point("other", 0.1, 1.5)) == []

    def test_budgets_below_the_start_do_not_count(self) -> None:
        fast = tables.Point("other", 0.05, 1.9)
        assert self.find(fast) == []
        assert self.find(fast, from_seconds=0.1) == [("other", "closest-1")]

    def test_one_failure_is_never_closer(self) -> None:
        assert self.find(tables.Point("other", 0.1, INF)) == []


def test_comparison_of_two_attacks() -> None:
    first, second = array(1, 2, 4, INF, INF), array(1.005, 2.5, 3, 1, INF)
    found = tables.compare(first, second)
    assert found.mean_first == pytest.approx(7 / 3)
    assert found.mean_second == pytest.approx(7.505 / 4)
    assert found.worst_excess == pytest.approx(0.25)
    assert found.over_one_percent == 1
    assert tables.compare(array(1, 1), array(1, INF)).worst_excess == INF


def test_markdown_lines_up() -> None:
    assert tables.markdown(["attack", "L2"], [["ddn", "1.25"], ["fab", "2"]]).splitlines() == [
        "| attack |   L2 |",
        "| ------ | ---: |",
        "| ddn    | 1.25 |",
        "| fab    |    2 |",
    ]


class TestStore:
    config = {"attack": "DDN()"}  # noqa: RUF012

    def write(self, store: Store, start: int, indices: list[int], attack: str = "ddn") -> None:
        columns = {"index": indices, "distance": [float(i) for i in indices]}
        store.write("net", attack, start, columns, self.config, {"seconds": 2.0})

    def test_chunks_come_back_in_order_with_their_cost_added_up(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        self.write(store, 2, [5, 7])
        self.write(store, 0, [0, 3])
        unit = store.read("net", "ddn")
        assert unit is not None
        assert unit.columns["index"].tolist() == [0, 3, 5, 7]
        assert unit.config == self.config
        assert unit.per_sample("seconds") == 1.0
        assert (store.models(), store.attacks("net")) == (["net"], ["ddn"])

    def test_finished_means_these_samples_or_more(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        assert not store.has("net", "ddn", 0, [0, 3])
        self.write(store, 0, [0, 3])
        assert store.has("net", "ddn", 0, [0, 3])
        assert store.has("net", "ddn", 0, [0])
        assert not store.has("net", "ddn", 0, [0, 3, 4])
        assert not store.has("net", "ddn", 0, [1])

    def test_another_configuration_is_discarded(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        self.write(store, 0, [0])
        self.write(store, 0, [0], attack="fab")
        store.discard_stale("net", "ddn", self.config)
        assert store.has("net", "ddn", 0, [0])
        store.discard_stale("net", "ddn", {"attack": "DDN(steps=5)"})
        assert not store.has("net", "ddn", 0, [0])
        assert store.has("net", "fab", 0, [0])

    def test_a_damaged_chunk_is_not_finished(self, tmp_path: Path) -> None:
        store = Store(tmp_path)
        self.write(store, 0, [0])
        (path,) = tmp_path.glob("net/ddn/*")
        path.write_bytes(path.read_bytes()[:-20])
        assert not store.has("net", "ddn", 0, [0])
        assert store.read("net", "ddn") is None
