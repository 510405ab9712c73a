"""The two charts, as plain data for Plotly.

`meta` names the colour of a trace: the page's style sheet defines it for light and dark. The only
text from outside is the name of the norm; Plotly reads markup in labels, so it is escaped.
"""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elbowroom.audit.gallery import Exhibits
from elbowroom.audit.summary import Summary
from elbowroom.report.figures import count, unit

Chart = dict[str, Any]
MOST_POINTS = 300


def charts(summary: Summary, exhibits: Exhibits) -> dict[str, Chart]:
    """Chart by the id of its place on the page; a chart without points is left out."""
    drawn = {
        "chart-curve": robust_accuracy(summary),
        "chart-distances": distances(summary, exhibits),
    }
    return {name: chart for name, chart in drawn.items() if chart["data"]}


def robust_accuracy(summary: Summary) -> Chart:
    """Robust accuracy over eps: certified below, attacked above, filled between.

    Between two points of the curve the bounds still hold: both fall with eps, so the lower one is
    drawn at its value at the right end (`vh`), the upper one at its value at the left (`hv`).
    """
    curve = summary.sensitivity.curve
    eps = [point.eps for point in curve]
    if not eps:
        return {"data": [], "layout": {}}
    certified = {
        "meta": "certified",
        "name": "guaranteed (certified)",
        "x": eps,
        "y": [point.certified for point in curve],
        "mode": "lines",
        "line": {"shape": "vh", "width": 2},
        "hovertemplate": "at least %{y:.1%}<extra></extra>",
    }
    attacked = {
        "meta": "attacked",
        "name": "left by the attacks",
        "x": eps,
        "y": [point.attacked for point in curve],
        "mode": "lines",
        "line": {"shape": "hv", "width": 2},
        "fill": "tonexty",
        "hovertemplate": "at most %{y:.1%}<extra></extra>",
    }
    norm = escape(unit(summary.sensitivity.norm))
    layout = {
        "xaxis": {
            "title": {"text": f"eps, the largest move<br>{norm}"},
            "range": [0, max(eps) or 1],
            "hoverformat": ".3g",
        },
        "yaxis": {"title": {"text": "robust accuracy"}, "range": [0, 1.02], "tickformat": ".0%"},
        "hovermode": "x unified",
    }
    return {"data": [certified, attacked], "layout": layout}


def distances(summary: Summary, exhibits: Exhibits) -> Chart:
    """Share of samples at or below a distance, on a logarithmic axis that shows all scales.

    Zeros lie left of any logarithmic axis: a curve with zeros starts above 0 %. Failures lie
    right of it: a curve with failures ends below 100 %.
    """
    pairs = summary.invariance.pairs if summary.invariance else 0
    groups = [
        ("certified", "guaranteed radius", exhibits.certified, len(exhibits.certified), "solid"),
        ("attacked", "nearest example found", exhibits.attacked, len(exhibits.attacked), "dash"),
        ("invariance", "same logits (L2)", exhibits.invariance, pairs, "dot"),
    ]
    shown = np.concatenate([_positive(values) for _, _, values, _, _ in groups])
    if shown.size == 0:
        return {"data": [], "layout": {}}
    low, high = float(shown.min()) / 1.5, float(shown.max()) * 1.5
    traces = []
    for key, name, values, total, dash in groups:
        if _positive(values).size == 0:
            continue
        x, y = _cumulative(values, max(total, len(values)), low, high)
        traces.append(
            {
                "meta": key,
                "name": name,
                "x": x,
                "y": y,
                "mode": "lines",
                "line": {"shape": "hv", "width": 2.5, "dash": dash},
                "hovertemplate": "%{y:.1%} within %{x:.3g}<extra>" + name + "</extra>",
            }
        )
    norm = escape(unit(summary.sensitivity.norm))
    ends = [float(np.log10(low)), float(np.log10(high))]
    layout = {
        "xaxis": {
            "title": {"text": f"distance<br>{norm}"},
            "type": "log",
            "range": ends,
            # Over many decades, label the powers of ten alone.
            **({"dtick": 1} if ends[1] - ends[0] > 2 else {}),
            "tickformat": "~g",
        },
        "yaxis": {
            "title": {"text": "share at or below"},
            "range": [0, 1.02],
            "tickformat": ".0%",
        },
        "shapes": [
            {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0.5, "y1": 0.5}
            | {"line": {"width": 1, "dash": "dot"}}
        ],
    }
    return {"data": traces, "layout": layout}


def distance_notes(summary: Summary, exhibits: Exhibits) -> list[str]:
    """What the logarithmic axis cannot show: zeros and failures."""
    notes = []
    total = len(exhibits.attacked)
    if failed := int(np.isinf(exhibits.attacked).sum()):
        notes.append(
            f"No attack succeeded on {count(failed)} of {count(total)} samples: "
            "that curve ends below 100%."
        )
    zeros = int((exhibits.certified == 0).sum())
    if zeros and summary.sensitivity.median_certified is not None:
        notes.append(
            f"The certified radius is 0 for {count(zeros)} of {count(len(exhibits.certified))} "
            "samples: that curve starts above 0%."
        )
    if summary.invariance:
        missing = summary.invariance.pairs - len(exhibits.invariance)
        if missing > 0:
            notes.append(
                f"For {count(missing)} of {count(summary.invariance.pairs)} pairs no nearer input "
                "with the same logits was found: that curve ends below 100%."
            )
        if summary.sensitivity.norm != "L2":
            notes.append("Invariance distances are L2 on the same axis, not comparable in size.")
    return notes


def _positive(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[np.isfinite(values) & (values > 0)]


def _cumulative(
    values: NDArray[np.float64], total: int, low: float, high: float
) -> tuple[list[float], list[float]]:
    """The empirical distribution function over `total` samples, from `low` to `high`."""
    inside = np.sort(_positive(values))
    zeros = int((values <= 0).sum())
    ranks = np.arange(len(inside))
    if len(ranks) > MOST_POINTS:
        ranks = np.unique(np.linspace(0, len(inside) - 1, MOST_POINTS).round().astype(int))
    shares = (zeros + ranks + 1) / total
    x = [low, *inside[ranks].tolist(), high]
    y = [zeros / total, *shares.tolist(), float(shares[-1])]
    return x, y
