"""The LRA figures: their numbers against the network and the attack, and their pages."""

from __future__ import annotations

import json

import plotly.graph_objects as go
import pytest
import torch
from balance import balanced
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import nets
from elbowroom import Classifier, data, models
from elbowroom.attacks import LinearRegion, NearestPoints
from elbowroom.cli import app
from elbowroom.norms import L2
from elbowroom.papers import lra, lra_curves, lra_pages
from elbowroom.papers.page import About
from elbowroom.regions import Polytopes
from report.page_parser import Page

HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert('2')">&amp;{{ 71*73 }}"""
ABOUT = About("a network", "some data", ["A", "B", "C"], [("seed", "0")])


class Problem:
    """A network in float64, samples with its own decisions as labels, and an attack."""

    def __init__(self, name: str) -> None:
        model, shape = nets.make(name)
        generator = torch.Generator().manual_seed(1)
        points = torch.rand(160, *shape, generator=generator, dtype=torch.float64)
        points = points ** torch.linspace(0.2, 5, len(points), dtype=torch.float64).view(
            -1, 1, 1, 1
        )
        self.clf = Classifier(balanced(model, points))
        labels = self.clf.logits(points).argmax(dim=1)
        assert len(labels.unique()) > 1
        self.x, self.y = points[::40], labels[::40]
        self.start = NearestPoints(points=points, labels=labels)
        self.attack = LinearRegion(
            starts=2, regions=6, start=self.start, independent=True, line_search_steps=40
        )


@pytest.fixture(scope="module", params=["mlp", "resnet"])
def problem(request) -> Problem:
    return Problem(request.param)


@pytest.fixture(scope="module")
def mlp() -> Problem:
    return Problem("mlp")


def test_the_attack_shows_its_progress(problem):
    stages = list(problem.attack.progress(problem.clf, problem.x, problem.y))
    assert [stage.regions for stage in stages] == list(range(7))
    for stage in stages:
        points = stage.points.flatten(0, 1)
        labels = problem.y.repeat_interleave(2)
        there = stage.distances.flatten().isfinite()
        away = L2.length(points - problem.x.repeat_interleave(2, dim=0))
        assert torch.equal(stage.distances.flatten()[there], away[there])
        decisions = problem.clf.logits(points).argmax(dim=1)
        assert (decisions != labels)[there].all()
        assert torch.equal(decisions[there], stage.towards.flatten()[there])
    distances = torch.stack([stage.distances for stage in stages])
    assert (distances[1:] <= distances[:-1]).all()


def test_figure_5_walks_along_the_boundary(problem):
    clf, x, y = problem.clf, problem.x, problem.y
    seen = []
    rows = lra.figure_5(
        clf, x, y, attack=problem.attack, shown=2, advance=lambda *done: seen.append(done)
    )
    found = problem.attack(clf, x, y)
    assert seen == [(done, 6) for done in range(7)]
    assert [row.sample for row in rows] == found.success.nonzero().squeeze(1).tolist()
    for row in rows:
        sample = x[row.sample]
        assert 4 <= len(row.images) <= 2 + 2 + 2
        assert len(row.regions) == len(row.images) - 2
        assert torch.equal(row.images[-1], sample)
        assert (row.images[0] == problem.start.points).flatten(1).all(dim=1).any()
        torch.testing.assert_close(row.distances, L2.length(row.images - sample))
        assert (row.distances[2:] < row.distances[1:-1]).all()
        assert row.distances[-2] == pytest.approx(float(found.distance[row.sample]), rel=1e-9)
        assert row.margins[1:-1].max() < 1e-5 < row.margins[-1]
        assert (row.classes[1:-1, 0] != y[row.sample]).all()
        assert row.classes[-1, 0] == y[row.sample]
        assert row.regions.diff().min() > 0
        assert (row.images >= 0).all()
        assert (row.images <= 1).all()


def test_figure_6_has_both_images_in_one_region(problem):
    clf = problem.clf
    found = lra.figure_6(clf, problem.x, problem.y, start=problem.start)
    assert len(found.samples) > 0
    polytopes = Polytopes.at(clf, found.lines)
    for image in (found.lines, found.nearest):
        excess = polytopes.excess(image)
        scale = excess.where(excess.isfinite(), torch.zeros(())).abs().amax(dim=1)
        assert (excess.amax(dim=1) <= 1e-8 * scale).all()
        assert ((image >= 0) & (image <= 1)).all()
    # In one region the network is affine: logits follow the line from one image to the other.
    first, last = clf.logits(found.lines), clf.logits(found.nearest)
    for share in (0.25, 0.5, 0.9):
        between = clf.logits(found.lines + share * (found.nearest - found.lines))
        torch.testing.assert_close(between, first + share * (last - first), rtol=0, atol=1e-8)
    original = problem.x[found.samples]
    assert torch.equal(found.originals, original)
    torch.testing.assert_close(found.distances[:, 0], L2.length(found.lines - original))
    torch.testing.assert_close(found.distances[:, 1], L2.length(found.nearest - original))
    torch.testing.assert_close(found.apart, L2.length(found.lines - found.nearest))
    assert (found.distances[:, 1] <= found.distances[:, 0]).all()
    assert (found.margins[:, 0] < 1e-3).all()
    assert (found.violations < 1e-8).all()
    assert (found.classes[:, 1] == problem.y[found.samples]).all()
    rivals = last.gather(1, found.classes)
    assert (rivals[:, 0] >= rivals[:, 1] - 1e-8).all()


@pytest.mark.parametrize("figure", ["q", "gamma"])
def test_curves_fall_and_end_at_the_distances_of_the_attack(mlp, figure):
    attack = LinearRegion(
        starts=2, regions=5, start=mlp.start, independent=True, line_search_steps=0
    )
    if figure == "q":
        curves = lra_curves.figure_1(mlp.clf, mlp.x, mlp.y, attack=attack, qs=(0.5, 0.8))
        assert curves.names == ("q = 0.5, uniform", "q = 0.8")
    else:
        curves = lra_curves.figure_2(mlp.clf, mlp.x, mlp.y, attack=attack, gammas=(1, 6))
        assert curves.names == ("gamma = 1", "gamma = 6")
    assert curves.distances.shape == (2, 6, len(curves.samples))
    assert (curves.distances.diff(dim=1) <= 0).all()
    assert torch.equal(curves.distances[0, 0], curves.distances[1, 0])
    # The second curve has the attack's own settings.
    found = attack(mlp.clf, mlp.x, mlp.y)
    torch.testing.assert_close(curves.distances[1, -1], found.distance[curves.samples])
    torch.testing.assert_close(curves.mean[1, -1], found.distance[curves.samples].mean())
    assert (curves.maximum >= curves.median).all()


def test_samples_that_are_decided_otherwise_are_left_out(mlp):
    y = mlp.y.clone()
    y[1] = (y[1] + 1) % 3
    rows = lra.figure_5(mlp.clf, mlp.x, y, attack=mlp.attack)
    assert 1 not in [row.sample for row in rows]
    assert 1 not in lra.figure_6(mlp.clf, mlp.x, y, start=mlp.start).samples.tolist()


def test_errors_name_the_remedy(mlp):
    smooth = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3)))
    x, y = mlp.x.float(), mlp.y
    with pytest.raises(ValueError, match=r"tanh.*not piecewise affine.*choose.*bounds-2\.5") as one:
        lra.figure_6(smooth, x, smooth.logits(x).argmax(dim=1), start=mlp.start)
    assert len(str(one.value).splitlines()) == 1
    unbounded = Classifier(mlp.clf.network, bounds=(0.0, float("inf")))
    with pytest.raises(ValueError, match=r"Classifier\(bounds="):
        lra.figure_5(unbounded, mlp.x, y, attack=mlp.attack)
    with pytest.raises(ValueError, match="none of 4 samples"):
        lra.figure_5(mlp.clf, mlp.x, (y + 1) % 3, attack=mlp.attack)
    alike = NearestPoints(points=x.double()[:1], labels=y[:1])
    for figure in (lra.figure_5, lra_curves.figure_1):
        with pytest.raises(ValueError, match="no sample has a start: give more data points"):
            figure(mlp.clf, mlp.x[:1], y[:1], attack=LinearRegion(starts=1, start=alike))
    with pytest.raises(ValueError, match="no sample has a start"):
        lra.figure_6(mlp.clf, mlp.x[:1], y[:1], start=alike)
    with pytest.raises(ValueError, match="start=NearestPoints"):
        lra.figure_5(mlp.clf, mlp.x, y, attack=LinearRegion())


def _pages(problem: Problem, about: About) -> dict[str, str]:
    clf, x, y, attack = problem.clf, problem.x, problem.y, problem.attack
    curves = lra_curves.figure_1(clf, x, y, attack=attack, qs=(0.5, 0.8, 1.0))
    return {
        "5": lra_pages.figure_5_page(lra.figure_5(clf, x, y, attack=attack), about),
        "6": lra_pages.figure_6_page(lra.figure_6(clf, x, y, start=problem.start), about),
        "1": lra_pages.curves_page(curves, about, name="LRA, Fig. 1"),
    }


def test_pages_are_whole_and_load_nothing(mlp):
    for name, html in _pages(mlp, ABOUT).items():
        page = Page(html)
        assert page.unbalanced == []
        links = [
            value
            for _, attributes in page.tags
            for key, value in attributes.items()
            if key in ("src", "href", "srcset", "action", "data", "poster")
        ]
        assert [value for value in links if not str(value).startswith("data:")] == []
        policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
        assert str(policy).startswith("default-src 'none'")
        assert f"LRA, Fig. {name}" in page.text
        assert all(a["alt"] and a["width"] == "8" for a in page.all("img"))
        assert len(page.all("img")) == (0 if name == "1" else len(page.all("figure")))


def test_figure_5_page_shows_classes_and_distances(mlp):
    rows = lra.figure_5(mlp.clf, mlp.x, mlp.y, attack=mlp.attack)
    text = Page(lra_pages.figure_5_page(rows, ABOUT)).text
    for row in rows:
        first, second = row.classes[-2].tolist()
        assert f"{'ABC'[first]}/{'ABC'[second]} d = {row.distances[-2]:.3g}"[:12] in text
        assert f"Sample {row.sample}: {'ABC'[int(row.classes[-1, 0])]}" in text


def test_curves_are_plotly_figures(mlp):
    curves = lra_curves.figure_1(mlp.clf, mlp.x, mlp.y, attack=mlp.attack, qs=(0.5, 0.8, 1.0))
    page = Page(lra_pages.curves_page(curves, ABOUT, name="LRA, Fig. 1"))
    assert list(page.charts) == ["chart-median", "chart-maximum", "chart-mean"]
    for name, chart in page.charts.items():
        assert len(go.Figure(chart).data) == 3
        assert [trace["meta"] for trace in chart["data"]] == ["muted", "curve-1", "curve-9"]
        wanted = getattr(curves, name.removeprefix("chart-"))[1]
        assert chart["data"][1]["y"] == pytest.approx(wanted.tolist())


def test_hostile_names_stay_text(mlp):
    hostile = About(HOSTILE, HOSTILE, [f"{k}{HOSTILE}" for k in range(3)], [(HOSTILE, HOSTILE)])
    harmless = _pages(mlp, ABOUT)
    for name, html in _pages(mlp, hostile).items():
        page = Page(html)
        assert page.unbalanced == []
        for tag in ("script", "img"):
            assert len(page.all(tag)) == len(Page(harmless[name]).all(tag))
        assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
        assert HOSTILE in page.text
        assert str(71 * 73) not in page.text


def _run(*args: object):
    return CliRunner().invoke(app, ["figure", *(str(arg) for arg in args)])


def test_the_command_on_letters(tmp_path):
    out = tmp_path / "new" / "page.html"
    small = ["--samples", 4, "--count", 1, "--set", "regions=2", "--set", "starts=1"]
    result = _run("lra-5", *small, "--out", out, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["page"] == str(out)
    page = Page(out.read_text())
    assert "LRA, Fig. 5" in page.text
    assert len(page.all("img")) == len(values["rows"][0]["distances"])


@pytest.fixture
def digits(tmp_path) -> list[object]:
    """Options for a network that finds the nearest mean of a class: one hidden unit for each."""
    train = data.load("digits", "train")
    means = torch.stack([train.x[train.y == label].flatten(1).mean(dim=0) for label in range(10)])
    model = models.build("mlp", sizes=[64, 10, 10])
    first, last = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    with torch.no_grad():
        first.weight.copy_(2 * means)
        first.bias.copy_(20 - means.square().sum(dim=1))
        last.weight.copy_(torch.eye(10))
        last.bias.zero_()
    save_file(model.state_dict(), tmp_path / "means.safetensors")
    return [
        "--model", "mlp", "--model-set", "sizes=[64,10,10]", "--data", "digits",
        "--weights", tmp_path / "means.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["lra-2", "lra-3", "lra-6"])
def test_the_command_makes_every_figure(name, digits, tmp_path):
    out = tmp_path / "page.html"
    smaller = [] if name == "lra-6" else ["--set", "regions=2", "--set", "starts=1"]
    result = _run(name, *digits, *smaller, "--count", 2, "--out", out)
    assert result.exit_code == 0, result.output
    text = Page(out.read_text()).text
    assert f"LRA, Fig. {name[-1]}" in text
    assert ("gamma=9.0" in text) == (name == "lra-3")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["lra-7"], "there is no figure 'lra-7'; there are lra-1"),
        (["lra-6", "--set", "regions=3"], "lra-6 has no option 'regions'; it has rounds, added"),
        (["lra-5", "--set", "regons=3"], "no option 'regons'"),
        (["lra-5", "--start-split", "tran"], "no split 'tran'"),
        (["nspgd-5", "--start-split", "tran"], "nspgd-5 has no walks that start at other samples"),
        (["lra-5", "--model", "lenet5-lrn1", "--data", "digits"], "rejects inputs of shape"),
    ],
)
def test_mistakes_get_one_line(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = _run(*args, "--samples", 3)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.exit_code == 1, result.output
    assert len(lines) == 1
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []
