"""Results belong to samples: they do not depend on units, order or interruptions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import elbowroom
from elbowroom import Classifier, data, models
from elbowroom.attacks import ATTACKS, DDN, PGD, CarliniWagner, DeepFool
from elbowroom.audit import MethodConfig, Store, paths
from elbowroom.audit.paths import stored_paths
from elbowroom.audit.tables import read_tables
from nets import FunctionalResNet, randomise_statistics

QUICK = {
    "fgs": MethodConfig(kind="attack", method="fgs", options={"norm": "L2"}),
    "fgv": MethodConfig(kind="attack", method="fgv"),
    "pgd": MethodConfig(
        kind="attack", method="pgd", options={"eps": 3.0, "steps": 8, "early_stop": False}
    ),
    "pgd-adam": MethodConfig(
        kind="attack",
        method="pgd",
        options={"eps": 3.0, "steps": 8, "rule": "adam", "step_size": 0.05, "restarts": 2},
    ),
    "deepfool": MethodConfig(kind="attack", method="deepfool", options={"steps": 5}),
    "ddn": MethodConfig(kind="attack", method="ddn", options={"steps": 15, "runner_ups": 2}),
    "carlini-wagner": MethodConfig(
        kind="attack", method="carlini-wagner", options={"steps": 10, "search_steps": 2}
    ),
    "global-lipschitz": MethodConfig(kind="certificate", method="global-lipschitz"),
    "adam": MethodConfig(
        kind="invariance", method="adam", options={"steps": 15, "learning_rates": [0.05]}
    ),
    "preimage-descent": MethodConfig(
        kind="invariance",
        method="preimage-descent",
        options={"begin": ["start"], "steps": 4, "walk_steps": 1, "block": 4},
    ),
}


def _classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier(randomise_statistics(models.build("fonts-cnn")), name="fonts-cnn")


def _run(out, samples, *, unit, order=None, chunk=8):
    indices = list(range(len(samples)))
    if order is not None:
        samples, indices = samples.take(order), order
    clf = _classifier()
    card = elbowroom.audit(
        clf, samples, out, methods=QUICK, unit=unit, chunk=chunk, indices=indices
    )
    store = Store(str(out))
    tables = read_tables(store, store.config())
    return card, tables, stored_paths(store, store.config(), tables)[0]


def _assert_same(run, reference, order=None):
    """Every stored number is the same bit for bit."""
    for column, values in vars(reference[2]).items():
        assert np.array_equal(getattr(run[2], column), values), column
    tables, reference = run[1], reference[1]
    rows = slice(None) if order is None else order
    assert (tables.index == reference.index[rows]).all()
    assert (tables.logits == reference.logits[rows]).all()
    for name, attack in reference.attacks.items():
        mine = tables.attacks[name]
        assert (mine.points == attack.points[rows]).all(), name
        assert (mine.distance == attack.distance[rows]).all(), name
        assert (mine.success == attack.success[rows]).all(), name
    for name, radius in reference.certificates.items():
        assert (tables.certificates[name] == radius[rows]).all(), name
    for name, pairs in reference.invariance.items():
        mine = tables.invariance[name]
        assert (mine.partner == pairs.partner[rows]).all(), name
        assert (mine.points == pairs.points[rows]).all(), name
        assert (mine.feature_mse == pairs.feature_mse[rows]).all(), name


@pytest.fixture(scope="module", autouse=True)
def short_walks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "STEPS", 4)
        yield


@pytest.fixture(scope="module")
def samples():
    return data.load("fonts", "test", 18)


@pytest.fixture(scope="module")
def reference(samples, tmp_path_factory):
    return _run(tmp_path_factory.mktemp("reference"), samples, unit=64)


@pytest.mark.parametrize("unit", [1, 7])
def test_bitwise_equal_for_any_unit_size(unit, samples, reference, tmp_path):
    run = _run(tmp_path, samples, unit=unit)
    card = run[0]
    _assert_same(run, reference)
    assert card.summary.sensitivity == reference[0].summary.sensitivity
    assert card.summary.invariance == reference[0].summary.invariance


def test_bitwise_equal_under_permutation(samples, reference, tmp_path):
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(3)).tolist()
    run = _run(tmp_path, samples, unit=7, order=order)
    card = run[0]
    _assert_same(run, reference, order)
    assert card.summary.sensitivity == reference[0].summary.sensitivity
    assert card.summary.invariance == reference[0].summary.invariance
    assert card.summary.data.fingerprint == reference[0].summary.data.fingerprint


ATTACKS_ALONE = [
    DDN(steps=40), DDN(steps=20, runner_ups=2), DeepFool(), PGD(eps=3.0),
    PGD(eps=3.0, restarts=3, radius_steps=2), CarliniWagner(steps=30, search_steps=2),
    ATTACKS["fgs"](), ATTACKS["fgv"](),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-8)])
@pytest.mark.parametrize("attack", ATTACKS_ALONE, ids=lambda a: type(a).__name__)
def test_a_bare_attack_call_is_independent_of_batch_and_order(attack, dtype, tolerance):
    torch.manual_seed(1)
    clf = Classifier(randomise_statistics(FunctionalResNet()).to(dtype))
    x = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(2)).to(dtype)
    y = clf.logits(x).argmax(dim=1)
    whole = attack(clf, x, y)
    order = [7, 2, 11, 0, 5]
    shuffled = attack(clf, x[order], y[order], indices=order)
    alone = torch.cat(
        [attack(clf, x[i : i + 1], y[i : i + 1], indices=[i]).distance for i in (3, 8)]
    )
    assert torch.equal(shuffled.success, whole.success[order])
    assert torch.allclose(shuffled.distance, whole.distance[order], rtol=tolerance)
    assert torch.allclose(alone, whole.distance[[3, 8]], rtol=tolerance)
