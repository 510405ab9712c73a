"""`elbowroom preimage`: sets of networks of two inputs, drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from elbowroom import models
from elbowroom.cli import app

SMALL = ["--model", "mlp", "--model-set", "sizes=[2,4,2]", "--samples", "20"]


def run(*args: object):
    return CliRunner().invoke(app, ["preimage", *(str(arg) for arg in args)])


@pytest.fixture
def weights(tmp_path) -> Path:
    """A network that is the identity: y = relu(x) - relu(-x)."""
    model = models.build("mlp", sizes=[2, 4, 2])
    eye = torch.eye(2)
    with torch.no_grad():
        model[1].weight.copy_(torch.cat([eye, -eye]))
        model[3].weight.copy_(torch.cat([eye, -eye], dim=1))
        model[1].bias.zero_()
        model[3].bias.zero_()
    save_file(model.state_dict(), tmp_path / "identity.safetensors")
    return tmp_path / "identity.safetensors"


def test_own_network_and_polytope(weights, tmp_path):
    target, out = tmp_path / "polytope.json", tmp_path / "new" / "page.html"
    target.write_text('{"A": [[1, 0], [-1, 0], [0, 1], [0, -1]], "c": [1, 0, 1, 1]}')
    options = ["--weights", weights, "--target", target, "--view", "-2,2,-2,2", "--json"]
    for approach in ("forward", "backward"):
        result = run(*SMALL, *options, "--approach", approach, "--out", out)
        assert result.exit_code == 0, result.output
        values = json.loads(result.stdout)
        assert values["page"] == str(out)
        (network,) = values["networks"]
        assert network["linear_regions"] == 4
        (found,) = network["sets"]
        assert found["name"] == "polytope.json"
        assert found["pieces"] == 2
        assert found["share_of_view"] == pytest.approx(2 / 16)
    assert "elbowroom preimage" in run("--help").stdout
    assert out.stat().st_size > 10_000


def test_decision_regions_are_the_default(weights, tmp_path):
    out = tmp_path / "page.html"
    result = run(*SMALL, "--weights", weights, "--view", "-1,1,-1,1", "--out", out)
    assert result.exit_code == 0, result.output
    # On the axes both units of a pair are zero: patterns of their own, without area.
    assert result.stdout.count("3 pieces, 3 without area, 50.0% of what is drawn") == 2
    assert run(*SMALL, "--weights", weights, "--out", out, "--quiet").stdout == ""


def test_without_a_model_the_thesis_networks_are_trained(tmp_path):
    result = run("--out", tmp_path / "moons.html", "--samples", 60, "--json")
    assert result.exit_code == 0, result.output
    networks = json.loads(result.stdout)["networks"]
    assert [network["name"].split(" (")[0] for network in networks] == [
        "2-8-4-2 leaky-relu", "2-8-4-2 relu",
    ]  # fmt: skip
    for network in networks:
        assert network["accuracy"] == 1.0
        assert sum(one["share_of_view"] for one in network["sets"]) == pytest.approx(1)
        assert all(one["pieces"] for one in network["sets"])


MISTAKES = {
    "shape": (["--data", "digits", "--model", "mlp", "--model-set", "sizes=[64,2]"], "two inputs"),
    "training shape": (["--data", "digits"], "the networks need (2,)"),
    "view": ([*SMALL, "--view", "1,0,0,1"], "--view takes LEFT,RIGHT,BOTTOM,TOP"),
    "limit": ([*SMALL, "--limit", "3"], "visited 3 partial regions"),
    "approach": ([*SMALL, "--approach", "up"], "approach must be forward or backward, not 'up'"),
    "smooth": ([*SMALL, "--model-set", 'activation="tanh"'], "is a tanh"),
    "no file": ([*SMALL, "--target", "none.json"], "none.json"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, message = MISTAKES[name]
    result = run(*args)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.exit_code == 1, result.output
    assert len(lines) == 1
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "does not hold a polytope"),
        ('{"A": [[1, 1]]}', "does not hold a polytope"),
        ("[1]", "does not hold a polytope"),
        ('{"A": [[1, 1]], "c": [1, 2]}', "got (1, 2) and (2,)"),
        ('{"A": [[1, NaN]], "c": [1]}', "not finite in row 0"),
        ('{"A": [["a", 1]], "c": [1]}', "could not convert"),
        ('{"A": [[1, 1, 1]], "c": [1]}', "3 columns, but the network has 2 outputs"),
    ],
)
def test_bad_polytopes_are_named(text, message, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(text)
    result = run(*SMALL, "--target", path, "--out", tmp_path / "page.html")
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "page.html").exists()
