"""The NSPGD figures: numbers against the attack run by hand, and their pages."""

from __future__ import annotations

import json
import math

import plotly.graph_objects as go
import pytest
import torch
from balance import balanced
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import nets
from elbowroom import Classifier, data, models
from elbowroom.cli import app
from elbowroom.invariance import NSPGD, EquiConfidence, NullSpaceStep
from elbowroom.norms import L2
from elbowroom.papers import nspgd, nspgd_pages
from elbowroom.papers.page import About
from elbowroom.perception import Lp
from elbowroom.report.figures import percent
from report.page_parser import Page

HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert('2')">&amp;{{ 71*73 }}"""
ABOUT = About("a network", "some data", ["A", "B", "C"], [("seed", "0")])


class Problem:
    """A network in float64, and samples with its own decisions as labels, of three classes."""

    def __init__(self) -> None:
        model, shape = nets.make("mlp")
        generator = torch.Generator().manual_seed(1)
        x = torch.rand(300, *shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            model[-1].weight *= 20
        self.clf = Classifier(balanced(model, x))
        y = self.clf.logits(x).argmax(dim=1)
        members = [(y == label).nonzero().squeeze(1)[:4] for label in range(3)]
        assert all(len(numbers) == 4 for numbers in members)
        self.x, self.y = x[torch.cat(members)], y[torch.cat(members)]
        self.attack = NSPGD(step=0.05, steps=60, perceptual=Lp(L2), threshold=0.4)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return Problem()


def similarity(x, y):
    return 1 / (1 + L2.length(x - y))


@pytest.fixture(scope="module")
def found(problem) -> nspgd.Transformed:
    return nspgd.transform(
        problem.clf, problem.x, problem.y, attack=problem.attack, targets=2, sources=3,
        similarity=similarity, batch=7,
    )  # fmt: skip


def test_every_source_goes_to_every_target_of_another_class(problem, found):
    x, y = problem.x, problem.y
    assert len(found.sources) == 3 * 2 * 2 * 3
    assert len(torch.stack([found.sources, found.targets], 1).unique(dim=0)) == 36
    assert torch.equal(found.classes[:, 0], y[found.sources])
    assert torch.equal(found.classes[:, 1], y[found.targets])
    assert (found.classes[:, 0] != found.classes[:, 1]).all()
    for role, count in (("sources", 3), ("targets", 2)):
        chosen = getattr(found, role).unique()
        assert torch.equal(y[chosen].bincount(), torch.full((3,), count))
    alone = problem.attack(problem.clf, start=x[found.sources], toward=x[found.targets])
    torch.testing.assert_close(found.images, alone.example, rtol=0, atol=1e-9)
    torch.testing.assert_close(found.distance, alone.distance)
    torch.testing.assert_close(found.perceptual, found.distance)
    torch.testing.assert_close(found.confidence, alone.confidence)
    torch.testing.assert_close(found.similarity, 1 / (1 + found.distance))
    assert torch.equal(found.success, alone.success)
    assert torch.equal(found.aims, x[found.targets])


def test_the_matrix_and_the_table_count_pairs(problem, found):
    matrix = nspgd.success_matrix(found)
    assert matrix.rates.shape == (6, 3)
    assert matrix.target_classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert matrix.source_classes.tolist() == [0, 1, 2]
    rates = []
    for row, target in enumerate(matrix.targets.tolist()):
        assert problem.y[target] == matrix.target_classes[row]
        for label in range(3):
            of = (found.targets == target) & (found.classes[:, 0] == label)
            rate = float(matrix.rates[row, label])
            if label == matrix.target_classes[row]:
                assert math.isnan(rate)
                continue
            assert int(of.sum()) == 3
            assert rate == pytest.approx(float(found.success[of].double().mean()))
            rates.append(rate)
    assert 0 < sum(rates) < len(rates)
    summary = nspgd.table_1(found)
    assert summary.success == pytest.approx(sum(rates) / len(rates))
    assert summary.pairs == 36
    assert summary.distance[0] == pytest.approx(float(found.distance.mean()))
    ordered = sorted(found.distance.tolist())
    assert summary.distance[1] == pytest.approx((ordered[17] + ordered[18]) / 2)
    assert summary.similarity[0] == pytest.approx(float(found.similarity.mean()))


def test_draws_depend_on_the_seed_alone(problem):
    x, y, attack = problem.x, problem.y, NSPGD(steps=1)

    def chosen(seed, x=x, y=y):
        found = nspgd.transform(problem.clf, x, y, attack=attack, targets=1, sources=2, seed=seed)
        return found.sources.tolist(), found.targets.tolist()

    assert chosen(0) == chosen(0)
    assert len({str(chosen(seed)) for seed in range(6)}) > 1
    # Classes draw on their own: without the last one the others choose as before.
    sources, _ = chosen(0, x[:8], y[:8])
    assert set(sources) == {number for number in chosen(0)[0] if number < 8}


def test_wrongly_classified_samples_are_not_drawn(problem):
    y = problem.y.clone()
    y[0] = 1
    found = nspgd.transform(problem.clf, problem.x, y, attack=NSPGD(steps=1))
    assert 0 not in found.sources
    assert 0 not in found.targets
    assert len(found.targets.unique()) == 11


def test_figure_5_has_one_target_and_one_source_of_each_class(problem):
    seen = []
    found = nspgd.figure_5(
        problem.clf, problem.x, problem.y, attack=problem.attack, batch=4,
        advance=lambda *done: seen.append(done),
    )  # fmt: skip
    assert seen == [(4, 6), (6, 6)]
    assert len(found.sources.unique()) == len(found.targets.unique()) == 3
    assert sorted(map(tuple, found.classes.tolist())) == [
        (a, b) for a in range(3) for b in range(3) if a != b
    ]


def test_figure_9_measures_along_the_paths(problem):
    toward = problem.x[nspgd.other_class(problem.y)]
    around = EquiConfidence(radii=(0.5, 2.0), samples=6)
    found = nspgd.figure_9(
        problem.clf, problem.x, toward, attack=problem.attack, around=around, every=10
    )
    walk = NSPGD(step=0.05, steps=60, path_every=10)(problem.clf, start=problem.x, toward=toward)
    alone = around(problem.clf, walk.path, problem.y)
    torch.testing.assert_close(found.around.percentiles, alone.percentiles)
    assert found.around.on_path.shape == (len(found.steps), 12)
    assert torch.equal(found.taken, walk.steps)
    torch.testing.assert_close(found.around.on_path[-1], walk.confidence)
    assert found.steps[-1] == walk.steps.max()
    assert (found.steps.diff() > 0).all()


def test_other_class_is_the_next_one():
    y = torch.tensor([0, 0, 1, 2, 2, 0])
    assert nspgd.other_class(y).tolist() == [2, 2, 3, 5, 5, 2]
    with pytest.raises(ValueError, match="of one class"):
        nspgd.other_class(torch.zeros(3, dtype=torch.int64))


def test_errors_name_the_remedy(problem):
    clf, x, y = problem.clf, problem.x, problem.y
    plain = nspgd.transform(clf, x, y, attack=NSPGD(steps=1), targets=1, sources=1)
    assert plain.success is None
    assert plain.perceptual is None
    with pytest.raises(ValueError, match="give the attack both"):
        nspgd.table_1(plain)
    with pytest.raises(ValueError, match="two classes at least"):
        nspgd.transform(clf, x[:4], y[:4], attack=NSPGD(steps=1))
    with pytest.raises(ValueError, match="targets must be at least 1"):
        nspgd.transform(clf, x, y, attack=NSPGD(steps=1), targets=0)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2"):
        nspgd.transform(clf, x, y + 1, attack=NSPGD(steps=1))


# -- pages ----------------------------------------------------------------------------------------


def _one_step() -> nspgd.OneStep:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 3)).double()
    x = torch.rand(2, 2, 1, 8, 8, dtype=torch.float64)
    return nspgd.figure_2(Classifier(model), x[0], x[1], step=NullSpaceStep())


def _pages(problem: Problem, found: nspgd.Transformed, about: About) -> dict[str, str]:
    widths = nspgd.figure_9(
        problem.clf, problem.x[:4], problem.x[4:8], attack=problem.attack,
        around=EquiConfidence(radii=(0.5, 1.0, 2.0), samples=4),
    )  # fmt: skip
    return {
        "2": nspgd_pages.figure_2_page(_one_step(), about, labels=[(0, 1), (2, 0)], samples=[5, 6]),
        "5": nspgd_pages.figure_5_page(found, about),
        "7": nspgd_pages.figure_7_page(
            nspgd.success_matrix(found), nspgd.table_1(found), about, decided_by="L2 below 0.4"
        ),
        "9": nspgd_pages.figure_9_page(widths, about),
    }


def test_pages_are_whole_and_hostile_names_stay_text(problem, found):
    hostile = About(HOSTILE, HOSTILE, [f"{k}{HOSTILE}" for k in range(3)], [(HOSTILE, HOSTILE)])
    harmless = _pages(problem, found, ABOUT)
    for name, html in _pages(problem, found, hostile).items():
        page, plain = Page(html), Page(harmless[name])
        assert page.unbalanced == []
        assert f"NSPGD, Fig. {name}" in plain.text
        for tag in ("script", "img", "figure", "tr"):
            assert len(page.all(tag)) == len(plain.all(tag))
        assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
        assert HOSTILE in page.text
        assert str(71 * 73) not in page.text


def test_figure_5_page_shows_every_walk_beside_its_target(problem, found):
    page = Page(nspgd_pages.figure_5_page(found, ABOUT))
    # Six targets, each with itself and what became of three sources of each of two classes.
    assert len(page.all("img")) == 6 * (1 + 6)
    assert page.text.count("not reached") == int((~found.success).sum())


def test_figure_7_page_has_the_rates(found):
    page = Page(
        nspgd_pages.figure_7_page(
            nspgd.success_matrix(found), nspgd.table_1(found), ABOUT, decided_by="L2 below 0.4"
        )
    )
    assert len(page.all("tr")) == 1 + 6
    assert "L2 below 0.4" in page.text
    assert page.charts == {}


def test_figure_9_page_plots_a_curve_for_each_radius(problem, found):
    html = _pages(problem, found, ABOUT)["9"]
    page = Page(html)
    assert list(page.charts) == ["chart-0", "chart-1"]
    for chart in page.charts.values():
        assert [trace["meta"] for trace in go.Figure(chart).data] == [
            "muted", "curve-1", "curve-5", "curve-9",
        ]  # fmt: skip
    assert "linear region" not in html
    assert "regions visited" not in html


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path) -> list[object]:
    """Options for a two-layer network that finds the nearest mean of a class."""
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
        "--weights", tmp_path / "means.safetensors", "--samples", 40,
    ]  # fmt: skip


def _run(*args: object):
    return CliRunner().invoke(app, ["figure", *(str(arg) for arg in args)])


@pytest.mark.parametrize("name", ["nspgd-2", "nspgd-5", "nspgd-7", "nspgd-9"])
def test_the_command_makes_every_figure(name, digits, tmp_path):
    out = tmp_path / "page.html"
    walk = ["--set", "step=0.1", "--set", "steps=40", "--set", "threshold=0.5"]
    more = {
        "nspgd-2": ["--set", "reach=0.5"],
        "nspgd-5": walk,
        "nspgd-7": [*walk, "--set", "sources=1"],
        "nspgd-9": [*walk, "--set", "radii=[1,2]", "--set", "samples=5"],
    }
    result = _run(name, *digits, *more[name], "--out", out, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert f"NSPGD, Fig. {name[-1]}" in Page(out.read_text()).text
    if name == "nspgd-2":
        assert max(values["logit_change"]) < 1e-10
    elif name == "nspgd-9":
        assert len(values["percentiles"][0]) == 2
    else:
        drop = [
            a - b for a, b in zip(values["confidence_start"], values["confidence"], strict=True)
        ]
        assert max(drop) <= 0.05
        assert len(values["success"]) == len(drop)
        if name == "nspgd-7":
            told = _run(name, *digits, *more[name], "--out", out, "--count", 60).stdout
            assert f"success              {percent(values['success_rate'])}" in told
            assert "fewer than 60: no more are classified as labelled" in told
            rates = [rate for row in values["rates"] for rate in row if rate is not None]
            assert values["success_rate"] == pytest.approx(sum(rates) / len(rates))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nspgd-2", "--set", "steps=3"], "nspgd-2 has no option 'steps'; it has threshold"),
        (["nspgd-5", "--set", "sources=3"], "nspgd-5 has no option 'sources'"),
        (["nspgd-7", "--set", "sources=many"], "sources must be a whole number"),
        (["nspgd-7", "--set", "distance=ssim"], "--set threshold=0.1"),
        (["nspgd-9", "--set", "distance=lpips"], "distance must be l2 or ssim"),
        (["nspgd-5", "--set", "step=-1"], "step must be positive"),
    ],
)
def test_mistakes_get_one_line(args, message, digits, tmp_path, monkeypatch):
    before = set(tmp_path.iterdir())
    monkeypatch.chdir(tmp_path)
    result = _run(*args, *digits)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.exit_code == 1, result.output
    assert len(lines) == 1
    assert message in lines[0]
    assert set(tmp_path.iterdir()) == before


def test_networks_of_other_layers_are_refused_by_name(tmp_path):
    result = _run("nspgd-2", "--samples", 20, "--out", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "layer 'conv1' (Conv) does not fit" in result.stderr
