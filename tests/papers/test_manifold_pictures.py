"""Figures of the Manifold paper that show examples and samples, on tiny learned manifolds."""

import json

import pytest
import torch
from typer.testing import CliRunner

from elbowroom import data
from elbowroom.classifier import Classifier
from elbowroom.cli import app
from elbowroom.manifold import ByClass, Generator
from elbowroom.manifold.vae_gan import load_decoder
from elbowroom.models import pretrained
from elbowroom.papers.manifold_samples import quality, random_samples
from elbowroom.papers.manifold_toy import posterior, toy

TINY = [
    "--set", "widths=[4,4,4]", "--set", "epochs=1", "--set", "size=3", "--set", "batch_size=20",
]  # fmt: skip


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def manifolds(tmp_path_factory):
    """Folders of VAE-GANs: by class, and of all classes."""
    folder = tmp_path_factory.mktemp("vae")
    for name, more in (("each", []), ("all", ["--all-classes"])):
        done = run("manifold", "train", "--count", 100, *TINY, *more, "--out", folder / name)
        assert done.exit_code == 0, done.output
    return folder


def experiment(name, page, *options):
    settings = [part for option in options for part in ("--set", option)]
    done = run("experiment", name, "--json", "--out", page, *settings)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), page.read_text(encoding="utf-8")


def test_examples_of_both_kinds(tmp_path):
    values, page = experiment("manifold-figure-2", tmp_path / "f.html", "samples=15", "shown=2")
    assert values["regular"]["count"] == values["on_manifold"]["count"] <= 15
    assert values["on_manifold"]["hits"] > 0
    assert page.count("on the manifold, ") >= 1
    assert page.count('alt="regular, ') <= 2


def test_examples_across_classes(manifolds, tmp_path):
    values, page = experiment(
        "manifold-figure-17", tmp_path / "f.html", "samples=15", f"data_manifold={manifolds}/all"
    )
    # What the decoder itself gets wrong does not count.
    assert values["on_manifold"]["count"] <= values["regular"]["count"]
    assert "on-data-manifold" in page


def test_distances_by_other_attacks(tmp_path):
    values, page = experiment(
        "manifold-figure-14", tmp_path / "f.html", "samples=12", "train=200", "neighbours=8"
    )
    assert 0.8 < values["median_ratio"] <= 1
    assert values["counts"]["regular"] > 0
    assert "right angles" in page


def test_a_sweep_across_classes(manifolds, tmp_path):
    options = [
        "images=[30]", "epochs=1", "steps=1", "tested=30", "attacked=10", "restarts=1",
        f"manifold={manifolds}/each", f"data_manifold={manifolds}/all",
    ]  # fmt: skip
    settings = [part for option in options for part in ("--set", option)]
    done = run(
        "experiment", "manifold-figure-18", "--json", "--out", tmp_path / "f.html", "--runs",
        tmp_path / "runs", *settings,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    networks = json.loads(done.stdout)["networks"]
    assert [one["training"] for one in networks] == ["normal", "on-manifold", "on-data-manifold"]
    assert list(networks[0]["success"]) == ["on-data-manifold", "on-manifold"]


def test_the_quality_of_a_learned_manifold(manifolds, tmp_path):
    judge = Classifier(pretrained("fonts-plain"), bounds=(0.0, 1.0))
    test = data.load("fonts", "test", 40)
    decoder = load_decoder(manifolds / "each")
    found = quality(decoder, judge, test, samples=20, shown=3, seed=0)
    assert {label: one.count for label, one in found.recognised.items()} == dict.fromkeys(
        range(10), 20
    )
    assert found.accuracy.value > 0.9
    assert found.similarity.shape == (40,)
    assert 0 < float(found.similarity.mean()) < 0.9  # hardly trained
    # A decoder that keeps images as they are is perfect.
    identity = Generator(
        torch.nn.Unflatten(1, (1, 28, 28)), 784, encoder=torch.nn.Flatten(), bound=1.0
    )
    same = quality(
        ByClass(dict.fromkeys(range(10), identity)), judge, test, samples=2, shown=1, seed=0
    )
    torch.testing.assert_close(same.similarity, torch.ones_like(same.similarity))
    assert same.reconstructed.hits == same.accuracy.hits
    (first, images), *_ = random_samples(load_decoder(manifolds / "all"), 4, 0)
    assert first is None
    assert images.shape == (4, 1, 28, 28)

    options = ["data=fonts", f"manifold={manifolds}/each", "judge_images=60", "judge_epochs=1"]
    options += ["samples=5", "tested=20"]
    settings = [part for option in options for part in ("--set", option)]
    page = tmp_path / "f.html"
    done = run(
        "experiment", "manifold-figure-9", "--json", "--out", page, "--runs", tmp_path, *settings
    )
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["recognised"]) == 10
    assert "Random samples of class C" in page.read_text(encoding="utf-8")
    options = ["data=fonts", f"manifold={manifolds}/each", "judge=fonts-plain"]
    values, _ = experiment("manifold-figure-9", page, *options, "samples=5", "tested=20")
    assert values["accuracy"]["value"] > 0.9


def test_the_toy_data():
    found = toy(20_000)
    mean = found.x[found.y == 1].mean(dim=0)
    torch.testing.assert_close(mean, torch.tensor([0.8, 3.0]).double(), rtol=0, atol=0.03)
    # Eq. 26 and 27, with densities written out.
    normal = torch.distributions.Normal(torch.tensor([-3.0, 3.0]).double(), 1.0)
    shares = torch.tensor([0.1, 0.9], dtype=torch.float64)
    first = torch.where(found.x[:, :1] > 0, shares, shares.flip(0))
    joint = normal.log_prob(found.x[:, 1:]).exp() * first
    torch.testing.assert_close(
        posterior(found.x, 0.9, 3.0), joint / joint.sum(dim=1, keepdim=True), rtol=0, atol=1e-9
    )
    # The best classifier decides by the posterior: what it gets wrong has changed its label.
    assert float(found.misclassified.double().mean()) > 0.99
    assert int(found.adversarial.sum()) == 0
    with pytest.raises(ValueError, match="p must lie in"):
        toy(p=0.2)


def test_the_toy_page(tmp_path):
    values, page = experiment("manifold-figure-20", tmp_path / "f.html", "count=50")
    assert values["adversarial"] == 0
    assert "Definition 3" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["manifold-figure-18"], "runs/vae-all"),
        (["manifold-figure-9"], "unknown decoder 'runs/vae-mnist'"),
        (["manifold-figure-2", "--set", "regular=transfer"], "unknown attack 'transfer'"),
        (["manifold-figure-13", "--set", "attacks=[]"], "at least one attack"),
    ],
)
def test_what_is_missing(arguments, words, tmp_path):
    done = run("experiment", *arguments, "--out", tmp_path / "f.html", "--runs", tmp_path)
    assert done.exit_code == 1
    assert words in done.output
