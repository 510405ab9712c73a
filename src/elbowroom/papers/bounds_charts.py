"""Charts of the Bounds thesis, as plain data for Plotly: boxplots and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

from elbowroom.report.charts import Chart

# Name -> values of x and y, None where there is no point.
Curves = Mapping[str, tuple[Sequence[float], Sequence[float | None]]]
MOST_OUTLIERS = 100
LOGARITHMIC_FROM = 100  # largest by smallest end of a whisker
# Colours of the bounds, in their order; `figure.css` has them.
KEYS = ("curve-1", "curve-5", "curve-8", "curve-9", "curve-3", "curve-6")


def box(values: Tensor) -> dict[str, Any] | None:
    """A box of Tukey's: quartiles, whiskers to the last value within 1.5 of their distance.

    values: `(N,)`; what is not finite is left out; None where nothing is left.
    """
    values = values[values.isfinite()].double().sort().values
    if not len(values):
        return None
    first, median, third = values.quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    reach = 1.5 * (third - first)
    inside = values[(values >= first - reach) & (values <= third + reach)]
    outside = values[(values < first - reach) | (values > third + reach)]
    if len(outside) > MOST_OUTLIERS:  # evenly spread over their ranks, the ends included
        outside = outside[torch.linspace(0, len(outside) - 1, MOST_OUTLIERS).round().long()]
    return {
        "q1": first,
        "median": median,
        "q3": third,
        "lowerfence": float(inside[0]),
        "upperfence": float(inside[-1]),
        "outliers": outside.tolist(),
    }


def boxes_chart(groups: Mapping[str, Sequence[Tensor]], names: Sequence[str], title: str) -> Chart:
    """Boxplots beside each other, on a logarithmic axis if they span decades.

    groups: name -> values `(N,)` for each of `names`, which are the places on the x axis.
    title: of the y axis. A box without any finite value is left out.
    """
    traces, ends = [], []
    for key, (group, columns) in zip(KEYS, groups.items(), strict=False):
        found = [(name, box(values)) for name, values in zip(names, columns, strict=True)]
        drawn = [(name, one) for name, one in found if one is not None]
        if not drawn:
            continue
        ends += [end for _, one in drawn for end in (one["lowerfence"], one["upperfence"])]
        fields = ("q1", "median", "q3", "lowerfence", "upperfence")
        traces.append(
            {
                "type": "box",
                "meta": key,
                "name": escape(group),
                "x": [escape(name) for name, _ in drawn],
                **{field: [one[field] for _, one in drawn] for field in fields},
                # Plotly draws nothing at all where a box has an empty list; a point at the
                # median is no outlier and stays hidden.
                "y": [one["outliers"] or [one["median"]] for _, one in drawn],
                "boxpoints": "outliers",
                "jitter": 0.3,
                "line": {"width": 1.5},
                "marker": {"size": 3},
            }
        )
    wide = bool(ends) and 0 < LOGARITHMIC_FROM * min(ends) < max(ends)
    layout = {
        "xaxis": {"type": "category"},
        "yaxis": {
            "title": {"text": escape(title)},
            "exponentformat": "power",
            **({"type": "log"} if wide else {}),
        },
        "boxmode": "group",
        "showlegend": False,
    }
    return {"data": traces, "layout": layout}


def lines_chart(
    curves: Curves,
    *,
    x: str,
    y: str,
    keys: Mapping[str, str],
    **y_axis: Any,
) -> Chart:
    """Curves through points.

    x, y: titles of the axes. keys: name -> colour; "muted" is dashed. y_axis: of the y axis.
    """
    traces = [
        {
            "meta": keys[name],
            "name": escape(name),
            "x": list(xs),
            "y": list(ys),
            "mode": "lines+markers",
            "line": {"width": 2, "dash": "dash" if keys[name] == "muted" else "solid"},
            "marker": {"size": 5},
            "hovertemplate": "%{y:.4g}",
        }
        for name, (xs, ys) in curves.items()
    ]
    whole = all(value == int(value) for xs, _ in curves.values() for value in xs)
    layout = {
        "xaxis": {"title": {"text": escape(x)}, **({"dtick": 1} if whole else {})},
        "yaxis": {"title": {"text": escape(y)}, "exponentformat": "power", **y_axis},
        "hovermode": "x unified",
        "showlegend": False,
    }
    return {"data": traces, "layout": layout}


def keys_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """(colour, name) of each bound, for a legend."""
    return list(zip(KEYS, names, strict=False))
