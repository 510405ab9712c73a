"""The run folder: resuming, refusing to mix, surviving kills, and what the card says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import elbowroom
from elbowroom import Classifier, data, models
from elbowroom.audit import MethodConfig, Store, Summary
from elbowroom.audit.run import pair_up
from elbowroom.audit.statistics import median
from elbowroom.audit.summarise import curve
from elbowroom.audit.summary import json_schema
from elbowroom.audit.tables import read_tables
from elbowroom.job import rebuild
from oracles.linear import LinearModel, distances

QUICK = {
    "ddn": MethodConfig(kind="attack", method="ddn", options={"steps": 5}),
    "global-lipschitz": MethodConfig(kind="certificate", method="global-lipschitz"),
    "adam": MethodConfig(
        kind="invariance", method="adam", options={"steps": 5, "learning_rates": [0.05]}
    ),
}


def _audit(out, **options):
    torch.manual_seed(0)
    clf = Classifier(models.build("mlp", sizes=[64, 10, 10]), name="mlp")
    return elbowroom.audit(
        clf, data.load("digits", "test", 20), out, **{"methods": QUICK, "unit": 7, **options}
    )


def _times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


def test_a_finished_unit_is_never_computed_again(tmp_path):
    _audit(tmp_path)
    before = _times(tmp_path)
    (tmp_path / "units/ddn/000007-000014.parquet").unlink()
    (tmp_path / "summary.json").unlink()
    card = _audit(tmp_path)
    after = _times(tmp_path)
    changed = [path for path in after if after[path] != before[path]]
    assert [path.name for path in changed] == ["000007-000014.parquet"]
    assert json.loads((tmp_path / "summary.json").read_text())["samples"] == card.summary.samples


def test_a_damaged_unit_is_computed_again(tmp_path):
    first = _audit(tmp_path)
    damaged = tmp_path / "units/ddn/000000-000007.parquet"
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert _audit(tmp_path).summary.sensitivity == first.summary.sensitivity


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"norm": "Linf"}, "norm: 'L2' -> 'Linf'"),
        ({"unit": 5}, "unit: 7 -> 5"),
        ({"methods": {"ddn": QUICK["ddn"]}}, "methods.adam.kind: 'invariance' -> None"),
    ],
)
def test_a_changed_configuration_refuses_to_mix(options, field, tmp_path):
    _audit(tmp_path)
    before = _times(tmp_path)
    with pytest.raises(ValueError, match="another configuration") as error:
        _audit(tmp_path, **options)
    assert field in str(error.value)
    assert _times(tmp_path) == before


def test_other_weights_and_other_data_refuse_to_mix(tmp_path):
    _audit(tmp_path)
    samples = data.load("digits", "test", 20)
    other = Classifier(models.build("mlp", sizes=[64, 10, 10]), name="mlp")
    with pytest.raises(ValueError, match=r"model\.fingerprint"):
        elbowroom.audit(other, samples, tmp_path, methods=QUICK, unit=7)
    torch.manual_seed(0)
    same = Classifier(models.build("mlp", sizes=[64, 10, 10]), name="mlp")
    with pytest.raises(ValueError, match=r"data\.fingerprint"):
        elbowroom.audit(same, samples.take(list(range(1, 20))), tmp_path, methods=QUICK, unit=7)


SCRIPT = """
import sys, time, torch
from elbowroom import Classifier, audit, data, models
from elbowroom.audit import MethodConfig
torch.set_num_threads(1)
torch.manual_seed(0)
clf = Classifier(models.build("mlp", sizes=[64, 10, 10]), name="mlp")
methods = {"ddn": MethodConfig(kind="attack", method="ddn", options={"steps": 30})}
slow = lambda done, total, name: (print(done, flush=True), time.sleep(0.05))
audit(clf, data.load("digits", "test", 20), sys.argv[1], methods=methods, unit=1, progress=slow)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_loses_at_most_the_unit_in_flight(how, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-c", SCRIPT, str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 25:
            break
    os.kill(process.pid, how)
    process.wait(timeout=30)
    survivors = _times(out)
    assert len(survivors) >= 25
    assert not list(out.rglob("summary.json"))
    with pytest.raises(ValueError, match="not finished"):
        rebuild(out)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    final = _times(out)
    assert {path: final[path] for path in survivors} == survivors
    assert len(final) == 40
    assert (out / "report.html").exists()


def test_a_disk_that_refuses_keeps_what_is_finished(tmp_path, monkeypatch):
    write = Store.write

    def full(self: Store, name: str, content: bytes) -> None:
        if "ddn/000014" in name:
            raise OSError(28, "No space left on device")
        write(self, name, content)

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(OSError, match="No space left"):
        _audit(tmp_path)
    kept = _times(tmp_path)
    assert len(kept) == 5
    monkeypatch.undo()
    _audit(tmp_path)
    assert {path: _times(tmp_path)[path] for path in kept} == kept


def test_an_unwritable_folder_says_so(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OSError, match="cannot write"):
        _audit(blocked / "run")


def test_summary_file_page_and_card_agree(tmp_path):
    card = _audit(tmp_path)
    stored = Summary.model_validate_json((tmp_path / "summary.json").read_text())
    assert stored == card.summary
    assert stored.schema_ == "elbowroom-summary/1"
    page = (tmp_path / "report.html").read_text()
    for value in (
        f"{stored.clean_accuracy:.1%}".rstrip("%"),
        f"{stored.sensitivity.median_attacked:.3g}",
        f"{stored.sensitivity.median_certified:.3g}",
    ):
        assert value in page
    assert f"{stored.sensitivity.median_attacked:.3g}" in str(card)


def test_the_whole_splits_accuracy_is_reported(tmp_path):
    whole = data.load("digits", "test")
    card = _audit(tmp_path, whole=whole)
    torch.manual_seed(0)
    model = models.build("mlp", sizes=[64, 10, 10])
    accuracy = float((model(whole.x).argmax(dim=1) == whole.y).double().mean())
    assert card.summary.whole_split.accuracy == pytest.approx(accuracy)
    assert card.summary.whole_split.samples == len(whole)
    assert "of the split's" in str(card)


def test_the_numbers_on_a_linear_classifier(tmp_path):
    model = LinearModel((64,), 10, seed=0).float()
    samples = data.load("digits", "test", 30)
    clf = Classifier(model, bounds=(-50.0, 50.0))
    x = samples.x.flatten(1)
    y = clf.logits(x).argmax(dim=1)
    y[0] = (y[0] + 1) % 10  # one sample is misclassified
    methods = {
        "deepfool": MethodConfig(kind="attack", method="deepfool"),
        "global-lipschitz": MethodConfig(kind="certificate", method="global-lipschitz"),
    }
    card = elbowroom.audit(clf, (x, y), tmp_path, methods=methods)
    exact = distances(clf, x, clf.logits(x).argmax(dim=1))[1:].amin(dim=1)
    s = card.summary
    assert s.clean_accuracy == pytest.approx(29 / 30)
    assert s.sensitivity.median_attacked == pytest.approx(float(exact.median()), rel=1e-3)
    assert s.sensitivity.median_certified == pytest.approx(float(exact.median()), rel=1e-3)
    assert s.sensitivity.median_certified <= s.sensitivity.median_attacked
    for point in s.sensitivity.curve:
        share = float((exact > point.eps).sum()) / 30
        assert point.attacked == pytest.approx(share, abs=1 / 30)
        assert point.certified <= point.attacked
    assert all(check.passed for check in s.trust if "labels" not in check.check)


def test_tables_hold_every_sample_and_its_examples(tmp_path):
    _audit(tmp_path)
    store = Store(str(tmp_path))
    tables = read_tables(store, store.config())
    attack = tables.attacks["ddn"]
    assert attack.points.shape == (20, 1, 8, 8)
    assert attack.points.dtype == np.float32
    moved = attack.points - tables.inputs
    lengths = np.linalg.norm(moved.reshape(20, -1).astype(np.float64), axis=1)
    assert np.allclose(lengths[attack.success], attack.distance[attack.success], rtol=1e-6)
    pairs = tables.invariance["adam"]
    label_of = dict(zip(tables.index.tolist(), tables.label.tolist(), strict=True))
    assert all(label_of[p] != own for p, own in zip(pairs.partner, tables.label, strict=True))


def test_partners_depend_on_the_set_and_not_on_the_order():
    indices, labels = [4, 7, 9, 12, 15], [0, 1, 1, 2, 0]
    partners = pair_up(indices, labels, seed=3)
    by_index = {i: indices[p] for i, p in zip(indices, partners, strict=True)}
    order = [3, 0, 4, 1, 2]
    moved = [indices[i] for i in order]
    again = pair_up(moved, [labels[i] for i in order], seed=3)
    assert {i: moved[p] for i, p in zip(moved, again, strict=True)} == by_index
    assert pair_up([0, 1], [5, 5], seed=0) == [-1, -1]


def test_one_class_has_no_pairs_and_still_a_card(tmp_path):
    samples = data.load("digits", "test", 50)
    one = samples.take(torch.where(samples.y == 3)[0])
    torch.manual_seed(0)
    clf = Classifier(models.build("mlp", sizes=[64, 10, 10]))
    card = elbowroom.audit(clf, one, tmp_path, methods=QUICK)
    assert card.summary.invariance is None
    assert "one class only" in str(card)


def test_a_network_without_a_certificate_is_still_measured(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Hardswish(), nn.Linear(8, 10))
    card = elbowroom.audit(
        Classifier(model), data.load("digits", "test", 4), tmp_path / "run", unit=4, chunk=4
    )
    assert card.summary.sensitivity.median_certified is None
    details = " ".join(check.detail for check in card.summary.trust)
    assert "layer '2' (Hardswish)" in details


def test_medians_count_failures_as_infinite():
    inf = np.inf
    assert median(np.array([1.0, 2.0, inf])) == 2.0
    assert median(np.array([1.0, inf, inf])) is None
    assert median(np.array([1.0, inf])) is None
    assert median(np.zeros(0)) is None


def test_the_curve_is_a_step_down_between_clean_and_zero():
    right = np.array([True, True, True, False])
    points = curve(right, np.array([1.0, 2.0, np.inf, 0.0]), np.array([0.5, 0.5, 0.1, 0.0]))
    assert points[0].attacked == points[0].certified == 0.75
    assert points[-1].attacked == 0.25  # the sample that no attack moved
    assert points[-1].certified == 0
    values = [p.attacked for p in points]
    assert values == sorted(values, reverse=True)


def test_the_published_schema_is_current():
    published = Path(__file__).parents[2] / "docs" / "summary.schema.json"
    assert json.loads(published.read_text()) == json.loads(json_schema())


def test_a_constant_model_still_gets_a_card(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model[1].weight.data.zero_()
    model[1].bias.data.copy_(torch.arange(10.0))
    card = elbowroom.audit(Classifier(model), data.load("digits", "test", 20), tmp_path, unit=20)
    assert card.summary.sensitivity.median_attacked is None
    assert "no attack changes the decision" in str(card)


def test_the_card_says_what_was_not_asked_for(tmp_path):
    card = _audit(tmp_path / "a", methods={"ddn": QUICK["ddn"]})
    assert "none was run" in str(card)
    assert "not asked for" in str(card)
    only = {"global-lipschitz": QUICK["global-lipschitz"]}
    assert "no attack was run" in str(_audit(tmp_path / "b", methods=only))


def test_logits_that_are_not_finite_nearby_are_noticed(tmp_path):
    class Fragile(nn.Module):
        def forward(self, x):
            z = x.flatten(1)
            return (
                z[:, :10]
                + torch.where((z * 16 != (z * 16).round()).any(1), torch.nan, 0.0)[:, None]
            )

    card = elbowroom.audit(
        Classifier(Fragile()),
        data.load("digits", "test", 20),
        tmp_path,
        methods={"ddn": QUICK["ddn"]},
    )
    failed = [check.check for check in card.summary.trust if not check.passed]
    assert "Logits are finite around the samples" in failed


@pytest.mark.parametrize("norm", ["L1", "Linf"])
def test_other_norms(norm, tmp_path):
    torch.manual_seed(0)
    clf = Classifier(models.build("mlp", sizes=[64, 10, 10]))
    samples = data.load("digits", "test", 6)
    card = elbowroom.audit(clf, samples, tmp_path, norm=norm, chunk=6)
    assert card.summary.sensitivity.norm == norm
    assert card.summary.sensitivity.median_certified < card.summary.sensitivity.median_attacked


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a Dataset, or a tuple"):
        elbowroom.audit(nn.Linear(2, 2), [torch.zeros(1, 2)], tmp_path)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_on_the_page_is_the_users_own(training, tmp_path):
    model = models.build("mlp", sizes=[64, 10, 10]).train(training)
    clf = Classifier(model, mean=0.5, std=0.25)
    card = elbowroom.audit(clf, data.load("digits", "test", 4), tmp_path, methods=QUICK)
    mode = next(c for c in card.summary.trust if c.check == "The model is in evaluation mode")
    assert mode.detail.startswith("it was handed over in training mode") == training
    assert model.training == training
