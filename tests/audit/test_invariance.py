"""Invariance in an audit: which inversion, what counts, the matrix of classes, and the paths."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import elbowroom
from elbowroom import Classifier, data, models
from elbowroom.audit import MethodConfig, Store, paths, read
from elbowroom.audit.config import (
    MOST_LOGITS,
    SLOW_CERTIFICATES,
    all_methods,
    default_methods,
)
from elbowroom.audit.pairs import by_class
from elbowroom.audit.paths import POINTS, stored_paths
from elbowroom.audit.summarise import exhibit
from elbowroom.audit.tables import read_tables
from elbowroom.audit.trust import recheck_logits
from elbowroom.job import rebuild
from elbowroom.norms import L2

METHODS = {
    "preimage-descent": MethodConfig(
        kind="invariance",
        method="preimage-descent",
        options={"begin": ["start"], "steps": 5, "walk_steps": 1, "restarts": 1},
    ),
    "other-descent": MethodConfig(
        kind="invariance",
        method="preimage-descent",
        options={"begin": ["toward"], "steps": 5, "walk_steps": 1, "restarts": 1, "seed": 1},
    ),
    "adam-on-logits": MethodConfig(
        kind="invariance", method="adam", options={"steps": 60, "learning_rates": [0.05]}
    ),
}
COUNT = 20


def _classifier(dtype: torch.dtype = torch.float32) -> Classifier:
    torch.manual_seed(0)
    model = models.build("mlp", sizes=[64, 10, 10]).to(dtype)
    return Classifier(model, name="mlp")


def _tables(out):
    store = Store(str(out))
    return read_tables(store, store.config())


@pytest.fixture(scope="module", autouse=True)
def short_walks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "STEPS", 8)
        yield


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folder and the card of an audit with three inversions."""
    out = tmp_path_factory.mktemp("both")
    card = elbowroom.audit(
        _classifier(), data.load("digits", "test", COUNT), out, methods=METHODS, chunk=10
    )
    return out, card


# -- several inversions ----------------------------------------------------------------------


def test_every_pair_counts_with_its_nearest_success(both):
    out, card = both
    tables, summary = _tables(out), card.summary.invariance
    pairs, won = tables.pairs, dict.fromkeys(METHODS, 0)
    for row in range(COUNT):
        distances = {
            name: found.distance[row] if found.success[row] else np.inf
            for name, found in tables.invariance.items()
        }
        nearest = min(distances.values())
        assert pairs.distance[row] == nearest
        name = min(distances, key=distances.get)
        best = tables.invariance[name]
        if list(distances.values()).count(nearest) == 1:
            assert (pairs.points[row] == best.points[row]).all()
            assert pairs.feature_mse[row] == best.feature_mse[row]
        assert pairs.partner[row] == best.partner[row]
        for name, distance in distances.items():
            won[name] += distance == nearest < np.inf
    assert min(won["preimage-descent"], won["other-descent"]) > 0  # neither is always best
    assert summary.method == ", ".join(METHODS)
    assert summary.median_distance == pytest.approx(float(np.median(pairs.distance)))
    assert {i.method: round(i.best_on * COUNT) for i in summary.inversions} == won
    for inversion in summary.inversions:
        assert inversion.median_distance >= summary.median_distance
        assert inversion.max_feature_mse <= inversion.tolerance
    assert summary.tolerance == max(inversion.tolerance for inversion in summary.inversions)


def test_a_miss_never_beats_a_success(both):
    tables = _tables(both[0])
    name, found = next(iter(tables.invariance.items()))
    missed = replace(
        found,
        success=np.zeros(COUNT, bool),
        distance=np.full(COUNT, np.inf),
        feature_mse=np.zeros(COUNT),
    )
    pairs = replace(tables, invariance={"missed": missed, name: found}).pairs
    assert (pairs.distance == found.distance).all()
    assert (pairs.points == found.points).all()
    assert not replace(tables, invariance={"missed": missed}).pairs.success.any()
    assert replace(tables, invariance={}).pairs is None


# -- the matrix ------------------------------------------------------------------------------


@pytest.mark.parametrize("failures", [0.0, 0.6])
def test_the_matrix_of_classes_against_a_loop(failures, both):
    tables = _tables(both[0])
    failed = np.random.default_rng(0).random(COUNT) < failures
    pairs = replace(tables.pairs, distance=np.where(failed, np.inf, tables.pairs.distance))
    label_of = dict(zip(tables.index.tolist(), tables.label.tolist(), strict=True))
    cells: dict[tuple[str, str], list[float]] = {}
    for row in range(COUNT):
        image = label_of[int(pairs.partner[row])]
        key = (tables.classes[tables.label[row]], tables.classes[image])
        cells.setdefault(key, []).append(float(pairs.distance[row]))
    found = by_class(tables, pairs)
    assert {(cell.logits, cell.image): cell.pairs for cell in found} == {
        key: len(values) for key, values in cells.items()
    }
    assert sum(cell.pairs for cell in found) == COUNT
    assert all(cell.logits != cell.image for cell in found)
    places = [(tables.classes.index(c.logits), tables.classes.index(c.image)) for c in found]
    assert places == sorted(places)
    for cell in found:
        values = sorted(cells[cell.logits, cell.image])
        half = len(values) // 2
        if np.isinf(values[half]):
            assert cell.median_distance is None
        elif np.isinf(values[-1]) or len(values) % 2:
            assert cell.median_distance == values[half]
        else:
            assert cell.median_distance == pytest.approx((values[half - 1] + values[half]) / 2)


def test_the_matrix_is_in_the_summary_file(both):
    out, card = both
    stored = json.loads((out / "summary.json").read_text())["invariance"]["by_class"]
    assert stored == [cell.model_dump() for cell in card.summary.invariance.by_class]
    assert len(stored) > 5


# -- paths -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_stored_point_of_a_path_has_the_logits_of_its_sample(dtype, tmp_path):
    clf, samples = _classifier(dtype), data.load("digits", "test", COUNT)
    methods = all_methods(clf, samples.x.to(dtype), L2, 0)
    method = methods["preimage-descent"].model_copy(
        update={"options": {**methods["preimage-descent"].options, "steps": 3, "restarts": 1}}
    )
    elbowroom.audit(clf, samples, tmp_path, methods={"descent": method}, chunk=10)
    file = next((tmp_path / "units/descent/paths").glob("*.parquet"))
    table = pq.read_table(file)
    assert len(table) == 4
    tables = _tables(tmp_path)
    row_of = {int(index): row for row, index in enumerate(tables.index)}
    exhibits = read(tmp_path)[1]
    shown = {pair.index for pair in exhibits.invariance_examples}
    for record in table.to_pylist():
        row = row_of[record["index"]]
        other = row_of[int(tables.pairs.partner[row])]
        points = torch.tensor(record["path"], dtype=dtype).reshape(POINTS, *samples.x.shape[1:])
        assert record["index"] in shown
        assert torch.equal(points[0], samples.x[row].to(dtype))
        assert (points >= 0).all()
        assert (points <= 1).all()
        error = (clf.logits(points) - clf.logits(points[:1])).double().square().mean(dim=1)
        assert (error <= 2 * method.options["tolerance"]).all()
        assert np.allclose(error, record["feature_mse"], atol=method.options["tolerance"])
        assert clf.logits(points).argmax(dim=1).tolist() == record["decision"]
        apart = (points.double() - samples.x[other].double()).flatten(1)
        distance = torch.linalg.vector_norm(apart, dim=1)
        assert distance.numpy() == pytest.approx(record["distance"], rel=1e-6)
        assert (distance.diff() <= 0).all()
        assert distance[-1] < 0.95 * distance[0]


def test_paths_are_drawn_and_their_cost_is_counted(both):
    out, card = both
    summary, exhibits = read(out)
    assert len(exhibits.paths) == 4
    page = (out / "report.html").read_text()
    assert page.count('<article class="path">') == 4
    for path in exhibits.paths:
        assert len(path.points) == len(path.distance) == len(path.decisions) > 1
        assert path.nearest == pytest.approx(
            next(e.distance for e in exhibits.invariance_examples if e.index == path.index)
        )
    cost = card.summary.cost["preimage-descent/paths"]
    assert cost.kind == "invariance"
    assert cost.vjp > 0
    assert summary == card.summary


def test_a_walk_that_ended_early_is_shown_without_its_repeats(both):
    store = Store(str(both[0]))
    config, tables = store.config(), _tables(both[0])
    walked, _ = stored_paths(store, config, tables)
    points = np.random.default_rng(0).random(walked.points.shape).astype(np.float32)
    points[1, 2:4] = points[1, 1]
    points[2] = points[2, :1]
    shown = exhibit(tables, replace(walked, points=points)).paths
    assert [path.index for path in shown] == walked.index[[0, 1, 3]].tolist()
    assert (shown[1].points == points[1, [0, 1, 4, 5]]).all()
    assert (shown[1].distance == walked.distance[1, [0, 1, 4, 5]]).all()
    assert (shown[1].feature_mse == walked.feature_mse[1, [0, 1, 4, 5]]).all()
    assert len(shown[1].decisions) == 4


def test_a_run_without_paths_still_has_its_page_and_gets_them_when_it_is_continued(both, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(both[0], out)
    folder = out / "units/preimage-descent/paths"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    card = rebuild(out)
    assert '<article class="path">' not in (out / "report.html").read_text()
    assert card.summary.invariance == both[1].summary.invariance
    assert "preimage-descent/paths" not in card.summary.cost
    samples = data.load("digits", "test", COUNT)
    card = elbowroom.audit(_classifier(), samples, out, methods=METHODS, chunk=10)
    again = pq.read_table(next(folder.iterdir()))
    first = pq.read_table(next((both[0] / "units/preimage-descent/paths").iterdir()))
    assert again.replace_schema_metadata(None) == first.replace_schema_metadata(None)
    assert list(before) == [path.name for path in folder.iterdir()]


def test_without_a_descent_there_is_no_path(tmp_path):
    only = {"adam-on-logits": METHODS["adam-on-logits"]}
    card = elbowroom.audit(_classifier(), data.load("digits", "test", 8), tmp_path, methods=only)
    assert card.summary.invariance.method == "adam-on-logits"
    assert read(tmp_path)[1].paths == []
    assert list(card.summary.cost) == ["adam-on-logits"]


def test_stored_points_with_other_logits_are_noticed(both):
    out, _ = both
    store = Store(str(out))
    config, tables = store.config(), _tables(out)
    walked, _ = stored_paths(store, config, tables)
    clf = _classifier()
    assert recheck_logits(clf, config, tables, walked).passed
    moved = walked.points.copy()
    moved[2, 3] *= 0.9
    check = recheck_logits(clf, config, tables, replace(walked, points=moved))
    assert not check.passed
    checked = sum(int(found.success.sum()) for found in tables.invariance.values()) + 4 * POINTS
    assert f"1 of {checked} " in check.detail
    found = tables.invariance["adam-on-logits"]
    points = np.where(found.success[:, None, None, None], found.points + 0.1, found.points)
    spoiled = {**tables.invariance, "adam-on-logits": replace(found, points=points)}
    check = recheck_logits(clf, config, replace(tables, invariance=spoiled), walked)
    assert f"{int(found.success.sum())} of {checked} " in check.detail


# -- the default -----------------------------------------------------------------------------


def _defaults(count: int, dtype: torch.dtype = torch.float32, scale: float = 1.0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, count)).to(dtype)
    for parameter in net.parameters():
        parameter.data *= scale
    x = data.load("digits", "test", 6).x.to(dtype)
    clf = Classifier(net)
    return clf, x, default_methods(clf, x, L2, 3), all_methods(clf, x, L2, 3)


def test_the_default_inversion_depends_on_how_many_logits_there_are():
    for count, name, other in [
        (10, "preimage-descent", "adam-on-logits"),
        (MOST_LOGITS + 1, "adam-on-logits", "preimage-descent"),
    ]:
        _, _, default, every = _defaults(count)
        assert name in default
        assert other not in default
        assert {*default, other, *SLOW_CERTIFICATES} == set(every)
        assert default[name].options["seed"] == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_the_tolerance_is_reached_in_either_precision_by_logits_of_any_size(dtype, scale):
    clf, x, default, _ = _defaults(10, dtype, scale)
    method = default["preimage-descent"].build()
    size = float(clf.logits(x).abs().max())
    result = method(clf, start=x, toward=x.flip(0))
    assert method.tolerance**0.5 < (1e-4 if dtype == torch.float32 else 1e-9) * max(size, 1.0)
    assert result.success.all()
    assert (result.distance < 0.99 * L2.length(x - x.flip(0))).all()


# -- networks of other kinds -----------------------------------------------------------------


class Untraceable(nn.Module):
    """Its path depends on values: no graph, but gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x):
        z = self.first(x.flatten(1))
        return self.last(torch.relu(z) if float(z.detach().abs().max()) > 0 else z)


class Randomised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        return self.net(x + 0.01 * torch.randn_like(x))


@pytest.mark.parametrize("kind", ["smooth", "untraceable", "randomised"])
def test_networks_of_other_kinds_get_a_card_in_clear_words(kind, tmp_path):
    torch.manual_seed(0)
    net: nn.Module = Untraceable() if kind == "untraceable" else Randomised()
    if kind == "smooth":
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    card = elbowroom.audit(
        Classifier(net),
        data.load("digits", "test", 8),
        tmp_path,
        methods={"preimage-descent": METHODS["preimage-descent"]},
        chunk=8,
    )
    words, page = str(card), (tmp_path / "report.html").read_text()
    checks = {check.check: check.passed for check in card.summary.trust}
    found = card.summary.invariance
    if kind == "randomised":
        assert found.nearer_rate == 0
        assert found.median_distance is None
        assert "logits of another image reached on 0% of the pairs" in words
        assert "doubtful: The model is deterministic" in words
        assert "no pair of samples was given the same logits" in page
    else:
        assert found.nearer_rate > 0.7
        assert found.max_feature_mse <= found.tolerance
        assert f"logits of another image reached within {found.median_distance:.3g} L2" in words
        assert checks["Stored examples have the logits of their samples"]
        assert '<article class="path">' in page
