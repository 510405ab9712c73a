"""Fig. 2.5 of the Bounds thesis: its numbers, and its page."""

from __future__ import annotations

import json

import pytest
import torch
from balance import balanced
from torch import nn
from typer.testing import CliRunner

import nets
from elbowroom import Classifier
from elbowroom.attacks import IterativePerturbation
from elbowroom.cli import app
from elbowroom.norms import L2, Linf
from elbowroom.papers import bounds
from elbowroom.papers.page import About
from report.page_parser import Page

ABOUT = About("a network", "some data", ["<b>A</b>", "B"], [("seed", "0")])


@pytest.mark.parametrize(("rule", "norm"), [("sign", Linf), ("value", L2)])
def test_each_image_perturbs_the_one_before(rule, norm):
    model, shape = nets.make("mlp")
    x = torch.rand(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    clf = Classifier(balanced(model, x))
    attack = IterativePerturbation(rule=rule, norm=norm)
    found = bounds.figure_2_5(clf, x, attack=attack, count=4)
    assert found.images.shape == (5, 3, *shape)
    assert torch.equal(found.images[0], x)
    assert torch.equal(found.decisions[0], clf.logits(x).argmax(dim=1))
    for place in range(1, 5):
        before, after = found.images[place - 1], found.images[place]
        moved = norm.length(after - before)
        torch.testing.assert_close(found.steps[place - 1], moved)
        torch.testing.assert_close(found.distances[place], norm.length(after - x))
        assert torch.equal(found.decisions[place], clf.logits(after).argmax(dim=1))
        changed = found.decisions[place] != found.decisions[place - 1]
        assert torch.equal(changed, moved > 0)
    assert bool((found.steps[0] > 0).any())
    # After the first one, a step only has to cross the boundary again.
    assert (found.steps[1:] <= found.steps[0]).all()


def test_the_page_shows_decisions_and_lengths():
    clf = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(9, 2)).double())
    x = torch.rand(2, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = bounds.figure_2_5(clf, x, count=2)
    page = Page(bounds.figure_2_5_page(found, ABOUT, samples=[7, 12]))
    assert page.unbalanced == []
    assert len(page.all("img")) == 2 * 2 * 3
    assert page.all("b") == []
    assert "<b>A</b>" in page.text
    assert "Sample 7: " in page.text
    assert "Sample 12: " in page.text
    assert f"moved by {float(found.steps[0, 0]):.3g}"[:12] in page.text


def test_plain_features_get_a_table():
    clf = Classifier(nn.Linear(5, 2).double())
    x = torch.rand(1, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    page = Page(bounds.figure_2_5_page(bounds.figure_2_5(clf, x, count=1), ABOUT))
    assert page.unbalanced == []
    assert page.all("img") == []
    assert len(page.all("table")) == 1
    assert "Features, largest changes first" in page.text


def test_a_network_that_never_changes_its_mind_is_shown_as_such():
    layer = nn.Linear(4, 2)
    nn.init.zeros_(layer.weight)
    page = Page(bounds.figure_2_5_page(bounds.figure_2_5(layer, torch.rand(1, 4)), ABOUT))
    assert page.text.count("no step found") == 5


def test_the_command(tmp_path):
    out = tmp_path / "page.html"
    options = ["--samples", "4", "--count", "2", "--set", "rule=value", "--set", "norm=L2"]
    result = CliRunner().invoke(
        app, ["figure", "bounds-2.5", *options, "--out", str(out), "--json"]
    )
    assert result.exit_code == 0, result.output
    steps = json.loads(result.stdout)["steps"]
    assert [len(row) for row in steps] == [5, 5]
    assert len(Page(out.read_text()).all("img")) == 2 * 2 * 6
