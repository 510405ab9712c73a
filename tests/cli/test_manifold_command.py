"""`elbowroom manifold`: what it prints, writes and refuses."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from elbowroom.cli import app


def run(*arguments):
    return CliRunner().invoke(app, ["manifold", *map(str, arguments)])


def test_an_attack_as_json_and_arrays(tmp_path):
    file = tmp_path / "examples.npz"
    done = run("attack", "--samples", 20, "--json", "--out", file)
    assert done.exit_code == 0, done.output
    values = json.loads(done.output)
    with np.load(file) as arrays:
        good = arrays["success"] & arrays["right"]
        assert values["success_rate"]["hits"] == int(good.sum())
        assert values["success_rate"]["count"] == int(arrays["right"].sum())
        moved = np.abs(arrays["codes"] - arrays["original_codes"]).max(axis=1)
        assert (moved <= 0.3 + 1e-6).all()
        np.testing.assert_allclose(arrays["latent_distance"][good], moved[good], rtol=1e-5)
        assert arrays["adversarial"].shape == (20, 1, 28, 28)


def test_a_page_of_examples(tmp_path):
    page = tmp_path / "examples.html"
    done = run("attack", "random", "--samples", 40, "--set", "restarts=20", "--out", page)
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "On-manifold examples were found for" in text
    assert "Changes: t1" in text
    assert "original" in text


def test_distances_of_regular_examples(tmp_path):
    file = tmp_path / "distances.npz"
    done = run(
        "distance", "--decoder", "fonts", "--samples", 8, "--train-count", 300, "--neighbours", 5,
        "--json", "--out", file,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    values = json.loads(done.output)
    through = values["distances"]["projection by fonts"]
    assert 0.8 < through["median_ratio"] <= 1 + 1e-6
    with np.load(file) as arrays:
        assert (arrays["projection"] <= arrays["perturbation"] * (1 + 1e-6)).all()
        assert (arrays["neighbours_sample"] <= arrays["perturbation"] * (1 + 1e-6)).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["attack", "foo"], "unknown attack 'foo'; choose pgd"),
        (["attack", "--set", "eta=-1"], "eta must be positive"),
        (["attack", "--set", "speed=1"], "has no option 'speed'"),
        (["attack", "--norm", "L1"], "works in L2 and Linf"),
        (["attack", "--decoder", "nope"], "unknown decoder 'nope'"),
        (["attack", "--data", "digits", "--model", "mlp", "--model-set", "sizes=[64,10]"],
         "is none of the images of fonts"),
        (["distance", "--train-count", "3", "--samples", "2"], "50 neighbours of 3 samples"),
        (["distance", "--eps", "0", "--samples", "2"], "eps must be positive"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 1
    assert words in done.output
    assert "Traceback" not in done.output
