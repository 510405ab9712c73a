"""The tables of the linear region attack against the attack itself and against plain numpy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from elbowroom import L2, Classifier, Linf
from elbowroom.invariance import AdamOnLogits, LinearRegionInversion
from elbowroom.papers import invariance
from elbowroom.papers.invariance import Ablation, Comparison, Spread
from elbowroom.regions import Accelerated, WorkingSet
from nets import make

SOLVER = Accelerated(steps=25, power_iterations=5, decision_factor=3.0)
ATTACK = LinearRegionInversion(solver=SOLVER, regions=4, final_steps=40, tolerance=1e-7)


@pytest.fixture(scope="module")
def pairs():
    classifiers = {f"net {seed}": Classifier(make("mlp", seed)[0]) for seed in (0, 1)}
    generator = torch.Generator().manual_seed(3)
    start, toward = torch.rand(2, 3, 1, 8, 8, generator=generator, dtype=torch.float64)
    return classifiers, start, toward


class Steps:
    """Keeps what progress was told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((done, total))


def _forward_filled(column):
    last, filled = math.nan, []
    for value in column.tolist():
        last = last if math.isnan(value) else value
        filled.append(last)
    return filled


# -- Table 4.2 and Fig. 4.9 ------------------------------------------------------------------------


def test_the_ablation_is_what_the_attack_traces(pairs):
    classifiers, start, toward = pairs
    steps = Steps()
    found = invariance.ablation(
        classifiers, start=start, toward=toward, attack=ATTACK, variants=(1, 6, 9), advance=steps
    )
    assert steps.seen == [(i + 1, 6) for i in range(6)]
    assert found.classifiers == ("net 0", "net 1")
    assert found.distance.shape == found.feature_mse.shape == (3, 4, 6)
    for row, number in enumerate(found.variants):
        attack = LinearRegionInversion.variant(
            number, solver=SOLVER, regions=4, final_steps=40, tolerance=1e-7
        )
        runs = [attack.trace(clf, start=start, toward=toward) for clf in classifiers.values()]
        assert torch.equal(found.final[row], torch.cat([run.result.distance for run in runs]))
        for name in ("distance", "feature_mse"):
            values = torch.cat([getattr(run.visits, name) for run in runs], dim=1)
            filled = np.array([_forward_filled(column) for column in values.T]).T
            assert np.array_equal(getattr(found, name)[row].numpy(), filled, equal_nan=True)


def _made_up(runs=5, regions=12):
    generator = torch.Generator().manual_seed(0)
    distance, mse = torch.rand(2, 12, regions, runs, generator=generator, dtype=torch.float64)
    distance[:, :2, 0] = math.nan
    return Ablation(tuple(range(12)), ("one",), distance, mse, distance[:, -1])


@pytest.mark.parametrize(
    ("factor", "groups"),
    [
        ("begin", {"start": [0, 1, 2, 3], "toward": [8, 9, 10, 11]}),
        ("adaptive", {"adaptive": [0, 1, 4, 5, 8, 9], "fixed": [2, 3, 6, 7, 10, 11]}),
        ("directed", {"directed": [0, 1, 2, 3], "undirected": [4, 5, 6, 7]}),
        ("explore", {"exploit": [1, 3], "mixed": [0, 2, 4, 6], "explore": [5, 7]}),
    ],
)
def test_marginals_leave_out_what_has_no_counterpart(factor, groups):
    found = _made_up()
    curves = found.marginal(factor, window=1)
    assert set(curves) == set(groups)
    for name, numbers in groups.items():
        for values, curve in (
            (found.distance, curves[name].distance),
            (found.feature_mse, curves[name].feature_mse),
        ):
            rows = values[numbers].numpy().transpose(1, 0, 2).reshape(12, -1)
            assert np.allclose(curve.numpy(), np.nanmedian(rows, axis=1))


@pytest.mark.parametrize("window", [1, 5, 25, 99])
def test_running_averages(window):
    found = _made_up()
    raw = found.curve([3], window=1).distance.numpy()
    half = window // 2
    smooth = [raw[max(0, i - half) : i + half + 1].mean() for i in range(len(raw))]
    assert np.allclose(found.curve([3], window=window).distance.numpy(), smooth)


# -- Fig. 4.1 to 4.5 -------------------------------------------------------------------------------


def test_the_sweep_is_what_the_attack_traces(pairs):
    classifiers, start, toward = pairs
    steps = Steps()
    found = invariance.step_sweep(
        classifiers, start=start, toward=toward, attack=ATTACK, steps=(10, 25), advance=steps
    )
    assert steps.seen[-1] == (8, 8)
    assert (found.begins, found.steps) == (("start", "toward"), (10, 25))
    assert found.distance.shape == found.regions_least.shape == (2, 2, 2, 3)
    assert found.solver_steps.shape == found.region_mse.shape == (2, 4, 2, 2, 3)
    run = replace(ATTACK, pick="least feature distance", begin="toward").trace(
        classifiers["net 1"], start=start, toward=toward
    )
    assert torch.equal(found.distance[1, 1, 1], run.final_distance)
    assert torch.equal(found.feature_mse[1, 1, 1], run.final_mse)
    assert torch.equal(found.solver_steps[1, :, 1, 1], run.visits.steps)
    assert found.solver_steps[0].max() == 10
    assert found.solver_steps[1].max() == 25
    least = run.visits.feature_mse.nan_to_num(math.inf).min(dim=0).indices + 1
    assert torch.equal(found.regions_least[1, 1, 1], least)
    assert torch.equal(found.regions_full[1, 1, 1], run.final_region("last full"))
    # Fig. 4.4 is of the most steps, Fig. 4.5 of all.
    by_begin, by_net = found.regions_by("begin"), found.regions_by("classifier")
    values = found.regions_least[1, :, 1].double().numpy()
    spread = by_begin["toward"]["least feature distance"]
    assert spread.median == pytest.approx(np.median(values))
    assert spread.deviation == pytest.approx(values.std())
    values = found.regions_full[1, 0].double().numpy()
    assert by_net["net 0"]["last full"].median == pytest.approx(np.median(values))
    values = found.regions_full[0].double().numpy()
    assert found.regions_by_steps()[10]["last full"].median == pytest.approx(np.median(values))


def test_more_steps_fulfil_the_constraints_better(pairs):
    classifiers, start, toward = pairs
    attack = replace(ATTACK, regions=1, final_steps=0)
    found = invariance.step_sweep(
        classifiers, start=start, toward=toward, attack=attack, steps=(5, 200), begins=("start",)
    )
    assert (found.feature_mse[1] < found.feature_mse[0]).sum() >= 5


def test_the_sweep_needs_the_solver_that_has_steps(pairs):
    classifiers, start, toward = pairs
    with pytest.raises(ValueError, match="steps of Accelerated"):
        invariance.step_sweep(
            classifiers, start=start, toward=toward, attack=replace(ATTACK, solver=WorkingSet())
        )


# -- Table 4.4, Fig. 4.11 and 4.17 -----------------------------------------------------------------


def test_the_comparison_is_of_what_the_methods_find(pairs):
    classifiers, start, toward = pairs
    steps = Steps()
    methods = {
        "LRA": LinearRegionInversion(solver=WorkingSet(), regions=6, begin="start"),
        "Adam": AdamOnLogits(steps=200, learning_rates=(0.01,)),
    }
    found = invariance.compare(
        classifiers, start=start, toward=toward, methods=methods, advance=steps
    )
    assert steps.seen == [(i + 1, 4) for i in range(4)]
    result = methods["LRA"](classifiers["net 1"], start=start, toward=toward)
    move = result.example - toward
    assert torch.allclose(found.distance[0, 1], L2.length(move))
    assert torch.allclose(found.distance_linf[0, 1], Linf.length(move))
    assert torch.allclose(found.feature_mse[0, 1], result.feature_mse)
    table = found.table_4_4()
    assert list(table) == ["LRA", "Adam"]
    assert table["LRA"].best + table["Adam"].best == 6  # no ties
    assert table["LRA"].mean < table["Adam"].mean
    spreads = found.spreads("Linf")
    values = found.distance_linf[1, 0].numpy()
    assert spreads["Adam"]["net 0"].median == pytest.approx(np.median(values))
    assert spreads["Adam"]["net 0"].deviation == pytest.approx(values.std())


def test_a_failure_is_infinitely_far():
    inf = math.inf
    distance = torch.tensor(
        [[[1.0, 2.0, inf, inf, 4.0]], [[1.5, 1.0, 3.0, inf, 4.0]], [[inf, inf, inf, inf, 5.0]]],
        dtype=torch.float64,
    )
    found = Comparison(("a", "b", "c"), ("net",), distance, distance / 2, torch.zeros(3, 1, 5))
    table = found.table_4_4()  # of four runs: one is beyond all
    assert (table["a"].mean, table["a"].median, table["a"].best) == (inf, 0.5, 2)
    assert (table["b"].mean, table["b"].median, table["b"].best) == (0.125, 0.0, 3)
    assert (table["c"].mean, table["c"].median, table["c"].best) == (inf, inf, 0)
    assert found.spreads()["a"]["net"].median == 4.0
    assert found.spreads("Linf")["b"]["net"].median == 1.5
    assert found.spreads("Linf")["c"]["net"].deviation == 0.0
    lost = Comparison(("a",), ("net",), distance[:1, :, 3:4], distance, distance)
    assert math.isnan(lost.table_4_4()["a"].mean)
    assert lost.spreads()["a"]["net"].median == inf
    assert math.isnan(lost.spreads()["a"]["net"].deviation)


def test_spread_of_nothing():
    nothing = Spread.of(torch.tensor([math.nan]))
    assert math.isnan(nothing.median)
    assert math.isnan(nothing.deviation)


def test_what_makes_no_sense_is_refused(pairs):
    classifiers, start, toward = pairs
    with pytest.raises(ValueError, match="at least one of classifiers and methods"):
        invariance.compare(classifiers, start=start, toward=toward, methods={})
    with pytest.raises(ValueError, match="at least one of classifiers and variants"):
        invariance.ablation({}, start=start, toward=toward, attack=ATTACK)
    with pytest.raises(ValueError, match="factor must be one of"):
        _made_up().marginal("colour")
    with pytest.raises(ValueError, match="window"):
        _made_up().curve([0], window=0)
    with pytest.raises(ValueError, match="window must be odd"):
        _made_up().curve([0], window=4)
    with pytest.raises(ValueError, match="norm must be"):
        Comparison(("a",), ("b",), *torch.zeros(3, 1, 1, 1)).spreads("L1")
