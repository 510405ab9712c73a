"""`elbowroom manifold`: what it prints, writes and refuses."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from elbowroom.cli import app
from elbowroom.manifold.vae_gan import load_vae_gan
from elbowroom.training.vae_gan_recipes import VAE_GANS


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


def test_a_manifold_is_learned_attacked_and_looked_at(tmp_path):
    folder, page = tmp_path / "vae", tmp_path / "samples.html"
    small = ["--set", "widths=[4,4,4]", "--set", "epochs=1", "--set", "size=2"]
    first = run("train", "--count", 80, "--label", 1, "--label", 4, *small, "--out", folder)
    assert first.exit_code == 0, first.output
    assert "class-4: 8 images" in first.output
    again = run("train", "--count", 80, "--label", 1, "--label", 4, *small, "--out", folder)
    assert again.exit_code == 0
    assert "epoch" not in again.output
    done = run("samples", "--decoder", folder, "--count", 3, "--out", page)
    assert done.exit_code == 0, done.output
    assert "Class 4" in page.read_text(encoding="utf-8")
    # The classes of the samples that come first are not there.
    done = run("attack", "--decoder", folder, "--samples", 5)
    assert done.exit_code == 1
    assert "class 0 has no decoder; there are some for 1, 4" in done.output
    whole = tmp_path / "all"
    done = run("train", "--count", 80, "--all-classes", *small, "--out", whole)
    assert done.exit_code == 0, done.output
    done = run("attack", "--decoder", whole, "--samples", 5, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["success_rate"]["count"] <= 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--label", "11", "--count", "20"], "has no sample of class 11"),
        (["train", "--set", "speed=1"], "training has no option 'speed'"),
        (["train", "--set", "epochs=0"], "epochs must be positive"),
        (["train", "--data", "iris"], "for images"),
    ],
)
def test_training_that_cannot_be(arguments, words, tmp_path):
    done = run(*arguments, "--out", tmp_path / "vae")
    assert done.exit_code == 1
    assert words in done.output
    done = run("samples", "--decoder", tmp_path)
    assert done.exit_code == 1
    assert "no trained VAE-GAN" in done.output


def test_recipes(tmp_path):
    quick = ["--set", "widths=[4,4,4]", "--set", "epochs=1", "--set", "size=3", "--count", "60"]
    folder = tmp_path / "vae"
    done = run("train", "--recipe", "fonts", "--label", "2", *quick, "--out", folder)
    assert done.exit_code == 0, done.output
    model = load_vae_gan(folder / "class-2")
    assert model.moving  # as the recipe has it
    assert model.widths == (4, 4, 4)
    for name, recipe in VAE_GANS.items():
        assert recipe.of(1).epochs == recipe.settings.epochs
        assert name.startswith(recipe.data)
    published = VAE_GANS["emnist-digits-published"]
    assert [published.of(k).reconstruction for k in (0, 1, 2, None)] == [2.75, 5.6, 2.5, 2.5]
    done = run("train", "--recipe", "emnist", "--out", folder)
    assert "unknown recipe 'emnist'; choose fonts-published" in done.output
    done = run("train", "--recipe", "fonts", "--data", "mnist", "--out", folder)
    assert "has data of its own" in done.output


def test_samples_of_what_cannot_be_drawn():
    done = run("samples", "--decoder", "fonts")
    assert done.exit_code == 1
    assert "random codes cannot be drawn for a Fonts decoder" in done.output
