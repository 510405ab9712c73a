"""Robustness and generalisation over training images: what is measured, kept and drawn."""

import json
import math
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch
from scipy import stats
from torch import nn
from typer.testing import CliRunner

from elbowroom.cli import app
from elbowroom.data import Dataset
from elbowroom.manifold.rates import Rate
from elbowroom.papers import manifold
from elbowroom.papers.manifold import (
    TRAININGS,
    Sweep,
    Trained,
    by_training,
    images_needed,
    mean_of,
    rank_correlations,
    sweep,
)
from elbowroom.papers.manifold_attacks import ATTACKS, Success, Trial, decisions
from elbowroom.papers.manifold_distance import rank_test
from elbowroom.papers.manifold_pages import needed_sentences, sweep_page
from elbowroom.papers.page import About
from elbowroom.training import Recipe
from elbowroom.training.checkpoint import Checkpoint

TINY = Sweep(
    trainings=("normal", "on-manifold"), images=(20, 40), seeds=1, epochs=1, steps=2, tested=30,
    attacked=10, restarts=1,
)  # fmt: skip


def rate_of(value, count=100):
    return Rate(round(value * count), count, value, max(value - 0.1, 0), min(value + 0.1, 1), 0.95)


def trained(training, images, seed, error, on, off):
    success = {"on-manifold": Success(rate_of(on), 0.1), "regular": Success(rate_of(off), 0.2)}
    return Trained(training, images, seed, rate_of(error), success)


def test_networks_are_trained_and_measured_once(tmp_path, monkeypatch):
    found = sweep(TINY, tmp_path)
    assert [(one.training, one.images) for one in found] == [
        ("normal", 20), ("on-manifold", 20), ("normal", 40), ("on-manifold", 40),
    ]  # fmt: skip
    assert all(one.error.count == 30 for one in found)
    for one in found:
        assert list(one.success) == ["on-manifold", "regular"]
        assert one.rate("on-manifold").count == one.rate("regular").count <= 10
    # Networks of another manifold than the normal ones are kept beside them.
    monkeypatch.setattr(Recipe, "run", None)
    assert [asdict(one) for one in sweep(TINY, tmp_path)] == [asdict(one) for one in found]
    # What was measured in another way is not taken for it.
    with pytest.raises(TypeError):
        sweep(replace(TINY, attacked=11), tmp_path)


def test_a_killed_sweep_goes_on_after_its_last_epoch(tmp_path):
    plan = replace(TINY, trainings=("on-manifold",), images=(20,), epochs=2)
    whole = sweep(plan, tmp_path / "whole")
    with monkeypatched_writes(stop_after=1), pytest.raises(KeyboardInterrupt):
        sweep(plan, tmp_path / "killed")
    (folder,) = (tmp_path / "killed").iterdir()
    assert [file.name for file in folder.iterdir()] == ["checkpoint.pt"]
    assert [asdict(one) for one in sweep(plan, tmp_path / "killed")] == [
        asdict(one) for one in whole
    ]


@contextmanager
def monkeypatched_writes(stop_after):
    """Interrupts a training after a number of checkpoints."""
    write, count = Checkpoint.write, 0

    def counted(self, folder):
        nonlocal count
        write(self, folder)
        count += 1
        if count == stop_after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "write", counted)
        yield


def test_every_attack_counts_as_the_paper_does(tmp_path):
    plan = replace(
        TINY, trainings=("normal",), images=(60,), attacked=30, data_manifold="transformations",
        attacks=tuple(ATTACKS),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifold, "SURROGATE_IMAGES", 80)
        (one,) = sweep(plan, tmp_path)
    assert list(one.success) == list(ATTACKS)
    right = 30 - one.error.hits
    for name, success in one.success.items():
        # Transferred examples count where both networks are right.
        counted = success.rate.count
        assert counted <= right if "transfer" in name else counted == right
        assert math.isnan(success.length) == (success.rate.hits == 0)
    assert one.success["regular L2"].length <= 1.5 + 1e-4
    for kind in ("regular", "on-manifold"):
        assert one.success[f"{kind}, all steps"].length <= 0.3 + 1e-5


def test_transferred_examples_are_those_that_fool_both():
    test = Dataset(
        name="points", split="test", x=torch.tensor([[0.0], [0.4], [0.9]]),
        y=torch.tensor([0, 0, 1]), classes=("low", "high"), bounds=(0.0, 1.0), source="",
    )  # fmt: skip

    def threshold(at):
        layer = nn.Linear(1, 2)
        layer.weight.data, layer.bias.data = torch.tensor([[0.0], [1.0]]), torch.tensor([0.0, -at])
        return layer

    trial = Trial(test, manifold="none", restarts=3, surrogate=lambda: threshold(0.3))
    target = trial.classifier(threshold(0.5))
    right = decisions(target, test.x) == test.y
    assert right.all()
    found = ATTACKS["regular transfer"](trial, target).among(right)
    # The surrogate is wrong on 0.4, moves 0.0 over 0.3 by at most 0.3 and not over 0.5, and cannot
    # move 0.9 under 0.3.
    assert (found.rate.hits, found.rate.count) == (0, 2)
    assert ATTACKS["regular"](trial, target).among(right).rate.hits == 1


def test_every_training_has_its_objective():
    for name in TRAININGS:
        plan = replace(TINY, trainings=(name,), data_manifold="transformations")
        recipe = plan.recipe(name, 50, 3)
        assert recipe.count == 50
        assert recipe.settings.seed == 3
    plan = replace(TINY, steps=10, data_manifold="transformations")
    described = {name: make(plan).describe() for name, make in TRAININGS.items()}
    assert described["adversarial"]["rule"] == "adam"
    assert float(described["on-manifold"]["learning_rate"]) * 10 == pytest.approx(40 * 0.005)
    assert described["random transformations"]["search"] == "random"
    assert described["on-data-manifold"]["decoder"] == "transformations"
    assert float(described["on-data-manifold"]["eta"]) == 0.1
    assert described["adversarial, weak"]["search"] == "first"
    assert described["adversarial, weak"]["weight"] == "0.5"
    assert described["on-manifold, full"]["weight"] == "1.0"


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
    assert correlations["normal"]["on-manifold"].networks == pytest.approx(1.0)
    assert correlations["normal"]["on-manifold"].means == pytest.approx(1.0)
    line = stats.linregress([0.4, 0.3, 0.1], [0.9, 0.7, 0.2])
    assert correlations["normal"]["on-manifold"].slope == pytest.approx(line.slope)
    assert correlations["normal"]["regular"].networks == pytest.approx(
        float(stats.spearmanr([0.4, 0.3, 0.1], [0.8, 0.9, 0.8]).statistic)
    )
    assert math.isnan(correlations["adversarial"]["regular"].networks)
    groups = by_training(found, "error")
    assert {n: mean.value for n, mean in groups["normal"].items()} == {100: 0.4, 200: 0.3, 300: 0.1}
    page = sweep_page(found, About("<b>net</b>", "fonts"))
    assert "<b>net</b>" not in page
    assert "How success follows the test error" in page
    assert "300 images" in page


def test_images_needed():
    found = [trained("normal", n, 0, e, 0.5, 0.5) for n, e in ((100, 0.4), (400, 0.2))]
    found += [trained("adversarial", n, 0, e, 0.5, 0.5) for n, e in ((100, 0.5), (800, 0.3))]
    found.append(trained("on-manifold", 100, 0, 0.2, 0.5, 0.5))
    needed = images_needed(found)
    # An error of 0.3 lies halfway, at 200 images on a logarithmic scale.
    assert needed == {
        "adversarial": {800: pytest.approx(1 / 4)},
        "on-manifold": {100: pytest.approx(4)},
    }
    assert "0.25 for 800" in needed_sentences(found)[0]
    assert images_needed([one for one in found if one.training != "normal"])["adversarial"] == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trainings": ("normla",)}, "unknown training 'normla'"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"images": ()}, "images must be at least 2"),
        ({"attacks": ("regulr",)}, "unknown attack 'regulr'"),
        ({"attacks": ()}, "at least one attack"),
        ({"attacks": ("on-data-manifold",)}, "needs data_manifold"),
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
    assert values["correlations"]["normal"] == {
        attack: {"networks": None, "means": None, "slope": None}
        for attack in ("on-manifold", "regular")
    }
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
    assert 0 < values["share"]["on-manifold"] < values["share"]["regular"] <= 1 + 1e-9
    assert values["rank_tests"]["share"]["probability"] > 0.5
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
