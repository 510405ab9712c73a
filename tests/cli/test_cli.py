"""The command line as people and scripts use it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from elbowroom import models
from elbowroom.cli import app

SMALL = ["--model", "mlp", "--model-set", "sizes=[64,8,10]", "--data", "digits", "--samples", "6"]


def run(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def weights(tmp_path) -> Path:
    """Weights of a small network that has learned a little, so that labels fit."""
    from elbowroom import data

    torch.manual_seed(0)
    model = models.build("mlp", sizes=[64, 8, 10])
    samples = data.load("digits", "train")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(samples.x), samples.y).backward()
        optimiser.step()
    path = tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    return path


def test_audit_from_start_to_page_and_again(weights, tmp_path):
    out = tmp_path / "run"
    options = [*SMALL, "--weights", weights, "--method", "ddn", "--method", "global-lipschitz"]
    first = run("audit", *options, "--out", out)
    assert first.exit_code == 0, first.output
    assert "too sensitive" in first.stdout
    assert (out / "report.html").stat().st_size > 10_000
    summary = json.loads((out / "summary.json").read_text())
    assert f"{summary['sensitivity']['median_attacked']:.3g}" in first.stdout

    again = run("audit", *options, "--out", out, "--json")
    assert again.exit_code == 0
    assert json.loads(again.stdout) == summary

    (out / "report.html").unlink()
    assert run("report", out, "--quiet").stdout == ""
    assert (out / "report.html").exists()

    other = run("audit", *options, "--out", out, "--seed", 3)
    assert other.exit_code == 1
    assert "seed: 0 -> 3" in other.stderr
    assert json.loads((out / "summary.json").read_text()) == summary


def test_the_inversion_of_an_audit_can_be_chosen(weights, tmp_path):
    options = [*SMALL, "--weights", weights]
    for name in ("adam-on-logits", "preimage-descent"):
        out = tmp_path / name
        result = run("audit", *options, "--method", name, "--out", out)
        assert result.exit_code == 0, result.output
        assert "too invariant" in result.stdout
        summary = json.loads((out / "summary.json").read_text())
        assert summary["invariance"]["method"] == name
        assert name in summary["cost"]


def test_a_doubtful_measurement_has_its_own_exit_code(tmp_path):
    # Random weights: the labels do not fit.
    result = run("audit", *SMALL, "--samples", 50, "--method", "fgv", "--out", tmp_path)
    assert result.exit_code == 3
    assert "doubtful: " in result.stdout
    assert "random weights" in result.stderr


def test_attack_and_certify(weights, tmp_path):
    saved = tmp_path / "found.npz"
    attacked = run(
        "attack", "ddn", *SMALL, "--weights", weights, "--set", "steps=30", "--out", saved, "--json"
    )
    assert attacked.exit_code == 0, attacked.output
    values = json.loads(attacked.stdout)
    assert values["success_rate"] == 1.0
    with np.load(saved) as arrays:
        assert arrays["adversarial"].shape == (6, 1, 8, 8)
        right = arrays["distance"] > 0
        assert values["median_distance"] == pytest.approx(np.median(arrays["distance"][right]))
    certified = json.loads(run("certify", *SMALL, "--weights", weights, "--json").stdout)
    assert certified["sound"] is True
    assert 0 < certified["median_radius"] < values["median_distance"]


def test_exact_distances_lie_between_certificates_and_attacks(tmp_path):
    iris = ["--model", "mlp", "--model-set", "sizes=[4,6,3]", "--data", "iris"]
    folder, saved = tmp_path / "trained", tmp_path / "exact.npz"
    assert run("train", *iris, "--epochs", 30, "--out", folder).exit_code == 0
    iris += ["--weights", folder / "weights.safetensors", "--samples", 5]
    result = run("exact", *iris, "--out", saved, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["finished_rate"] == 1.0
    assert values["median_lower"] == pytest.approx(values["median_upper"], rel=1e-6)
    with np.load(saved) as arrays:
        assert arrays["finished"].all()
        assert arrays["nearest"].shape == (5, 4)
    found = json.loads(run("attack", "ddn", *iris, "--json").stdout)
    proved = json.loads(run("certify", *iris, "--json").stdout)
    assert proved["median_radius"] < values["median_lower"]
    assert values["median_upper"] <= found["median_distance"] * (1 + 1e-6)


def test_train_resumes_and_its_weights_can_be_audited(tmp_path):
    options = ["train", "--model", "mlp", "--model-set", "sizes=[4,6,3]", "--data", "iris"]
    result = run(*options, "--epochs", 2, "--out", tmp_path / "t")
    assert result.exit_code == 0, result.output
    again = run(*options, "--epochs", 2, "--out", tmp_path / "t", "--json")
    assert json.loads(again.stdout)["epoch"] == 2
    measured = run(
        "attack", "deepfool", "--model", "mlp", "--model-set", "sizes=[4,6,3]",
        "--weights", tmp_path / "t/weights.safetensors", "--data", "iris", "--samples", 5,
    )  # fmt: skip
    assert measured.exit_code == 0, measured.output


def test_data_is_listed_described_and_saved(tmp_path):
    assert "two-moons" in run("data").stdout
    saved = tmp_path / "moons.npz"
    described = run("data", "two-moons", "--count", 40, "--out", saved, "--json")
    assert json.loads(described.stdout)["samples"] == 40
    again = run("data", saved, "--json")
    assert json.loads(again.stdout)["shape"] == [2]


def _truncated(folder: Path) -> Path:
    whole = folder / "whole.safetensors"
    save_file(models.build("mlp", sizes=[64, 8, 10]).state_dict(), whole)
    short = folder / "short.safetensors"
    short.write_bytes(whole.read_bytes()[:-200])
    return short


MISTAKES = {
    "unknown model": (["attack", "ddn", "--model", "resnet81"], "resnet"),
    "unknown data": (["attack", "ddn", *SMALL[:4], "--data", "fnots"], "Did you mean fonts"),
    "unknown split": (["attack", "ddn", *SMALL, "--split", "tset"], "it has train, test"),
    "too many samples": (["attack", "ddn", *SMALL, "--samples", "99999"], "99999 were asked for"),
    "unknown attack": (["attack", "dnn", *SMALL], "there are fgs, fgv, pgd"),
    "unknown option": (["attack", "ddn", *SMALL, "--set", "stepps=3"], "no option 'stepps'"),
    "missing option": (["attack", "pgd", *SMALL], "add --set eps=VALUE"),
    "no assignment": (["attack", "ddn", *SMALL, "--set", "steps"], "NAME=VALUE"),
    "unknown norm": (["certify", *SMALL, "--norm", "L3"], "choose L1, L2 or Linf"),
    "unknown dtype": (["certify", *SMALL, "--dtype", "int8"], "float32 or float64"),
    "a large network": (["exact", "--samples", "1"], "units that branch"),
    "no weights file": (["certify", *SMALL, "--weights", "nowhere.pt"], "nowhere.pt"),
    "another shape": (
        ["certify", *SMALL[:4], "--data", "iris", "--samples", "6"],
        "rejects inputs of shape",
    ),
    "no run": (["report", "nowhere"], "not the folder of an audit"),
    "unknown method": (
        ["audit", *SMALL, "--method", "magic", "--out", "never"],
        "no method 'magic' in this audit",
    ),
    "no recipe": (["train", "--out", "t", "--recipe", "cake"], "there are fonts-plain"),
    "nothing to train": (["train", "--out", "t"], "give --recipe, or both"),
    "no such module": (["attack", "ddn", "--model", "no.such:thing"], "cannot import module"),
    "no such std": (["attack", "ddn", *SMALL, "--std", "a,b"], "numbers separated by commas"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line_and_exit_code_1(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, message = MISTAKES[name]
    result = run(*args)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert result.exit_code == 1, result.output
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_weights_file_is_named(tmp_path):
    result = run("certify", *SMALL, "--weights", _truncated(tmp_path))
    assert result.exit_code == 1
    assert "short.safetensors" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_debug_lets_the_traceback_through():
    result = run("attack", "nope", *SMALL, "--debug")
    assert isinstance(result.exception, ValueError)


def test_wrong_usage_is_code_2_and_help_has_examples():
    assert run("attack").exit_code == 2
    for command in ("audit", "attack", "certify", "exact", "report", "train", "data"):
        text = run(command, "--help").stdout
        assert f"elbowroom {command}" in text
        assert "Example" in text
    assert "Exit codes" in run("--help").stdout
    assert run("--version").stdout.strip().count(".") == 2


def test_an_interruption_says_how_to_go_on(monkeypatch, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("elbowroom.cli.measure.run_audit", interrupted)
    result = run("audit", *SMALL, "--out", tmp_path)
    assert result.exit_code == 130
    assert "the same command resumes an audit" in result.stderr
