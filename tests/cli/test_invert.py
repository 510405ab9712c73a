"""`elbowroom invert`: which pairs, what is found, what is said when nothing is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from elbowroom import data, models
from elbowroom.cli import app
from elbowroom.perception import median_interval

SMALL = ["--model", "mlp", "--model-set", "sizes=[64,8,10]", "--data", "digits", "--samples", "20"]
HOSTILE = '<script>alert("1")</script>[/bold]{{ 7*7 }}'


def run(*args: object):
    return CliRunner().invoke(app, ["invert", *(str(arg) for arg in args)])


def values_of(*args: object):
    result = run(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def linear(tmp_path) -> list[object]:
    """Logits that are linear in four features, and six samples, without bounds."""
    return _linear(tmp_path, bounds=[-np.inf, np.inf])


def _linear(folder: Path, bounds: list[float]) -> list[object]:
    model = models.build("mlp", sizes=[4, 2])
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]]))
        model[1].bias.zero_()
    save_file(model.state_dict(), folder / "linear.safetensors")
    x = np.random.default_rng(0).random((6, 4), dtype=np.float32)
    np.savez(folder / "own.npz", x=x, y=np.arange(6) % 2, bounds=np.float32(bounds))
    return [
        "--model", "mlp", "--model-set", "sizes=[4,2]", "--weights", folder / "linear.safetensors",
        "--data", folder / "own.npz", "--samples", 6,
    ]  # fmt: skip


def test_distances_of_a_linear_network_are_those_of_the_projection(linear, tmp_path):
    saved = tmp_path / "found.npz"
    values = values_of(*linear, "--start", "0,1", "--toward", "2,3", "--out", saved)
    x = np.load(tmp_path / "own.npz")["x"].astype(np.float64)
    change = (x[:2] - x[2:4])[:, :2]  # the logits are the first two features
    nearest = np.linalg.norm(change, axis=1)
    assert values["distances"] == pytest.approx(nearest, rel=1e-9)
    assert values["median_distance"]["median"] == pytest.approx(nearest.mean(), rel=1e-9)
    assert values["median_distance_linf"]["median"] == pytest.approx(
        np.abs(change).max(axis=1).mean(), rel=1e-9
    )
    assert values["success_rate"] == 1.0
    assert values["largest_feature_mse"] < 1e-28
    with np.load(saved) as arrays:
        assert arrays["example"].dtype == np.float64
        assert np.allclose(arrays["example"][:, :2], x[:2, :2], atol=1e-14)
        assert np.allclose(arrays["example"][:, 2:], x[2:4, 2:], atol=1e-14)
        assert np.array_equal(arrays["start"], x[:2])
        assert np.array_equal(arrays["toward"], x[2:4])
        assert np.allclose(arrays["logits"], arrays["wanted_logits"], atol=1e-14)
        assert arrays["start_number"].tolist() == [0, 1]
        assert arrays["toward_number"].tolist() == [2, 3]
        assert arrays["success"].all()
        assert arrays["nearer"].all()


def test_pairs_are_drawn_from_different_classes_and_depend_on_the_seed(tmp_path):
    adam = ["adam", *SMALL, "--set", "steps=3"]
    first, again = values_of(*adam, "--count", 12), values_of(*adam, "--count", 12)
    other = values_of(*adam, "--count", 12, "--seed", 1)
    y = data.load("digits", "test", 20).y
    for found in (first, other):
        assert len(set(found["starts"])) == found["pairs"] == 12
        assert (y[found["starts"]] != y[found["towards"]]).all()
    assert first["starts"] == again["starts"]
    assert first["towards"] == again["towards"]
    assert first["starts"] != other["starts"]
    assert values_of(*adam)["starts"] == first["starts"][:10]
    # What is left out is the partner that is drawn for the other one.
    one = values_of(*adam, "--start", first["starts"][0])
    assert one["towards"] == first["towards"][:1]
    back = values_of(*adam, "--toward", first["towards"][0])
    assert y[back["starts"][0]] != y[back["towards"][0]]


def test_an_answer_that_is_the_start_itself_is_not_nearer(tmp_path):
    page, saved = tmp_path / "page.html", tmp_path / "found.npz"
    options = ["adam", *SMALL, "--count", 9, "--set", "steps=1"]
    values = values_of(*options, "--page", page, "--out", saved)
    assert values["success_rate"] == 1.0
    assert values["nearer_rate"] == 0.0
    with np.load(saved) as arrays:
        assert arrays["success"].all()
        assert not arrays["nearer"].any()
    text = run(*options).stdout
    assert re.search(r"success +100% have the wanted features", text)
    assert re.search(r"nearer +0% are nearer than the start", text)
    x = data.load("digits", "test", 20).x.double().flatten(1)
    between = (x[values["starts"]] - x[values["towards"]]).norm(dim=1)
    assert values["distances"] == pytest.approx(between.tolist())
    found = median_interval(between)
    assert values["median_distance"]["lower"] == pytest.approx(found.lower)
    assert values["median_distance"]["confidence"] == found.confidence < 1
    assert page.read_text().count(">nothing nearer found<") == 9


def test_the_start_and_what_is_near_can_be_many_to_one():
    values = values_of("adam", *SMALL, "--set", "steps=2", "--start", 5, "--toward", "1,2,3")
    assert (values["starts"], values["towards"]) == ([5, 5, 5], [1, 2, 3])


@pytest.mark.parametrize("kind", ["text", "json", "csv"])
def test_given_logits_are_reached(kind, linear, tmp_path):
    rows = [[0.25, -3.0], [4.0, 0.5]]
    path = tmp_path / f"wanted.{kind}"
    if kind == "text":
        path, rows = "0.25,-3", rows[:1]
    elif kind == "json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("0.25, -3\n4,0.5\n")
    saved = tmp_path / "found.npz"
    values = values_of(*linear, f"--logits={path}", "--toward", "1,4"[: 2 * len(rows) - 1],
                       "--out", saved)  # fmt: skip
    with np.load(saved) as arrays:
        assert np.allclose(arrays["example"][:, :2], rows, atol=1e-12)
        assert "start" not in arrays
    x = np.load(tmp_path / "own.npz")["x"][[1, 4][: len(rows)]]
    assert values["distances"] == pytest.approx(np.linalg.norm(x[:, :2] - rows, axis=1))
    assert values["misses"] == []
    assert values["starts"] is None
    assert "nearer_rate" not in values


def test_logits_out_of_reach_are_misses_but_may_be_reached_up_to_a_shift(tmp_path):
    options = [*_linear(tmp_path, bounds=[0, 1]), "--toward", "3", "--page", tmp_path / "page.html"]
    # The box has logits from 0 to 1: (3, 2) is out of it, the same up to a shift as (1, 0).
    values = values_of(*options, "--logits", "3,2", "--out", tmp_path / "found.npz")
    assert values["success_rate"] == 0.0
    assert values["median_distance"]["median"] is None
    assert values["distances"] == [None]
    assert values["largest_feature_mse"] is None
    (miss,) = values["misses"]
    found = np.load(tmp_path / "found.npz")
    assert not found["success"][0]
    reached = found["example"][0, :2]
    assert miss["feature_mse"] == pytest.approx(((reached - [3, 2]) ** 2).mean())
    assert miss["feature_mse"] == pytest.approx((2**2 + 1**2) / 2, rel=1e-6)  # at (1, 1)
    assert miss["moved"] == pytest.approx(np.linalg.norm(found["example"] - found["toward"]))
    softmax = [1 / (1 + np.exp(reached[1] - reached[0])), 1 / (1 + np.exp(-1))]
    assert miss["largest_probability_gap"] == pytest.approx(abs(softmax[0] - softmax[1]), abs=1e-6)
    shifted = miss["up_to_shift"]
    x = np.load(tmp_path / "own.npz")["x"][3]
    assert shifted["success"] is True
    assert shifted["moved"] == pytest.approx(np.linalg.norm(x[:2] - [1, 0]))
    assert shifted["largest_probability_gap"] < 1e-4
    page = (tmp_path / "page.html").read_text()
    assert "not reached: the closest" in page
    assert "up to a common shift they are reached" in page
    # What is out of reach even then.
    text = run(*options, "--logits", "3,0").stdout
    assert re.search(r"success +0%", text)
    assert re.search(r"inversion 0 missed +the closest feature MSE .* up to a common shift it is",
                     text)  # fmt: skip
    direct = values_of(*options, "--logits", "3,2", "--up-to-shift")
    assert direct["success_rate"] == 1.0
    assert direct["distances"] == pytest.approx([shifted["moved"]])


def test_images_that_are_no_samples(tmp_path):
    options = ["adam", *SMALL, "--set", "steps=2", "--count", 3, "--out"]
    found = {}
    for aim in ("mean", "noise", "grey"):
        assert values_of(*options, tmp_path / f"{aim}.npz", "--toward", aim)["towards"] == aim
        with np.load(tmp_path / f"{aim}.npz") as arrays:
            found[aim] = arrays["toward"]
            assert arrays["toward_number"].tolist() == [-1] * 3
    mean = data.load("digits", "test", 20).x.double().mean(dim=0).numpy()
    assert np.allclose(found["mean"], mean)
    assert (found["grey"] == 0.5).all()
    assert np.unique(found["noise"]).size == found["noise"].size == 3 * 64
    assert 0 <= found["noise"].min() < 0.1 < 0.9 < found["noise"].max() <= 1


def test_layers_are_listed_and_compared(tmp_path):
    layers = json.loads(run(*SMALL, "--list-layers", "--json").stdout)["layers"]
    assert [layer["shape"] for layer in layers] == [[64], [8], [8], [10]]
    first = layers[1]["name"]
    saved = tmp_path / "found.npz"
    values = values_of(*SMALL, "--layer", first, "--start", 2, "--toward", 9, "--set", "steps=10",
                       "--out", saved)  # fmt: skip
    assert values["layer"] == first
    assert values["success_rate"] == 1.0
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = models.build("mlp", sizes=[64, 8, 10]).double()
    with np.load(saved) as arrays, torch.no_grad():
        units = [
            network[1](torch.from_numpy(arrays[key]).flatten(1)) for key in ("example", "start")
        ]
    assert torch.allclose(*units, atol=1e-10)


def test_the_same_logits_up_to_a_shift(linear, tmp_path):
    saved = tmp_path / "found.npz"
    values = values_of(*linear, "--up-to-shift", "--start", 2, "--toward", 5, "--out", saved)
    assert values["up_to_shift"] is True
    x = np.load(tmp_path / "own.npz")["x"].astype(np.float64)
    # Only the difference of the two logits is to be kept: a plane in the first two features.
    change = (x[2] - x[5]) @ [1, -1, 0, 0]
    assert values["distances"] == pytest.approx([abs(change) / np.sqrt(2)])
    with np.load(saved) as arrays:
        gap = (arrays["logits"] - arrays["wanted_logits"])[0]
    assert abs(gap).min() > 1e-2
    assert np.ptp(gap) < 1e-12


def test_the_bundled_network_in_float64(tmp_path):
    page = tmp_path / "page.html"
    result = run("--samples", 6, "--count", 1, "--set", "steps=2", "--set", "walk_steps=1",
                 "--page", page)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert re.search(r"success +100%", result.stdout)
    mse = re.search(r"largest feature MSE +\S+ . 10(\S+) ", result.stdout)
    assert mse is not None
    assert int(mse[1].translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))) < -20
    html = page.read_text()
    assert "fonts-plain, float64" in html
    assert html.count("<img") == 4
    assert html.count('class="logits"') == 1
    assert run("--samples", 6, "--count", 1, "--set", "steps=1", "-q").stdout == ""


def test_hostile_class_names_stay_text(tmp_path):
    x = np.random.default_rng(0).random((6, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "own.npz", x=x, y=np.arange(6) % 3, classes=np.array([HOSTILE] * 3))
    page = tmp_path / "page.html"
    result = run("adam", "--model", "mlp", "--model-set", "sizes=[64,3]", "--data",
                 tmp_path / "own.npz", "--samples", 6, "--count", 2, "--page", page)  # fmt: skip
    assert result.exit_code == 0, result.output
    html = page.read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert "{{ 7*7 }}" in html


def test_samples_that_are_no_pictures_get_a_table(tmp_path):
    page = tmp_path / "page.html"
    result = run("adam", "--model", "mlp", "--model-set", "sizes=[4,6,3]", "--data", "iris",
                 "--samples", 30, "--count", 2, "--set", "steps=50", "--page", page)  # fmt: skip
    assert result.exit_code == 0, result.output
    html = page.read_text()
    assert "<img" not in html
    assert html.count("Features, largest changes first") == 2


def test_probabilities_where_logits_are_expected_are_noted(tmp_path, monkeypatch):
    (tmp_path / "soft_net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(dim=1))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    result = run("adam", "--model", "soft_net:make", *SMALL[-4:], "--set", "steps=1")
    assert result.exit_code == 0, result.output
    assert "look like probabilities" in result.stderr
    assert "look like probabilities" not in run("adam", *SMALL, "--set", "steps=1").stderr


MISTAKES = {
    "method": (["adamm", *SMALL], "unknown invariance 'adamm'"),
    "option": ([*SMALL, "--set", "stepps=1"], "no option 'stepps'"),
    "type": ([*SMALL, "--set", "tolerance=x"], "tolerance must be a number, not 'x'"),
    "no boolean": ([*SMALL, "--set", "path=maybe"], "path must be true or false, not 'maybe'"),
    "no list": (["adam", *SMALL, "--set", "learning_rates=5"], "learning_rates must be a list of"),
    "layer": ([*SMALL, "--layer", "conv9"], "there is no layer 'conv9'"),
    "same": ([*SMALL, "--start", "3", "--toward", "2,3"], "sample 3 is both"),
    "missing": ([*SMALL, "--start", "20"], "there is no sample 20 among the 20"),
    "negative": ([*SMALL, "--toward", "-1"], "there is no sample -1"),
    "no number": ([*SMALL, "--toward", "blue"], "or one of mean, noise, grey, not 'blue'"),
    "lengths": ([*SMALL, "--start", "1,2", "--toward", "3,4,5"], "lists of 2 and 3"),
    "count": ([*SMALL, "--count", "21"], "21 samples cannot be drawn from 20"),
    "count and numbers": ([*SMALL, "--start", "1", "--count", "2"], "leave it out"),
    "one class": ([*SMALL[:-1], "1"], "all samples are of one class"),
    "number of logits": ([*SMALL, "--logits", "1,2,3"], "has shape (3,), but the network has 10"),
    "infinite logits": ([*SMALL, "--logits", ",".join(["inf"] * 10)], "NaN or infinite"),
    "no logits": ([*SMALL, "--logits", "1,x"], "takes numbers separated by commas"),
    "no file": ([*SMALL, "--logits", "none.json"], "none.json"),
    "logits and start": ([*SMALL, "--logits", "1,2", "--start", "3"], "either --start or --logits"),
    "dtype": ([*SMALL, "--dtype", "float16"], "float32 or float64"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, message = MISTAKES[name]
    result = run(*args, "--page", "page.html", "--out", "found.npz")
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.exit_code == 1, result.output
    assert len(lines) == 1
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [("json", "{"), ("json", "{}"), ("json", "[]"), ("json", "[[1, 2], [3]]"), ("json", '["a"]'),
     ("json", "5"), ("csv", "a,b\n1,2\n"), ("csv", "\n"), ("csv", "1,2\n3\n")],
)  # fmt: skip
def test_files_without_logits_are_named(kind, text, tmp_path):
    path = tmp_path / f"wanted.{kind}"
    path.write_text(text)
    result = run(*SMALL, "--logits", path)
    assert result.exit_code == 1
    assert path.name in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("aim", ["noise", "grey"])
def test_without_bounds_there_is_no_noise(aim, linear):
    result = run(*linear, "--toward", aim)
    assert result.exit_code == 1
    assert f"--toward {aim} needs finite bounds" in result.stderr
    assert values_of(*linear, "--toward", "mean", "--count", 2)["success_rate"] == 1.0


def test_help_has_examples():
    text = run("--help").stdout
    assert "elbowroom invert" in text
    assert "Example" in text
