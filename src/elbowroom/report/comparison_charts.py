"""The charts of a comparison, as plain data for Plotly: `charts` has the conventions."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from elbowroom.audit.comparison import Comparison, Difference, Ranking
from elbowroom.report.charts import Chart
from elbowroom.report.comparison_words import interval
from elbowroom.report.figures import MINUS, number, unit

HUES = 6  # the style sheet's
DASHES = ("solid", "dash", "dot", "dashdot")  # colour is not all that tells curves apart
LONGEST = 16  # letters of a name beside an axis


def charts(found: Comparison) -> dict[str, Chart]:
    """Chart by the id of its place on the page; a chart without points is left out."""
    norm = str(found.norm)
    drawn = {
        "chart-curves": _curves(found),
        "chart-certified": _differences(found.certified, norm, "certified"),
        "chart-attacked": _differences(found.attacked, norm, "attacked"),
    }
    return {name: chart for name, chart in drawn.items() if chart["data"]}


def _curves(found: Comparison) -> Chart:
    """A band for each classifier. Its edges are drawn as in `charts.robust_accuracy`."""
    traces: list[dict[str, Any]] = []
    eps = found.eps.tolist()
    for place, (name, curves) in enumerate(found.curves.items()):
        hue, shown = f"model-{place % HUES + 1}", escape(name)
        dash = DASHES[place % len(DASHES)]
        sides = (("at least", "vh", 1.5, None), ("at most", "hv", 2.5, "tonexty"))
        for values, (word, shape, width, fill) in zip(curves, sides, strict=True):
            traces.append(
                {
                    "meta": [hue, f"{hue}-band"],
                    "name": shown,
                    "legendgroup": str(place),
                    "showlegend": fill is not None,
                    "x": eps,
                    "y": values.tolist(),
                    "mode": "lines",
                    "line": {"shape": shape, "width": width, "dash": dash},
                    **({"fill": fill} if fill else {}),
                    "hovertemplate": f"{word} %{{y:.1%}}<extra>{shown}</extra>",
                }
            )
    layout = {
        "xaxis": {
            "title": {"text": f"eps, the largest move<br>{unit(str(found.norm))}"},
            "range": [0, eps[-1] or 1],
            "hoverformat": ".3g",
        },
        "yaxis": {"title": {"text": "robust accuracy"}, "range": [0, 1.02], "tickformat": ".0%"},
        "hovermode": "x unified",
    }
    return {"data": traces, "layout": layout}


def _differences(ranking: Ranking | None, norm: str, hue: str) -> Chart:
    """A dot and an interval for every two classifiers; zero is marked."""
    bounded = [d for d in ranking.differences if np.isfinite(d.high)] if ranking else []
    if not bounded:
        return {"data": [], "layout": {}}
    shown = bounded[::-1]  # the first on top
    trace = {
        "meta": hue,
        "x": [each.mean for each in shown],
        "y": list(range(len(shown))),
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [each.high - each.mean for each in shown],
            "arrayminus": [each.mean - each.low for each in shown],
            "thickness": 2.5,
            "width": 6,
        },
        "mode": "markers",
        "marker": {
            "size": 11,
            "symbol": ["circle" if each.separated else "circle-open" for each in shown],
        },
        "text": [
            f"{escape(d.first)} {MINUS} {escape(d.second)}: {number(d.mean)} "
            f"{interval(d.low, d.high)}"
            for d in shown
        ],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip
    layout = {
        "xaxis": {"title": {"text": f"difference<br>of means, {norm}"}, "tickformat": "~g",
                  "nticks": 6, "range": _around(shown)},
        "yaxis": {
            "tickvals": trace["y"],
            "ticktext": [f"{_short(d.first)}<br>{MINUS} {_short(d.second)}" for d in shown],
            "range": [-0.6, len(shown) - 0.4],
        },
        "shapes": [
            {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "x0": 0, "x1": 0}
            | {"line": {"width": 1, "dash": "dot"}}
        ],
    }  # fmt: skip
    return {"data": [trace], "layout": layout}


def _around(shown: list[Difference]) -> list[float]:
    """All intervals and zero, with a margin."""
    ends = [0.0, *(d.low for d in shown), *(d.high for d in shown)]
    low, high = min(ends), max(ends)
    margin = 0.06 * (high - low) or 1.0
    return [low - margin, high + margin]


def _short(name: str) -> str:
    """With its end, where names often differ."""
    half = LONGEST // 2
    return escape(name if len(name) <= LONGEST else f"{name[: half - 1]}…{name[-half:]}")
