"""`certify --hunt`: what it prints, saves and exits with."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from elbowroom.certificates.hunt import LayerSearch
from elbowroom.cli import app, hunt

SMALL = ["--model", "mlp", "--model-set", "sizes=[64,8,10]", "--data", "digits", "--samples", "12"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(hunt, "LayerSearch", partial(LayerSearch, layers=1, starts=6, steps=40))
    monkeypatch.setattr(hunt, "BUDGET", 100)


def run(*args: object):
    return CliRunner().invoke(app, ["certify", *(str(arg) for arg in args)])


def test_published_bounds_are_told_apart_and_found_out(tmp_path):
    plain = run("published-layer-wise", *SMALL)
    assert plain.exit_code == 0
    assert "no: kept for comparison" in plain.stdout
    saved = tmp_path / "hunt.npz"
    hunted = run("published-layer-wise", *SMALL, "--hunt", "--out", saved)
    assert hunted.exit_code == 3, hunted.output
    for word in ("0 of", "5.6 batch norm", "against", "claimed", "x = ("):
        assert word in hunted.stdout
    with np.load(saved) as arrays:
        assert arrays["adversarial"].shape == (12, 1, 8, 8)
        assert arrays["violated"].sum() == 0
        assert arrays["radius"].shape == arrays["distance"].shape == (12,)


def test_sound_bounds_survive(monkeypatch):
    result = run("layer-wise", *SMALL, "--hunt", "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["sound"] is True
    assert values["hunt"]["model"]["violations"] == []
    assert all(rule["violations"] == 0 for rule in values["hunt"]["layers"])


def test_counterexamples_in_json():
    result = run("published-layer-wise", *SMALL, "--hunt", "--json")
    assert result.exit_code == 3
    rules = {rule["rule"]: rule for rule in json.loads(result.stdout)["hunt"]["layers"]}
    worst = rules["5.6 batch norm"]["worst"]
    assert worst["claimed"] > worst["found"] > 0
    gamma, variance = (np.array(worst["parameters"][name]) for name in ("gamma", "variance"))
    moved = np.linalg.norm(gamma * np.array(worst["r"]) / np.sqrt(variance))
    assert moved >= worst["kappa"] * (1 - 1e-9)


def test_other_norms_have_no_layer_rules():
    result = run("global-lipschitz", *SMALL, "--norm", "Linf", "--hunt", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["hunt"]["layers"] == []
