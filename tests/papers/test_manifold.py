"""Robustness and generalisation over training images: what is measured, kept and drawn."""

import json
import math
from dataclasses import replace

import pytest
import torch
from scipy import stats
from typer.testing import CliRunner

from elbowroom.cli import app
from elbowroom.manifold.rates import Rate
from elbowroom.papers import manifold
from elbowroom.papers.manifold import (
    TRAININGS,
    Sweep,
    Trained,
    by_training,
    mean_of,
    rank_correlations,
    sweep,
)
from elbowroom.papers.manifold_distance import rank_test
from elbowroom.papers.manifold_pages import sweep_page
from elbowroom.papers.page import About

TINY = Sweep(
    trainings=("normal", "on-manifold"), images=(20, 40), seeds=1, epochs=1, steps=2, tested=30,
    attacked=10, restarts=1,
)  # fmt: skip


def rate_of(value, count=100):
    return Rate(round(value * count), count, value, max(value - 0.1, 0), min(value + 0.1, 1), 0.95)


def trained(training, images, seed, error, on, off):
    return Trained(training, images, seed, rate_of(error), rate_of(off), rate_of(on), 0.1)


def test_networks_are_measured_once(tmp_path, monkeypatch):
    found = sweep(TINY, tmp_path)
    assert [(one.training, one.images) for one in found] == [
        ("normal", 20), ("on-manifold", 20), ("normal", 40), ("on-manifold", 40),
    ]  # fmt: skip
    assert all(one.error.count == 30 for one in found)
    assert all(one.regular.count == one.on_manifold.count <= 10 for one in found)
    monkeypatch.setattr(manifold, "_measured", None)
    assert [one.error for one in sweep(TINY, tmp_path)] == [one.error for one in found]
    # What was measured in another way is not taken for it.
    with pytest.raises(TypeError):
        sweep(replace(TINY, attacked=11), tmp_path)


def test_every_training_has_its_objective():
    for name in TRAININGS:
        recipe = replace(TINY, trainings=(name,)).recipe(name, 50, 3)
        assert recipe.count == 50
        assert recipe.settings.seed == 3
    described = {name: make(10, "fonts").describe() for name, make in TRAININGS.items()}
    assert described["adversarial"]["rule"] == "adam"
    assert float(described["on-manifold"]["learning_rate"]) * 10 == pytest.approx(40 * 0.005)
    assert described["random transformations"]["search"] == "random"


def test_means_over_seeds():
    rates = [rate_of(value) for value in (0.1, 0.2, 0.4)]
    found = mean_of(rates)
    low, high = stats.t.interval(0.95, 2, loc=0.7 / 3, scale=stats.sem([0.1, 0.2, 0.4]))
    assert (found.value, found.lower, found.upper) == pytest.approx((0.7 / 3, low, high))
    assert mean_of(rates[:1]).lower == rates[0].lower


def test_correlations_and_groups():
    found = [
        trained("normal", 100, 0, 0.4, 0.9, 0.8),
        trained("normal", 200, 0, 0.3, 0.7, 0.9),
        trained("normal", 300, 0, 0.1, 0.2, 0.8),
        trained("adversarial", 100, 0, 0.4, 0.9, 0.8),
    ]
    correlations = rank_correlations(found)
    assert correlations["normal"][0] == pytest.approx(1.0)
    assert correlations["normal"][1] == pytest.approx(
        float(stats.spearmanr([0.4, 0.3, 0.1], [0.8, 0.9, 0.8]).statistic)
    )
    assert math.isnan(correlations["adversarial"][0])
    groups = by_training(found, "error")
    assert {n: mean.value for n, mean in groups["normal"].items()} == {100: 0.4, 200: 0.3, 300: 0.1}
    page = sweep_page(found, About("<b>net</b>", "fonts"))
    assert "<b>net</b>" not in page
    assert "Rank correlation" in page
    assert "300 images" in page


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trainings": ("normla",)}, "unknown training 'normla'"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"images": ()}, "images must be at least 2"),
    ],
)
def test_bad_sweeps(options, words):
    with pytest.raises(ValueError, match=words):
        Sweep(**options)


def test_the_command(tmp_path):
    page = tmp_path / "figure.html"
    arguments = [
        "experiment", "manifold-figure-5", "--json", "--out", page, "--runs", tmp_path / "runs",
        "--set", "images=[20,30]", "--set", "epochs=1", "--set", "steps=1", "--set", "tested=20",
        "--set", "attacked=5", "--set", "restarts=1", "--set", 'trainings=["normal"]',
    ]  # fmt: skip
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert [one["images"] for one in values["networks"]] == [20, 30]
    assert values["correlations"]["normal"] == [None, None]
    assert "on-manifold success" in page.read_text(encoding="utf-8")


def test_regular_examples_leave_the_manifold_at_right_angles(tmp_path):
    page = tmp_path / "figure.html"
    arguments = [
        "experiment", "manifold-figure-3", "--json", "--out", page, "--set", "samples=12",
        "--set", "train=300", "--set", "neighbours=8",
    ]  # fmt: skip
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert 0.9 < values["median_ratio"] <= 1
    assert values["counts"]["test images"] <= 12
    assert values["counts"]["regular"] > 0
    assert 0 < values["median_cosine"] < 1
    text = page.read_text(encoding="utf-8")
    assert "Distance to the true manifold" in text
    assert "right angles" in text


def test_the_rank_test():
    low, high = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.5, 4.0, 5.0, 6.0])
    found = rank_test(low, high)
    pairs = [(a < b) for a in low.tolist() for b in high.tolist()]
    assert found.probability == pytest.approx(sum(pairs) / len(pairs))
    assert found.p < 0.1 < 0.9 < rank_test(high, low).p
    assert rank_test(low[:0], high) is None
