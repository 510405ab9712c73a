"""The plot of the benchmark of attacks: how near they get against how long they take."""

from __future__ import annotations

import importlib.util
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from bench_report import Result, is_ours
from bench_tables import Point, mean_found

HIGHEST = 2.0
"""A panel ends at this multiple of the best mean."""
RED, GREY = "#c0392b", "#555555"


@dataclass(frozen=True)
class Panel:
    """One model. Points are in the order of time; `ours` are joined by a line.

    elsewhere: what is known of the attacks that are not drawn, because they lie too high, or
    failed on some samples, so that their means are over other samples than the rest.
    """

    title: str
    ours: list[Point]
    others: list[Point]
    y_range: tuple[float, float]
    elsewhere: str

    @property
    def x_range(self) -> tuple[float, float]:
        """Wide enough for the labels of the outermost points."""
        seconds = [point.seconds for point in [*self.ours, *self.others]] or [1.0]
        return min(seconds) / 2, 2 * max(seconds)


def panel(result: Result) -> Panel:
    best = mean_found(result.best)
    points = sorted((row.point for row in result.rows), key=lambda point: point.seconds)
    drawn = [point for point in points if point.mean <= HIGHEST * best]
    high = [
        f"{point.name} {point.mean:.2f} in {point.seconds:.3f} s"
        for point in points
        if HIGHEST * best < point.mean < np.inf
    ]
    failed = [
        f"{row.name} ({np.isfinite(row.distance).mean():.0%} found)"
        for row in result.rows
        if not np.isfinite(row.distance).all()
    ]
    notes = [f"Above: {', '.join(high)}."] * bool(high)
    notes += [f"Failed on some: {', '.join(failed)}."] * bool(failed)
    return Panel(
        title=f"{result.model}, {len(result.best)} images",
        ours=[point for point in drawn if is_ours(point.name)],
        others=[point for point in drawn if not is_ours(point.name)],
        y_range=(0.9 * best, 1.03 * HIGHEST * best),  # room for labels below the best
        elsewhere=" ".join(notes),
    )


def x_title(shown: Panel, newline: str) -> str:
    return newline.join(["CPU seconds per sample", *textwrap.wrap(shown.elsewhere, 130)])


def plot(results: list[Result], out: Path) -> None:
    """Writes `plot.html`, and `plot.png` where matplotlib is installed."""
    panels = [panel(result) for result in results]
    _interactive(panels).write_html(out / "plot.html", include_plotlyjs=True)
    print(f"wrote {out / 'plot.html'}")
    if importlib.util.find_spec("matplotlib"):
        _still(panels, out / "plot.png")
        print(f"wrote {out / 'plot.png'}")


def _interactive(panels: list[Panel]) -> go.Figure:
    """One panel below the other, as wide as the window."""
    figure = make_subplots(rows=len(panels), subplot_titles=[shown.title for shown in panels])
    for i, shown in enumerate(panels):
        place = {"row": i + 1, "col": 1}
        for points, mode, color in (
            (shown.others, "markers+text", GREY),
            (shown.ours, "lines+markers+text", RED),
        ):
            figure.add_scatter(
                x=[point.seconds for point in points],
                y=[point.mean for point in points],
                text=[point.name for point in points],
                mode=mode,
                marker={"color": color, "size": 8},
                # Neighbours in time have their labels on opposite sides.
                textposition=["top center", "bottom center"] * len(points),
                textfont={"color": color, "size": 10},
                hovertemplate="%{text}<br>%{y:.4f} in %{x:.4f} s<extra></extra>",
                showlegend=False,
                **place,
            )
        title = {"text": x_title(shown, "<br>"), "font": {"size": 11}}
        exponents = [math.log10(bound) for bound in shown.x_range]
        figure.update_xaxes(type="log", range=exponents, title=title, **place)
        figure.update_yaxes(range=shown.y_range, title="mean L2 norm", **place)
    return figure.update_layout(height=650 * len(panels), template="plotly_white")


def _still(panels: list[Panel], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure, grid = pyplot.subplots(
        lines, columns, figsize=(9 * columns, 6 * lines), squeeze=False, layout="constrained"
    )
    for axes, shown in zip(grid.flat, panels, strict=False):
        for points, style, color in ((shown.others, "o", GREY), (shown.ours, "o-", RED)):
            axes.plot([p.seconds for p in points], [p.mean for p in points], style, color=color)
            for point in points:
                axes.annotate(point.name, (point.seconds, point.mean), fontsize=7, color=color)
        axes.set(xscale="log", xlim=shown.x_range, ylim=shown.y_range, title=shown.title)
        axes.set(ylabel="mean L2 norm")
        axes.set_xlabel(x_title(shown, "\n"), fontsize=7)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=120)
