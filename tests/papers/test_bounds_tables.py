"""Tables 3.1, 4.2 and 4.3 and Fig. 4.3 of the Bounds thesis, at small sizes, against oracles."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from elbowroom import Classifier
from elbowroom.attacks import DeepFool
from elbowroom.certificates import Certificate, GlobalLipschitz
from elbowroom.cli import app
from elbowroom.graph import UnsupportedOperationError
from elbowroom.papers import bounds_charts, bounds_mlp, bounds_pages
from elbowroom.papers.bounds_compare import (
    BEST,
    EXACT,
    FastGradient,
    Measured,
    Spread,
    joined,
    measure,
    summary,
)
from elbowroom.papers.bounds_random import (
    TABLE_3_1,
    TABLE_4_2,
    random_network,
    table_3_1,
    table_4_2,
)
from elbowroom.papers.page import About
from report.page_parser import Page

ABOUT = About("a network", "some <b>data</b>", facts=[("seed", "0")])
SOUND = {"global-lipschitz": GlobalLipschitz()}


@dataclass(frozen=True, kw_only=True)
class Planted(Certificate):
    """The exact radius of a linear classifier, times `factor` for every second sample."""

    sound = False
    factor: float = 1.0

    def bound(self, clf, x, y):
        layer = clf.network[-1]
        logits = layer(x)
        apart = (layer.weight[y][:, None] - layer.weight).norm(dim=2)
        gap = logits.gather(1, y[:, None]) - logits
        radius = (gap / apart).scatter(1, y[:, None], math.inf).amin(dim=1)
        scale = torch.ones(len(x)).double()
        scale[::2] = self.factor
        return radius * scale


@dataclass(frozen=True, kw_only=True)
class Refusing(Certificate):
    def bound(self, clf, x, y):
        raise UnsupportedOperationError("no <i>rule</i> for this layer")


def test_the_bound_of_a_linear_classifier_is_its_distance():
    settings = [replace(setting, networks=1, samples=8) for setting in TABLE_3_1]
    found = table_3_1(SOUND | {"theorem 3.6": Planted()}, settings=settings)
    for setting, one in zip(settings, found, strict=True):
        assert len(one.decisions) == 8
        assert one.distances["FGS"].isfinite().all()
        for bound in one.radii:
            radii = one.radii[bound]
            torch.testing.assert_close(radii, one.distances[EXACT], rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(radii, one.distances["DeepFool"], rtol=1e-5, atol=1e-9)
            # What FGS finds is farther, by what its direction costs it.
            assert (one.deviations("FGS", bound) > -1e-9 * setting.sample_range).all()
        assert not one.violations("global-lipschitz").any()


def test_fgs_deviates_as_its_direction_says():
    """Two classes: FGS moves along sign(w), by |w x + b| / |w|_1 in every feature."""
    setting = replace(TABLE_3_1[1], classes=2, networks=1, samples=30)
    (one,) = table_3_1({"theorem 3.6": Planted()}, settings=[setting])
    clf, x = random_network(setting, "tanh", (0, 0, 0))
    layer = clf.network[-1]
    w, b = (values[1] - values[0] for values in (layer.weight.detach(), layer.bias.detach()))
    gap = (x @ w + b).abs()
    expected = gap * (math.sqrt(20) / w.abs().sum() - 1 / w.norm())
    torch.testing.assert_close(one.deviations("FGS", "theorem 3.6"), expected, rtol=1e-5, atol=1e-9)


def test_planted_violations_are_counted():
    settings = [replace(TABLE_3_1[0], networks=3)]
    bounds = {"planted": Planted(factor=1.01), "right": Planted(factor=0.99), "none": Refusing()}
    (one,) = table_3_1(bounds, settings=settings)
    assert one.violations("planted").tolist() == [True, False] * 15
    assert not one.violations("right")[::2].any()
    assert not one.violations("none").any()
    values = summary(one)["bounds"]
    assert values["planted"]["violations"] == 15
    assert values["none"]["refused"] == "no <i>rule</i> for this layer"
    assert values["none"]["radius"] is None
    assert values["right"]["sound"] is False
    tight = values["planted"]["tightness"][EXACT]
    assert tight["most"] == pytest.approx(1.01)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    page = Page(bounds_pages.table_3_1_page([one], settings, ABOUT))
    assert page.unbalanced == []
    assert "refused: no <i>rule</i> for this layer" in page.text
    assert page.all("i") == page.all("b") == []
    assert "planted (not a certificate)" in page.text


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_random_mlps(activation):
    settings = [replace(TABLE_4_2[row], networks=2, samples=2) for row in (0, 5)]
    exact = 5.0 if activation == "relu" else None
    found = table_4_2(
        SOUND, settings=settings, activation=activation, budget=50, exact_seconds=exact
    )
    for one in found:
        fast, best = one.distance("FGS or FGV"), one.distance(BEST)
        assert (best <= fast).all()
        # FGS moves no feature by more than 1, and FGV no farther than that.
        assert (fast[fast.isfinite()] <= math.sqrt(2) * (1 + 1e-9)).all()
        assert not one.violations("global-lipschitz").any()
        if exact is not None:
            known = one.distances[EXACT].isfinite()
            assert known.any()
            assert (best[known] <= one.distances["Closest"][known] * (1 + 1e-6)).all()
            assert (one.radii["global-lipschitz"] < one.distances[EXACT])[known].all()
    page = Page(bounds_pages.table_4_2_page(found, settings, ABOUT))
    assert page.unbalanced == []
    assert set(page.charts) == {"deviations-0", "deviations-1"}
    assert page.charts["deviations-1"]["data"][0]["x"] == ["1", "2"]


def test_random_networks_depend_on_the_seed_alone():
    setting = TABLE_4_2[3]
    (a, x), (b, z), (_, other) = (
        random_network(setting, "tanh", seed) for seed in ((1, 2), (1, 2), (1, 3))
    )
    assert torch.equal(x, z)
    assert not torch.equal(x, other)
    for one, two in zip(a.network.parameters(), b.network.parameters(), strict=True):
        assert torch.equal(one, two)
    assert [tuple(p.shape) for p in a.network.parameters()][::2] == [
        (10, 20), (10, 10), (10, 10), (5, 10)
    ]  # fmt: skip
    assert x.abs().max() <= 1
    assert all(bool((p.abs() <= 1).all()) for p in a.network.parameters())


def test_the_exact_distance_of_unbounded_inputs_needs_an_example():
    """One feature, and the boundary at 0."""
    layer = nn.Linear(1, 2).double()
    network = nn.Sequential(layer)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0], [1.0]]))
        layer.bias.copy_(torch.zeros(2))
    clf = Classifier(network, bounds=(-math.inf, math.inf))
    x = torch.tensor([[-0.4], [-3.0]], dtype=torch.float64)
    one = measure(clf, x, attacks={"DeepFool": DeepFool()}, bounds={}, exact_seconds=5.0)
    assert one.distances[EXACT].tolist() == pytest.approx([0.4, 3.0])
    none = measure(
        clf, x, attacks={"short": FastGradient(max_eps=0.1)}, bounds={}, exact_seconds=5.0
    )
    assert none.distances[EXACT].isnan().all()
    assert none.distance("short").isinf().all()
    assert none.success_rate("short") == none.success_rate(EXACT) == 0
    half = measure(
        clf, x, attacks={"short": FastGradient(max_eps=1.0)}, bounds={}, exact_seconds=5.0
    )
    assert half.distances[EXACT][0] == pytest.approx(0.4)
    assert half.distances[EXACT][1].isnan()
    assert half.success_rate(EXACT) == 0.5


def test_attacks_on_a_part_of_the_samples():
    clf, x = random_network(TABLE_3_1[0], "tanh", (0,))
    one = measure(clf, x, attacks={"a": DeepFool(), "b": DeepFool()}, bounds={}, first={"b": 3})
    assert one.distances["b"].isnan().tolist() == [False] * 3 + [True] * 7
    assert torch.equal(one.nearest, one.distances["a"])
    assert one.success_rate("b") == 1.0
    off = measure(clf, x, attacks={"a": DeepFool(), "b": DeepFool()}, bounds={}, first={"b": 0})
    assert summary(off)["attacks"]["b"] == {"success_rate": None, "distance": None}
    assert torch.equal(one.points["b"][3:], x[3:])
    two = joined([one, replace(one, networks=one.networks + 1)])
    assert len(two.nearest) == 20
    averages = two.by_network(two.nearest)
    assert averages.tolist() == pytest.approx([float(one.nearest.mean())] * 2)


def test_spreads_leave_out_what_is_not_finite():
    spread = Spread.of(torch.tensor([1.0, 2.0, 4.0, math.inf, math.nan]))
    assert spread == Spread(3, pytest.approx(7 / 3), 2.0, pytest.approx(1.527525), 1.0, 4.0)
    assert Spread.of(torch.tensor([math.inf])) is None
    assert math.isnan(Spread.of(torch.tensor([3.0])).std)


def test_trained_mlps(tmp_path):
    pytest.importorskip("lightning")
    found = bounds_mlp.table_4_3(SOUND, sets=["iris"], samples=10, budget=50, folder=tmp_path)
    one = found["iris"]
    assert one.accuracy >= 0.9
    assert len(one.measured.decisions) == 10
    assert not one.measured.violations("global-lipschitz").any()
    assert (tmp_path / "bounds-iris-seed0" / "weights.safetensors").exists()
    page = Page(bounds_pages.table_4_3_page(found, ABOUT))
    assert page.unbalanced == []
    assert f"iris {one.accuracy:.0%}" in page.text


def test_wide_output_margins_cost_accuracy():
    pytest.importorskip("lightning")
    found = bounds_mlp.figure_4_3(sets=["iris"], weights=(0.0, 2.0))
    one = found["iris"]
    assert one.accuracy[0] > 0.9 > 0.7 >= one.accuracy[1]
    assert one.error[0] > one.error[1]
    every = bounds_mlp.everything("iris")
    assert len(every) == 150
    page = Page(bounds_pages.figure_4_3_page(found, ABOUT))
    assert page.unbalanced == []
    assert page.charts["shares-iris"]["data"][0]["y"] == list(one.accuracy)


def test_boxes_are_tukeys():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 100.0, math.inf])
    box = bounds_charts.box(values)
    assert (box["q1"], box["median"], box["q3"]) == (2.25, 3.5, 4.75)
    assert (box["lowerfence"], box["upperfence"], box["outliers"]) == (1.0, 5.0, [100.0])
    many = bounds_charts.box(torch.cat([torch.zeros(1000), torch.arange(1, 201).double()]))
    assert len(many["outliers"]) == bounds_charts.MOST_OUTLIERS
    assert many["outliers"][-1] == 200
    chart = bounds_charts.boxes_chart({"<a>": [values[:5], values[6:]]}, ["1", "2"], "y")
    (trace,) = chart["data"]
    assert trace["x"] == ["1"]
    assert all(trace["y"])  # an empty list of outliers, and the browser draws no box at all
    assert trace["name"] == "&lt;a&gt;"


def _run(*args: object):
    return CliRunner().invoke(app, ["experiment", *(str(arg) for arg in args)])


def test_the_command(tmp_path):
    out = tmp_path / "page.html"
    bound = ["--bound", "global-lipschitz"]
    small = ["--set", "networks=1", "--out", out]
    result = _run("bounds-table-3.1", *small, *bound, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert len(values["rows"]) == 5
    assert values["rows"][1]["setting"]["features"] == 20
    assert values["rows"][1]["bounds"]["global-lipschitz"]["violations"] == 0
    assert Page(out.read_text()).unbalanced == []
    told = _run("bounds-table-3.1", *small, *bound).stdout
    assert "0 violations on 50 samples" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bounds-table-9.9"], "there is no experiment"),
        (["bounds-table-3.1", "--size", "huge"], "small or paper"),
        (
            ["bounds-table-5.1", "--set", 'networks=["alexnet"]'],
            "no network 'alexnet' in chapter 5",
        ),
        (["bounds-table-3.1", "--bound", "nothing"], "there is no bound"),
        (["bounds-table-3.1", "--set", "count=3"], "has no option 'count'; it has networks"),
        (["bounds-figure-4.3", "--set", "weights=3"], "must be a list"),
    ],
)
def test_mistakes_are_named(arguments, message):
    result = _run(*arguments)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


def test_violations_need_a_point_inside_the_radius():
    one = Measured(
        decisions=torch.zeros(3).long(),
        distances={"a": torch.tensor([1.0, math.inf, math.nan]).double()},
        points={"a": torch.zeros(3, 1)},
        radii={"b": torch.tensor([1.0, 5.0, 5.0]).double()},
        sound={"b": True},
        refused={},
        networks=torch.zeros(3).long(),
    )
    assert one.violations("b").tolist() == [False, False, False]
    more = replace(one, radii={"b": one.radii["b"] + 1e-12})
    assert more.violations("b").tolist() == [True, False, False]
    # Formulas that are no certificates know nothing of rounding, which is not held against them.
    assert not replace(more, sound={"b": False}).violations("b").any()
    further = replace(one, sound={"b": False}, radii={"b": one.radii["b"] + 1e-8})
    assert further.violations("b").tolist() == [True, False, False]
