"""Invariance on the page: the matrix of classes, the paths, the logits side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from page_parser import Page
from report_factory import make_exhibits, make_summary

from elbowroom.report import render
from elbowroom.report.classes import MOST_CLASSES, matrix
from elbowroom.report.figures import NONE, number
from elbowroom.report.paths import path_views


def test_the_matrix_has_every_pair_in_its_place() -> None:
    summary = make_summary(make_exhibits())
    shown = matrix(summary)
    assert shown is not None
    assert shown.classes == summary.data.classes
    assert shown.omitted == 0
    pairs = {(pair.logits, pair.image): pair for pair in summary.invariance.by_class}
    for logits, cells in shown.rows:
        for image, cell in zip(shown.classes, cells, strict=True):
            assert (None if cell is None else cell.pair) == pairs.get((logits, image))


def test_the_colour_is_the_stronger_the_smaller_the_distance() -> None:
    shown = matrix(make_summary(make_exhibits()))
    assert shown is not None
    cells = [cell for _, row in shown.rows for cell in row if cell]
    known = sorted(
        (cell.pair.median_distance, -cell.heat)
        for cell in cells
        if cell.pair.median_distance is not None
    )
    heats = [-heat for _, heat in known]
    assert heats == sorted(heats, reverse=True)
    assert heats[0] > heats[-1] > 0
    assert [cell.heat for cell in cells if cell.pair.median_distance is None] == [0]


def test_the_table_of_the_matrix_is_read_out_whole() -> None:
    exhibits = make_exhibits()
    summary = make_summary(exhibits)
    found = Page(render(summary, exhibits))
    rows: dict[str, list[str]] = {label: ["logits of", label] for label in summary.data.classes}
    for pair in summary.invariance.by_class:
        word = "pair" if pair.pairs == 1 else "pairs"
        rows[pair.logits].append(f"{number(pair.median_distance)} {pair.pairs} {word}")
    for row in rows.values():
        assert " ".join(row) in found.text
    assert f"{NONE} 2 pairs" in found.text
    heads = " ".join(f"image of {label}" for label in summary.data.classes)
    assert f"{heads} logits of A" in found.text


def test_of_many_classes_those_with_the_most_pairs_are_shown() -> None:
    classes = [f"class {k}" for k in range(100)]
    exhibits = make_exhibits(classes=classes)
    summary = make_summary(exhibits, classes=classes)
    shown = matrix(summary)
    assert shown is not None
    count = dict.fromkeys(classes, 0)
    for pair in summary.invariance.by_class:
        count[pair.logits] += pair.pairs
        count[pair.image] += pair.pairs
    least = min(count[label] for label in shown.classes)
    assert len(shown.classes) == MOST_CLASSES
    assert shown.omitted == 80
    assert all(count[label] <= least for label in classes if label not in shown.classes)
    text = Page(render(summary, exhibits)).text
    assert "The 20 classes with the most pairs are shown" in text


def test_summaries_without_pairs_by_class_have_no_matrix() -> None:
    exhibits = replace(make_exhibits(), paths=[])
    summary = make_summary(exhibits)
    older = summary.invariance.model_copy(update={"by_class": [], "inversions": []})
    for found in (older, None):
        page = Page(render(summary.model_copy(update={"invariance": found}), exhibits))
        assert page.unbalanced == []
        assert "By class of the logits" not in page.text
        assert "By inversion" not in page.text
        assert "the logits unchanged" not in page.text


def test_one_inversion_needs_no_table_of_its_own() -> None:
    exhibits = make_exhibits()
    summary = make_summary(exhibits)
    one = summary.invariance.model_copy(update={"inversions": summary.invariance.inversions[:1]})
    assert "By inversion" in Page(render(summary, exhibits)).text
    text = Page(render(summary.model_copy(update={"invariance": one}), exhibits)).text
    assert "By inversion" not in text


def test_every_point_of_a_path_has_its_figures_below_it() -> None:
    exhibits = make_exhibits()
    found = Page(render(make_summary(exhibits), exhibits))
    for path in exhibits.paths:
        points = zip(path.distance, path.decisions, path.feature_mse, strict=True)
        text = [f"{number(d)} away decided as {label} MSE {number(e)}" for d, label, e in points]
        assert " ".join(text) in found.text
        assert f"{path.label} towards {path.toward_label} sample {path.index}" in found.text
        texts = [str(picture["alt"]) for picture in found.all("img")]
        assert f"sample {path.index}: {path.label}" in texts
        assert f"point 4 of 4: has the logits of sample {path.index}" in texts


@pytest.mark.parametrize(
    ("nearest", "words"),
    [
        (2.0, "ends 3.00 away from the other sample, farther than the example above"),
        (4.0, "ends 3.00 away from the other sample, nearer than the example above"),
        (3.001, "ends 3.00 away from the other sample, as far as the example above"),
    ],
)
def test_where_a_path_ends_is_said_beside_the_example(nearest: float, words: str) -> None:
    exhibits = make_exhibits(paths=1)
    distance = np.array([6.0, 5.0, 4.0, 3.0])
    exhibits = replace(
        exhibits, paths=[replace(exhibits.paths[0], distance=distance, nearest=nearest)]
    )
    text = Page(render(make_summary(exhibits), exhibits)).text
    assert words in text
    assert (f"found {number(nearest)} away" in text) == ("as far as" not in words)


def test_paths_of_features_are_tables() -> None:
    exhibits = make_exhibits(shape=(30,))
    found = Page(render(make_summary(exhibits, shape=(30,)), exhibits))
    assert found.all("img") == []
    assert found.unbalanced == []
    path, view = exhibits.paths[0], path_views(exhibits)[0]
    assert view.features is not None
    assert view.features.headings == [f"at {number(d)}" for d in path.distance]
    most = int(np.abs(path.points[-1].astype(float) - path.points[0]).argmax())
    row = [str(most), *(number(float(point[most])) for point in path.points)]
    assert " ".join(row) in found.text


def test_logits_stand_side_by_side_with_their_error() -> None:
    exhibits = make_exhibits()
    found = Page(render(make_summary(exhibits), exhibits))
    pair = exhibits.invariance_examples[0]
    first = f"A {number(float(pair.target_logits[0]))} {number(float(pair.example_logits[0]))}"
    error = number(pair.feature_mse)
    assert f"Logits: feature MSE {error} class wanted reached {first}" in found.text


def test_the_answer_says_how_exactly_the_logits_agree() -> None:
    exhibits = make_exhibits()
    summary = make_summary(exhibits)
    largest = number(summary.invariance.max_feature_mse)
    text = Page(render(summary, exhibits)).text
    assert f"agree up to a mean squared difference of {largest} at most" in text
