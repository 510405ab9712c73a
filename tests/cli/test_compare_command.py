"""`elbowroom compare`: names of models, their weights and options, and what it prints."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from elbowroom import Classifier, certificates, data, models
from elbowroom.cli import app

DIGITS = ["--data", "digits", "--samples", "12", "--attack", "ddn", "--attack-set", "steps=20",
          "--resamples", "500"]  # fmt: skip


def run(*args: object):
    return CliRunner().invoke(app, ["compare", *(str(arg) for arg in args)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Weights of two small networks of different widths that have learned a little."""
    folder = tmp_path_factory.mktemp("weights")
    samples = data.load("digits", "train")
    for width in (6, 12):
        torch.manual_seed(0)
        model = models.build("mlp", sizes=[64, width, 10])
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(150):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(samples.x), samples.y).backward()
            optimiser.step()
        save_file(model.state_dict(), folder / f"w{width}.safetensors")
    return folder


@pytest.fixture(scope="module")
def networks(trained):
    """Two models as arguments: one by a label, one by the name of its weights."""
    return [
        f"small=mlp@{trained}/w6.safetensors", f"mlp@{trained}/w12.safetensors",
        "--model-set", "small.sizes=[64,6,10]", "--model-set", "mlp@w12.sizes=[64,12,10]", *DIGITS,
    ]  # fmt: skip


def test_models_are_compared_with_their_own_weights_and_options(networks, trained, tmp_path):
    page = tmp_path / "page.html"
    result = run(*networks, "--json", "--out", page)
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert [model["name"] for model in values["models"]] == ["small", "mlp@w12"]
    samples = data.load("digits", "test", 12)
    for model, width in zip(values["models"], (6, 12), strict=True):
        network = models.load("mlp", trained / f"w{width}.safetensors", sizes=[64, width, 10])
        clf = Classifier(network, bounds=samples.bounds)
        radius = certificates.GlobalLipschitz()(clf, samples.x, samples.y).radius
        assert model["radius"] == pytest.approx(radius.tolist(), rel=1e-9)
        right = (clf.logits(samples.x).argmax(dim=1) == samples.y).numpy()
        assert model["accuracy"] == right.mean() > 0.5
        assert (np.array(model["distance"])[~right] == 0).all()
        assert (np.array(model["distance"])[right] > np.array(model["radius"])[right]).all()
        assert model["attacked"]["mean"]["value"] == pytest.approx(np.mean(model["distance"]))
        low, high = model["certified"]["mean"]["interval"]
        assert low < model["certified"]["mean"]["value"] < high
        assert model["attacked"]["ranks"] in ([1, 1], [2, 2], [1, 2])
    (each,) = values["attacked"]["differences"]
    means = {model["name"]: np.mean(model["distance"]) for model in values["models"]}
    assert each["mean"] == pytest.approx(means[each["first"]] - means[each["second"]], rel=1e-3)
    assert each["low"] < each["mean"] < each["high"]
    assert values["page"] == str(page)
    html = page.read_text()
    for text in (*values["sentences"], "12 samples", "fingerprint", "w6.safetensors"):
        assert text in html
    assert set(json.loads(re.search(r'id="charts">(.*?)</script>', html, re.DOTALL)[1])) == {
        "chart-curves", "chart-certified", "chart-attacked",
    }  # fmt: skip


def test_people_read_a_table_and_sentences(networks):
    result = run(*networks)
    assert result.exit_code == 0, result.output
    header, *lines = [line for line in result.stdout.splitlines() if line.strip()]
    columns = ["model", "accuracy", "certified", "attacked", "rank certified", "rank attacked"]
    assert re.split(r" {2,}", header.strip()) == columns
    assert lines[1].split()[0] == "small"
    assert lines[2].split()[0] == "mlp@w12"
    assert re.search(r"By attacked distance, (small|mlp@w12) (is ahead of|and)", result.stdout)
    assert "max-T" in result.stdout
    assert run(*networks, "--quiet").stdout == ""


def test_one_model_is_measured_without_a_ranking(networks):
    values = json.loads(run(networks[0], *networks[2:4], *DIGITS, "--json").stdout)
    assert values["certified"] is values["attacked"] is None
    assert values["sentences"] == ["There is one classifier: nothing to compare it with."]


def test_a_shared_option_is_that_of_all(networks):
    specs = ["a=mlp", "b=mlp", "--model-set", "sizes=[64,5,10]", *DIGITS, "--json"]
    result = run(*specs)
    values = json.loads(result.stdout)
    # Random weights are the same ones.
    assert values["models"][0]["distance"] == values["models"][1]["distance"]
    assert not values["attacked"]["differences"][0]["separated"]
    assert "random weights" in result.stderr


MISTAKES = {
    "same name": (["mlp", "mlp"], "two models are called 'mlp'; give them names"),
    "no weights": (["mlp@"], "NAME@WEIGHTS"),
    "no label": (["=mlp"], "LABEL=NAME@WEIGHTS"),
    "unknown model": (["a=resnet81"], "a: unknown model"),
    "no weights file": (["mlp@nowhere.pt"], "nowhere.pt"),
    "unknown option": (["mlp", "--attack-set", "stepps=3"], "no option 'stepps'"),
    "missing option": (["mlp", "--attack", "pgd"], "add --attack-set eps=VALUE"),
    "unknown certificate": (["mlp", "--certificate", "hope"], "unknown certificate 'hope'"),
    "another shape": (["fonts-plain", "--data", "iris"], "fonts-plain: the model rejects inputs"),
    "classes": (
        ["a=mlp", "b=mlp", "--model-set", "a.sizes=[64,10]", "--model-set", "b.sizes=[64,11]"],
        "a has 10 classes and b has 11",
    ),
    "level": (["mlp", "--level", "95"], "between 0 and 1"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, message = MISTAKES[name]
    sized = ["--model-set", "sizes=[64,8,10]"] if "mlp" in args else []
    result = run("--data", "digits", "--samples", "6", *sized, *args, "--out", "page.html")
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.exit_code == 1, result.output
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_help_has_examples_and_a_model_is_needed():
    assert run().exit_code == 2
    text = run("--help").stdout
    assert "elbowroom compare" in text
    assert "Example" in text


def test_labels_can_hold_dots():
    options = ["--model-set", "a.sizes=[64,5,10]", "--model-set", "a.b.sizes=[64,7,10]"]
    result = run("a=mlp", "a.b=mlp", *options, *DIGITS, "--json")
    assert result.exit_code == 0, result.output
    one, two = json.loads(result.stdout)["models"]
    assert one["radius"] != two["radius"]
