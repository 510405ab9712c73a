from __future__ import annotations

import numpy as np
import pytest
from page_parser import Page
from plotly.offline import get_plotlyjs
from report_factory import make_exhibits, make_summary

from elbowroom.report import render
from elbowroom.report.figures import NONE, TIMES, count, number, percent

HOSTILE = """</script><script>alert(1)</script><img src=x onerror="alert('2')">&amp;{{ 71*73 }}"""


def page(**options: object) -> Page:
    exhibits = make_exhibits()
    return Page(render(make_summary(exhibits, **options), exhibits))  # type: ignore[arg-type]


def test_summary_table_agrees_with_the_summary() -> None:
    exhibits = make_exhibits()
    summary = make_summary(exhibits)
    shown = Page(render(summary, exhibits)).figures
    sensitivity, invariance = summary.sensitivity, summary.invariance
    assert invariance is not None
    assert shown == {
        "samples": count(summary.samples),
        "clean_accuracy": percent(summary.clean_accuracy),
        "sensitivity.median_attacked": number(sensitivity.median_attacked),
        "sensitivity.median_certified": number(sensitivity.median_certified),
        "invariance.pairs": count(invariance.pairs),
        "invariance.nearer_rate": percent(invariance.nearer_rate),
        "invariance.median_distance": number(invariance.median_distance),
        "invariance.median_distance_linf": number(invariance.median_distance_linf),
        "invariance.median_between_images": number(invariance.median_between_images),
        "invariance.max_feature_mse": number(invariance.max_feature_mse),
        "invariance.tolerance": number(invariance.tolerance),
    }


def test_every_table_and_fact_is_on_the_page() -> None:
    exhibits = make_exhibits()
    summary = make_summary(exhibits, failing=1)
    found = Page(render(summary, exhibits))
    expected = [summary.config, str(summary.seed), summary.elbowroom, summary.schema_]
    expected += [summary.model.fingerprint, summary.data.fingerprint, summary.data.source]
    expected += ["123,456 parameters", "float32", f"1 {TIMES} 12 {TIMES} 12"]
    for row in summary.classes:
        distances = [row.median_attacked, row.median_certified, row.median_invariance]
        figures = [count(row.samples), percent(row.clean_accuracy), *map(number, distances)]
        expected.append(" ".join([row.label, *figures]))
    for attack in summary.sensitivity.attacks:
        figures = [percent(attack.success_rate), number(attack.median), number(attack.mean)]
        expected.append(" ".join([attack.method, *figures, percent(attack.best_on)]))
    expected += [f"{method} {row.kind} 101 100 0 0.500 0.0321" for method, row in _cost(summary)]
    for check in summary.trust:
        word = "✓ passed" if check.passed else "✗ failed"
        expected.append(f"{word} {check.check} {check.detail}")
    for example in exhibits.sensitivity_examples:
        expected += [f"distance {number(example.distance)}", number(example.radius)]
    for inversion in summary.invariance.inversions:
        figures = [percent(inversion.nearer_rate), number(inversion.median_distance)]
        figures += [percent(inversion.best_on), number(inversion.max_feature_mse)]
        expected.append(" ".join([inversion.method, *figures]))
    for pair in exhibits.invariance_examples:
        expected += [f"moved by {number(pair.distance)}", number(pair.feature_mse)]
        for target, example in zip(pair.target_logits, pair.example_logits, strict=True):
            expected.append(f"{number(float(target))} {number(float(example))}")
    assert [text for text in expected if text not in found.text] == []


def _cost(summary: object) -> list[tuple[str, object]]:
    return list(summary.cost.items())  # type: ignore[attr-defined]


def test_the_page_is_well_formed_and_loads_nothing() -> None:
    found = page()
    assert found.unbalanced == []
    loads = [
        value
        for _, attributes in found.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert loads
    assert [value for value in loads if not str(value).startswith(("data:", "#"))] == []
    assert [attributes for attributes in found.all("script") if "src" in attributes] == []
    policy = next(a["content"] for a in found.all("meta") if "http-equiv" in a)
    assert str(policy).startswith("default-src 'none'")


def test_links_of_the_page_lead_somewhere() -> None:
    found = page(failing=1)
    places = {attributes.get("id") for _, attributes in found.tags}
    for attributes in found.all("a"):
        assert str(attributes["href"]).removeprefix("#") in places


def test_all_but_plotly_is_small() -> None:
    exhibits = make_exhibits()
    html = render(make_summary(exhibits), exhibits)
    assert html.count(get_plotlyjs()) == 1
    assert len(html) - len(get_plotlyjs()) < 150_000


def test_every_picture_has_a_text_and_a_size() -> None:
    pictures = page().all("img")
    assert len(pictures) == 18 + 2 * 4
    for attributes in pictures:
        assert attributes["alt"]
        assert (attributes["width"], attributes["height"]) == ("12", "12")


def test_failed_checks_warn_at_the_top() -> None:
    assert "trust checks failed" not in page().text
    found = page(failing=2)
    assert found.text.index("2 of 5 trust checks failed") < found.text.index("Of 120 samples")
    assert {"href": "#trust"} in found.all("a")


def test_hostile_names_stay_text() -> None:
    classes = [f"{k}{HOSTILE}" for k in range(3)]
    exhibits = make_exhibits(classes=classes)
    summary = make_summary(exhibits, classes=classes, norm=HOSTILE, config=HOSTILE, failing=5)
    method = summary.sensitivity.attacks[0].model_copy(update={"method": HOSTILE})
    summary = summary.model_copy(
        update={
            "model": summary.model.model_copy(update={"name": HOSTILE}),
            "data": summary.data.model_copy(update={"name": HOSTILE, "source": HOSTILE}),
            "sensitivity": summary.sensitivity.model_copy(update={"attacks": [method]}),
            "cost": {HOSTILE: summary.cost["DDN"]},
            "trust": [summary.trust[0].model_copy(update={"check": HOSTILE, "detail": HOSTILE})],
        }
    )
    found, harmless = Page(render(summary, exhibits)), page(failing=5)
    assert len(found.all("script")) == len(harmless.all("script"))
    assert len(found.all("img")) == len(harmless.all("img"))
    assert not [a for _, attributes in found.tags for a in attributes if a.startswith("on")]
    assert found.unbalanced == []
    # Everywhere as it was given, never interpreted.
    assert found.text.count(HOSTILE) >= 12
    assert str(71 * 73) not in found.text
    title = found.charts["chart-curve"]["layout"]["xaxis"]["title"]["text"]
    assert "<script" not in title
    assert "&lt;script" in title


@pytest.mark.parametrize(
    ("exhibits", "summary", "texts"),
    [
        ({"zeros": 117}, {"with_certificate": False}, ["No certificate was computed"]),
        ({}, {"with_invariance": False}, ["Invariance was not measured"]),
        ({"failed": 117, "examples": 0}, {}, ["no attack found", "117 of 117", "no example"]),
        ({"right": 0, "examples": 0}, {}, ["0%", "No sample is classified rightly"]),
        ({"zeros": 117}, {}, ["for at least half", "0 for 117 of 117"]),
        ({}, {"trust": [], "classes": [], "cost": {}}, ["was not checked"]),
        ({}, {"norm": "Linf"}, ["Linf, in the input's own units", "not comparable"]),
    ],
)
def test_what_is_missing_is_said(exhibits: dict, summary: dict, texts: list[str]) -> None:
    shown = make_exhibits(**exhibits)
    found = Page(render(make_summary(shown, **summary), shown))
    assert found.unbalanced == []
    for text in texts:
        assert text.lower() in found.text.lower()
    for word in ("nan", "None", "inf"):
        assert word not in found.text.replace(",", " ").split()


def test_a_class_without_samples_has_no_accuracy() -> None:
    exhibits = make_exhibits()
    summary = make_summary(exhibits)
    empty = summary.classes[0].model_copy(
        update={
            "samples": 0,
            "clean_accuracy": 0.0,
            "median_attacked": None,
            "median_certified": None,
            "median_invariance": None,
        }
    )
    found = Page(render(summary.model_copy(update={"classes": [empty]}), exhibits))
    assert " ".join(["A 0", *[NONE] * 4]) in found.text


def test_a_hundred_classes() -> None:
    classes = [f"class number {k} of a hundred with a rather long name" for k in range(100)]
    exhibits = make_exhibits(classes=classes)
    found = Page(render(make_summary(exhibits, classes=classes), exhibits))
    assert all(label in found.text for label in classes)
    assert "the largest 10 of 100 classes" in found.text


def test_features_instead_of_pictures() -> None:
    exhibits = make_exhibits(shape=(30,))
    found = Page(render(make_summary(exhibits, shape=(30,)), exhibits))
    assert found.all("img") == []
    assert "8 of 30 features, largest changes first" in found.text
    example = exhibits.sensitivity_examples[0]
    change = example.adversarial.astype(float) - example.original
    most = int(np.abs(change).argmax())
    values = [float(example.original[most]), float(example.adversarial[most]), change[most]]
    row = " ".join([str(most), *map(number, values)])
    assert f"change {row}" in found.text


@pytest.mark.parametrize("shape", [(2,), (1, 1, 5)])
def test_few_features_are_all_shown(shape: tuple[int, ...]) -> None:
    exhibits = make_exhibits(shape=shape)
    found = Page(render(make_summary(exhibits, shape=shape), exhibits))
    assert found.all("img") == []
    assert "Features, largest changes first" in found.text


@pytest.mark.parametrize(
    ("shape", "text"),
    [((3, 8, 6), "colour channel"), ((8, 6), "The change is blue"), ((5, 8, 6), "5 channels")],
)
def test_pictures_of_every_shape(shape: tuple[int, ...], text: str) -> None:
    exhibits = make_exhibits(shape=shape)
    found = Page(render(make_summary(exhibits, shape=shape), exhibits))
    assert {(a["width"], a["height"]) for a in found.all("img")} == {("6", "8")}
    assert text in found.text
