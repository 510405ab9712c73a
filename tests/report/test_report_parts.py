from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image
from report_factory import make_exhibits, make_summary

from elbowroom.audit.summary import CurvePoint
from elbowroom.report.charts import MOST_POINTS, charts, distances, robust_accuracy
from elbowroom.report.figures import MINUS, NONE, TIMES, number, percent
from elbowroom.report.pictures import ABOVE, BELOW, Picture, difference, picture


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, NONE),
        (0.0, "0"),
        (0.5, "0.500"),
        (1.0, "1.00"),
        (0.999949, "1.00"),
        (12.345, "12.3"),
        (999.6, "1,000"),
        (123456, "123,000"),
        (1234567, f"1.23 {TIMES} 10⁶"),
        (0.000123456, "0.000123"),
        (0.0000123456, f"1.23 {TIMES} 10⁻⁵"),
        (-0.25, f"{MINUS}0.250"),
        (float("inf"), "∞"),
        (float("nan"), NONE),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (None, NONE),
        (0.0, "0%"),
        (1.0, "100%"),
        (0.99999, ">99.9%"),
        (0.00001, "<0.01%"),
        (0.975, "97.5%"),
        (0.0567, "5.67%"),
    ],
)
def test_percent_never_rounds_to_all_or_nothing(share: float | None, text: str) -> None:
    assert percent(share) == text


def pixels(shown: Picture) -> np.ndarray:
    raw = base64.b64decode(shown.uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(raw)))


def test_grey_scale_runs_over_the_bounds() -> None:
    sample = np.array([[[-1.0, 0.0, 1.0], [2.0, -3.0, 0.5]]], dtype=np.float32)
    shown = pixels(picture(sample, (-1.0, 1.0), "", ""))
    assert shown.tolist() == [[0, 128, 255], [255, 0, 191]]


def test_colour_keeps_its_channels() -> None:
    sample = np.zeros((3, 2, 2), np.float32)
    sample[1] = 1.0
    assert (pixels(picture(sample, (0.0, 1.0), "", "")) == [0, 255, 0]).all()


def test_difference_is_white_at_zero_and_full_at_the_largest_change() -> None:
    before = np.zeros((1, 1, 3), np.float32)
    after = np.array([[[-0.25, 0.0, 0.25]]], dtype=np.float32)
    shown = difference(before, after, "")
    assert pixels(shown)[0].tolist() == [BELOW.tolist(), [255, 255, 255], ABOVE.tolist()]
    assert shown.caption == "change, ±0.250"
    assert difference(before, before, "").caption == "no change"


def test_robust_accuracy_is_bounded_between_the_points_too() -> None:
    exhibits = make_exhibits()
    summary = make_summary(exhibits)
    curve = [
        CurvePoint(eps=0.0, certified=0.9, attacked=0.9),
        CurvePoint(eps=1.0, certified=0.2, attacked=0.6),
    ]
    update = {"sensitivity": summary.sensitivity.model_copy(update={"curve": curve})}
    certified, attacked = robust_accuracy(summary.model_copy(update=update))["data"]
    # Down to the value at the right end at once; at the value of the left end until there.
    assert (certified["line"]["shape"], certified["y"]) == ("vh", [0.9, 0.2])
    assert (attacked["line"]["shape"], attacked["y"]) == ("hv", [0.9, 0.6])
    assert attacked["fill"] == "tonexty"


def test_distances_show_zeros_and_failures() -> None:
    exhibits = make_exhibits(right=100, failed=12, zeros=7)
    traces = {trace["meta"]: trace for trace in distances(make_summary(exhibits), exhibits)["data"]}
    assert traces["certified"]["y"][0] == 0.07
    assert traces["certified"]["y"][-1] == 1.0
    assert traces["attacked"]["y"][0] == 0.0
    assert traces["attacked"]["y"][-1] == 0.88
    assert traces["invariance"]["y"][-1] == 0.97
    for trace in traces.values():
        assert np.isfinite(trace["x"]).all()
        assert min(trace["x"]) > 0
        assert (np.diff(trace["x"]) >= 0).all()
        assert (np.diff(trace["y"]) >= 0).all()


def test_many_samples_are_thinned_on_the_true_curve() -> None:
    exhibits = make_exhibits(right=5000, failed=0, zeros=0)
    trace = distances(make_summary(exhibits, samples=5000), exhibits)["data"][1]
    assert len(trace["x"]) <= MOST_POINTS + 2
    for x, y in zip(trace["x"][1:-1], trace["y"][1:-1], strict=True):
        assert (exhibits.attacked <= x).mean() == pytest.approx(y)


def test_charts_without_points_are_left_out() -> None:
    exhibits = make_exhibits(right=0, examples=0)
    assert charts(make_summary(exhibits), exhibits) == {}
