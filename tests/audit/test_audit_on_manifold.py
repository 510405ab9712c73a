"""Audits of data with a decoder: examples on the manifold, and how far the others leave it."""

import importlib
import json

import numpy as np
import pytest
import torch

import elbowroom
from elbowroom import Classifier, data, models
from elbowroom.audit import MethodConfig, Store, read
from elbowroom.audit.tables import read_tables
from elbowroom.job import rebuild
from elbowroom.manifold import Fonts, LatentPGD, project
from elbowroom.manifold.rates import rate

METHODS = {
    "ddn": MethodConfig(kind="attack", method="ddn", options={"steps": 50}),
    "on-manifold": MethodConfig(kind="on-manifold", method="pgd", options={"steps": 10}),
}
SAMPLES = 21


@pytest.fixture(scope="module")
def clf():
    return Classifier(models.pretrained("fonts-plain"), bounds=(0.0, 1.0), name="fonts-plain")


@pytest.fixture(scope="module")
def done(clf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    test = data.load("fonts", "test", SAMPLES)
    card = elbowroom.audit(clf, test, folder, methods=METHODS, decoder="fonts", chunk=8, unit=16)
    return card, folder, test


def test_it_says_what_the_attack_and_the_projection_find(clf, done):
    card, folder, test = done
    found = card.summary.on_manifold
    decoder = Fonts("test")
    codes = decoder.encode(test.x, test.y)
    with clf.session():
        right = clf.logits(test.x).argmax(dim=1) == test.y
    on = LatentPGD(steps=10)(clf, decoder, codes, test.y)
    expected = rate(on.success, right & on.correct)
    assert (found.samples, found.success_rate) == (expected.count, expected.value)
    assert (found.lower, found.upper) == (expected.lower, expected.upper)
    assert 0 < found.success_rate < 1
    assert found.norm == "Linf"

    store = Store(str(folder))
    tables = read_tables(store, store.config())
    examples, rows = torch.tensor(tables.nearest), right & torch.from_numpy(tables.found)
    off = project(decoder, examples, codes).distance[rows]
    moved = (examples - test.x).double().flatten(1).norm(dim=1)[rows]
    assert found.regular_examples == int(rows.sum()) > 0
    assert found.median_off_manifold == pytest.approx(float(np.median(off)), rel=1e-4)
    assert found.median_samples_off_manifold == 0
    assert found.median_ratio == pytest.approx(float(np.median(off / moved)), rel=1e-4)
    assert 0.9 < found.median_ratio <= 1


def test_the_card_and_the_page_show_it(done):
    card, folder, _ = done
    rate_shown = f"{card.summary.on_manifold.success_rate:.0%}"
    assert f"on the manifold       {rate_shown} of the samples" in str(card)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Wrong on real inputs?" in page
    assert "almost at right angles" in page
    assert page.count("moved along the manifold: decided as") > 0
    assert json.loads((folder / "summary.json").read_text())["on_manifold"]["decoder"] == "fonts"
    assert all(check.passed for check in card.summary.trust)
    _, exhibits = read(folder)
    one = exhibits.on_manifold_examples[0]
    assert one.label != one.decision
    assert one.latent_distance <= 0.3 + 1e-6


def test_what_is_stored_is_not_computed_again(clf, done, monkeypatch):
    card, folder, test = done
    monkeypatch.setattr(LatentPGD, "__call__", None)
    monkeypatch.setattr(importlib.import_module("elbowroom.audit.manifold"), "project", None)
    again = elbowroom.audit(clf, test, folder, methods=METHODS, decoder="fonts", chunk=8, unit=16)
    assert again.summary == card.summary
    # The page needs no decoder, and no network.
    monkeypatch.setattr(importlib.import_module("elbowroom.audit"), "decoder_of", None)
    assert rebuild(folder).summary == card.summary


def test_without_a_decoder_nothing_is_said(clf, tmp_path):
    test = data.load("fonts", "test", 4)
    quick = {"ddn": METHODS["ddn"]}
    card = elbowroom.audit(clf, test, tmp_path, methods=quick)
    assert card.summary.on_manifold is None
    assert "manifold" not in str(card)
    assert "Wrong on real inputs?" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_coarse_decoder_does_not_tell_whether_examples_leave(clf, tmp_path, monkeypatch):
    """It misses the samples themselves, by more than the examples moved."""

    class Coarse(Fonts):
        def decode(self, z, context):
            return 0.8 * super().decode(z, context)

    monkeypatch.setattr(
        importlib.import_module("elbowroom.audit"), "decoder_of", lambda name, split: Coarse(split)
    )
    test = data.load("fonts", "test", 12)
    card = elbowroom.audit(clf, test, tmp_path, methods=METHODS, decoder="coarse")
    found = card.summary.on_manifold
    off = 0.2 * test.x.double().flatten(1).norm(dim=1)
    assert found.median_samples_off_manifold <= float(off.median()) * 1.5
    assert found.median_samples_off_manifold > 0.5
    assert found.median_ratio is None
    assert "lie off it" not in str(card)
    assert "too coarse to tell" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_attacks_along_the_manifold_only(clf, tmp_path):
    test = data.load("fonts", "test", 4)
    quick = {"on-manifold": METHODS["on-manifold"]}
    found = elbowroom.audit(clf, test, tmp_path, methods=quick, decoder="fonts").summary.on_manifold
    assert found.regular_examples == 0
    assert found.median_ratio is None


@pytest.mark.parametrize(
    ("decoder", "methods", "words"),
    [
        (None, ["ddn", "on-manifold"], "'on-manifold' needs a decoder"),
        ("fotns", ["ddn", "on-manifold"], "unknown decoder 'fotns'"),
        ("fonts", ["ddn", "on-manifold"], "no split 'all'"),
        ("fonts", ["ddn"], "no method of this audit is one"),
    ],
)
def test_wrong_decoders_show_at_once(clf, decoder, methods, words, tmp_path):
    x = torch.rand(3, 1, 28, 28)
    chosen = {name: METHODS[name] for name in methods}
    with pytest.raises(ValueError, match=words):
        elbowroom.audit(clf, (x, torch.arange(3)), tmp_path, methods=chosen, decoder=decoder)
