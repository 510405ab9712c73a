"""`elbowroom path`: walks on which the logits stay, and what is said of them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from elbowroom import data, models
from elbowroom.cli import app
from elbowroom.papers.path_pages import equally_spaced
from elbowroom.report.figures import number

SMALL = ["--model", "mlp", "--model-set", "sizes=[64,8,10]", "--data", "digits", "--samples", "20"]
SHORT = [*SMALL, "--set", "path_steps=8"]
HOSTILE = '<script>alert("1")</script>[/bold]{{ 7*7 }}'


def run(*args: object):
    return CliRunner().invoke(app, ["path", *(str(arg) for arg in args)])


def _own(folder, sizes: list[int], x: np.ndarray, **arrays: np.ndarray) -> list[object]:
    """A network whose logits are its first features, and data, as options."""
    model = models.build("mlp", sizes=sizes)
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(*sizes[::-1]))
        model[1].bias.zero_()
    save_file(model.state_dict(), folder / "own.safetensors")
    np.savez(folder / "own.npz", x=np.float32(x), y=np.arange(len(x)) % sizes[1], **arrays)
    return [
        "--model", "mlp", "--model-set", f"sizes={json.dumps(sizes)}",
        "--weights", folder / "own.safetensors", "--data", folder / "own.npz",
        "--samples", len(x), "--page", folder / "page.html",
    ]  # fmt: skip


def test_in_a_linear_network_it_is_a_straight_line(tmp_path):
    x = np.random.default_rng(0).random((4, 5))
    options = _own(tmp_path, [5, 2], x, bounds=np.float32([-np.inf, np.inf]))
    result = run(*options, "--start", 0, "--toward", 3, "--json", "--out", tmp_path / "path.npz")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    (leg,) = values["legs"]
    x = np.load(tmp_path / "own.npz")["x"].astype(np.float64)
    change = x[3] - x[0]
    # The first two features are the logits, and stay; the others can become those of the target.
    assert leg["distance_start"] == pytest.approx(np.linalg.norm(change))
    assert leg["distance"] == pytest.approx(np.linalg.norm(change[:2]), rel=1e-6)
    assert leg["distance_linf"] == pytest.approx(np.abs(change[:2]).max(), rel=1e-6)
    assert values["length"] == leg["length"] == pytest.approx(
        np.linalg.norm(change[2:]), rel=1e-6
    )  # fmt: skip
    assert leg["feature_mse_of_toward"] == pytest.approx((change[:2] ** 2).mean())
    assert leg["largest_feature_mse"] < 1e-25
    assert leg["largest_feature_mse_between"] < 1e-25
    assert leg["same_decision"] is True
    with np.load(tmp_path / "path.npz") as arrays:
        assert np.array_equal(arrays["path"][0], x[0])
        assert np.allclose(arrays["path"][:, :2], x[0, :2], atol=1e-13)


@pytest.fixture(scope="module")
def chained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    result = run(*SHORT, "--through", "3,6,9", "--page", folder / "page.html",
                 "--out", folder / "path.npz", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout), folder


def test_a_chain_keeps_the_logits_of_its_first_image(chained):
    values, folder = chained
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = models.build("mlp", sizes=[64, 8, 10]).double()
    x = data.load("digits", "test", 20).x.double()
    with np.load(folder / "path.npz") as arrays, torch.no_grad():
        path, leg = torch.from_numpy(arrays["path"]), arrays["leg"]
        gap = network(path) - network(x[3:4])
        assert arrays["numbers"].tolist() == values["images"] == [3, 6, 9]
        assert np.allclose(arrays["feature_mse"], gap.square().mean(dim=1), atol=1e-25)
        mse = [float(gap[torch.from_numpy(leg == k)].square().mean(dim=1).max()) for k in (0, 1)]
        assert torch.equal(torch.from_numpy(arrays["toward"]), x[[6, 9]])
        assert torch.equal(path[0], x[3])
        first, second = path[leg == 0], path[leg == 1]
        assert torch.equal(first[-1], second[0])
        for points, toward, told, largest in zip(
            (first, second), x[[6, 9]], values["legs"], mse, strict=True
        ):
            steps = (points[1:] - points[:-1]).flatten(1).norm(dim=1)
            distances = (points - toward).flatten(1).norm(dim=1)
            assert len(points) == told["points"] > 2
            assert (steps > 0).all()
            assert told["length"] == pytest.approx(float(steps.sum()))
            assert told["distance_start"] == pytest.approx(float(distances[0]))
            assert told["distance"] == pytest.approx(float(distances[-1]))
            assert (distances[1:] < distances[:-1]).all()
            assert told["largest_feature_mse"] < 1e-25
            assert largest < 1e-25
            # Ten times as dense by hand: the largest at nine inner points of each segment.
            inner = torch.cat([torch.lerp(points[:-1], points[1:], k / 10) for k in range(11)])
            dense = (network(inner) - network(x[3:4])).square().mean(dim=1)
            found = told["largest_feature_mse_between"]
            assert found == pytest.approx(float(dense.max()), abs=1e-20)
    assert values["length"] == pytest.approx(sum(leg["length"] for leg in values["legs"]))


def test_the_page_has_a_strip_and_a_curve_for_each_part(chained):
    _, folder = chained
    html = (folder / "page.html").read_text()
    charts = json.loads(re.search(r'id="charts">(.*?)</script>', html, re.DOTALL)[1])
    assert set(charts) == {"chart-distance", "chart-mse", "chart-between"}
    assert all(len(chart["data"]) == 2 for chart in charts.values())
    assert html.count('<article class="strip">') == 2
    assert 8 < html.count("<img") <= 2 * 10
    assert html.count(">towards<") == 2


def test_between_points_of_a_bent_preimage_the_features_differ(tmp_path):
    """The bundled network: lines between points of its preimages leave them."""
    page = tmp_path / "page.html"
    result = run("--samples", 5, "--start", 0, "--toward", 4, "--set", "path_steps=8",
                 "--page", page, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    (leg,) = json.loads(result.stdout)["legs"]
    assert leg["points"] > 1
    assert leg["largest_feature_mse"] < 1e-20
    assert 1e-6 < leg["largest_feature_mse_between"] < leg["feature_mse_of_toward"]
    assert leg["least_confidence"] > 0.9
    assert "fonts-plain, float64" in page.read_text()


def test_what_was_not_checked_is_not_told(tmp_path):
    page = tmp_path / "page.html"
    options = [*SMALL, "--start", 3, "--toward", 6, "--set", "path_steps=4", "--page", page]
    told = run(*options, "--between", 0).stdout
    assert re.search(r"feature MSE .* at most at the points, not checked between them", told)
    assert "What lies between the points was not checked." in page.read_text()
    assert "chart-between" not in page.read_text()
    values = json.loads(run(*options, "--between", 0, "--json").stdout)
    assert values["legs"][0]["largest_feature_mse_between"] is None
    values = json.loads(run(*options, "--json").stdout)
    worst = number(values["legs"][0]["largest_feature_mse_between"])
    assert f"change by a feature MSE of up to {worst}, where" in page.read_text()


def test_without_numbers_a_pair_of_different_classes_is_drawn(tmp_path):
    y = data.load("digits", "test", 20).y
    found = []
    for seed in (0, 0, 1):
        result = run(*SMALL, "--set", "path_steps=1", "--seed", seed, "--json",
                     "--page", tmp_path / "page.html")  # fmt: skip
        found.append(json.loads(result.stdout)["images"])
        assert y[found[-1][0]] != y[found[-1][1]]
    assert found[0] == found[1] != found[2]


def test_a_preimage_of_one_point_leaves_nowhere_to_go(tmp_path):
    options = _own(tmp_path, [2, 2], [[0.2, 0.4], [0.9, 0.1]])
    values = json.loads(run(*options, "--start", 0, "--toward", 1, "--json").stdout)
    (leg,) = values["legs"]
    assert (leg["points"], leg["length"], leg["largest_feature_mse_between"]) == (1, 0.0, None)
    assert leg["distance"] == leg["distance_start"] == pytest.approx(np.hypot(0.7, 0.3))
    assert "The path stays where it is" in (tmp_path / "page.html").read_text()
    assert run(*options, "--start", 0, "--toward", 1).exit_code == 0


def test_the_output_of_a_layer_can_stay(tmp_path):
    layer = json.loads(run(*SMALL, "--list-layers", "--json").stdout)["layers"][1]["name"]
    result = run(*SHORT, "--layer", layer, "--start", 1, "--toward", 5, "--json",
                 "--page", tmp_path / "page.html", "--out", tmp_path / "path.npz")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["layer"] == layer
    with torch.random.fork_rng([]), np.load(tmp_path / "path.npz") as arrays, torch.no_grad():
        torch.manual_seed(0)
        network = models.build("mlp", sizes=[64, 8, 10]).double()
        units = network[1](torch.from_numpy(arrays["path"]).flatten(1))
    assert len(units) > 2
    assert (units - units[0]).abs().max() < 1e-10
    assert f"the output of {layer} stay" in (tmp_path / "page.html").read_text()


def test_hostile_class_names_stay_text(tmp_path):
    x = np.random.default_rng(0).random((4, 1, 4, 4))
    options = _own(tmp_path, [16, 2], x, classes=np.array([HOSTILE] * 2))
    result = run(*options, "--start", 0, "--toward", 1, "--set", "path_steps=3")
    assert result.exit_code == 0, result.output
    assert HOSTILE in result.stdout.replace("\n", "")
    html = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert "{{ 7*7 }}" in html


def test_equally_spaced_takes_the_nearest_points_once():
    at = torch.tensor([0, 0.1, 4.9, 5.2, 9, 10], dtype=torch.float64)
    assert equally_spaced(at, 3) == [0, 2, 5]
    assert equally_spaced(at, 11) == [0, 1, 2, 3, 4, 5]
    assert equally_spaced(at[:1], 5) == [0]


MISTAKES = {
    "layer": ([*SMALL, "--layer", "conv9"], "there is no layer 'conv9'"),
    "same": ([*SMALL, "--start", "3", "--toward", "3"], "from sample 3 to itself"),
    "same in a row": ([*SMALL, "--through", "3,4,4"], "from sample 4 to itself"),
    "missing": ([*SMALL, "--start", "3", "--toward", "20"], "there is no sample 20 among the 20"),
    "missing stop": ([*SMALL, "--through", "3,99"], "there is no sample 99"),
    "negative": ([*SMALL, "--start", "-2"], "there is no sample -2"),
    "one stop": ([*SMALL, "--through", "3"], "needs two samples at least"),
    "no number": ([*SMALL, "--through", "3,b"], "takes numbers of samples"),
    "both": ([*SMALL, "--through", "3,4", "--start", "1"], "either --through, or"),
    "no start": ([*SMALL, "--toward", "1"], "--toward needs a --start"),
    "one class": ([*SMALL[:-1], "1"], "all samples are of one class"),
    "option": ([*SMALL, "--set", "stepps=1"], "no option 'stepps'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, message = MISTAKES[name]
    result = run(*args, "--out", "path.npz")
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.exit_code == 1, result.output
    assert len(lines) == 1
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_code_2_and_help_has_examples():
    assert run("--images", "1").exit_code == 2
    assert run("--start", "three").exit_code == 2
    page = run(*SMALL, "--start", "3", "--toward", "4", "--out", "path.html")
    assert page.exit_code == 2
    assert "named like a page" in " ".join(page.output.replace("│", " ").split())
    text = run("--help").stdout
    assert "elbowroom path" in text
    assert "Example" in text
