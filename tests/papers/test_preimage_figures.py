"""Fig. 3.4 of the Invariance thesis: the two-moons networks, their sets, and the page."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plotly import graph_objects as go
from torch import nn

from elbowroom import Classifier, data
from elbowroom.graph import pattern
from elbowroom.papers.page import About
from elbowroom.papers.preimage_pages import preimage_page
from elbowroom.papers.preimages import MoonsTraining, network_sets, window
from elbowroom.regions import ExactPreimage, decision_region
from report.page_parser import Page

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"


@pytest.fixture(scope="module")
def moons():
    return data.load("two-moons", "train", 200)


@pytest.fixture(scope="module", params=["relu", "leaky-relu"])
def trained(request, moons):
    """The thesis's network, with its decision regions."""
    model, accuracy, seed = MoonsTraining(activation=request.param)(moons.x, moons.y)
    clf = Classifier(model, bounds=moons.bounds, name=f"{request.param}-{seed}")
    targets = [decision_region(2, label) for label in range(2)]
    sets = network_sets(clf, moons.x.double(), moons.y, targets, ExactPreimage())
    return clf, accuracy, sets


def test_training_is_perfect_and_reproducible(trained, moons):
    clf, accuracy, sets = trained
    assert accuracy == sets.accuracy == 1.0
    assert (clf.logits(moons.x.double()).argmax(dim=1) == moons.y).all()
    activation = clf.name.rpartition("-")[0]
    again, _, _ = MoonsTraining(activation=activation)(moons.x, moons.y)
    for one, other in zip(clf.network.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_failed_training_says_so(moons):
    assert MoonsTraining(steps=1, attempts=2)(moons.x, moons.y)[1] < 1


def test_regions_are_far_fewer_than_patterns(trained):
    """The thesis finds 49 and 39 of 4096 sets not empty, for weights that it does not give."""
    clf, _, sets = trained
    assert 30 <= sets.regions <= 100
    for found in sets.preimages:
        assert 20 <= len(found.solid) <= sets.regions
    # Every region decides for one class or is cut by the boundary.
    assert sum(len(found.solid) for found in sets.preimages) >= sets.regions
    graph = clf.graph((2,))
    points = np.random.default_rng(0).uniform(-20, 20, (20_000, 2))
    pieces = pattern(graph, torch.from_numpy(points)).pieces.values()
    sampled = {tuple(row) for row in torch.cat([p.flatten(1) for p in pieces], dim=1).tolist()}
    known = {piece.pattern for piece in ExactPreimage().regions(graph).regions.solid}
    assert len(known) == sets.regions
    assert sampled <= known
    assert len(sampled) > sets.regions / 2


def test_decision_regions_are_the_decisions(trained, moons):
    clf, _, sets = trained
    points = np.random.default_rng(1).uniform(-3, 3, (10_000, 2))
    margins = np.diff(clf.logits(torch.from_numpy(points)).numpy(), axis=1)[:, 0]
    for found, expected in zip(sets.preimages, (margins <= 0, margins >= 0), strict=True):
        clear = np.abs(margins) > 1e-8
        np.testing.assert_array_equal(found.contains(points)[clear], expected[clear])
    view = window(moons.x)
    areas = [found.clip(view).volume() for found in sets.preimages]
    assert sum(areas) == pytest.approx(view.volume)


def test_backward_gives_the_same_sets(trained, moons):
    clf, _, sets = trained
    view = window(moons.x)
    backward = ExactPreimage(approach="backward")(clf.graph((2,)), sets.targets[0], within=view)
    forward = sets.preimages[0].clip(view)
    assert {p.pattern for p in backward.solid} == {p.pattern for p in forward.solid}
    assert backward.volume() == pytest.approx(forward.volume())


def test_the_page_draws_every_set(trained, moons):
    _, _, sets = trained
    about = About("nets", "two-moons", moons.classes, [("seed", "0")])
    names = ["first", "second"]
    page = Page(preimage_page([sets], moons.x, moons.y, about, names=names))
    assert page.unbalanced == []
    assert list(page.charts) == ["outputs-0", "inputs-0"]
    view = window(moons.x)
    for name, chart in page.charts.items():
        go.Figure(chart)
        lines = [trace for trace in chart["data"] if trace["mode"] == "lines"]
        polygons = sum(trace["x"].count(None) for trace in lines)
        shown = sum(len(found.clip(view).solid) for found in sets.preimages)
        assert polygons == (2 if name == "outputs-0" else shown)
        dots = [trace for trace in chart["data"] if trace["mode"] == "markers"]
        assert sum(len(trace["x"]) for trace in dots) == len(moons)
    assert str(sets.regions) in page.text
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert str(policy).startswith("default-src 'none'")


def test_hostile_names_stay_text(trained, moons):
    _, _, sets = trained
    pages = []
    for name in ("plain", HOSTILE):
        about = About(name, name, [name, name], [(name, name)])
        pages.append(Page(preimage_page([sets], moons.x, moons.y, about, names=[name, name])))
    for tag in ("script", "img"):
        assert len(pages[0].all(tag)) == len(pages[1].all(tag))
    assert not [a for _, attributes in pages[1].tags for a in attributes if a.startswith("on")]
    assert HOSTILE in pages[1].text


def test_samples_of_another_shape_are_refused():
    clf = Classifier(nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"networks of two inputs.*\(3,\)"):
        network_sets(clf, torch.rand(4, 3), torch.zeros(4, dtype=torch.int64), [], ExactPreimage())
