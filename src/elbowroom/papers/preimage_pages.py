"""A page of exact preimages, as in Fig. 3.3 and 3.4; the sets come from `preimages`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs
from torch import Tensor

from elbowroom.papers.page import About, Panel
from elbowroom.papers.preimages import NetworkSets, window
from elbowroom.regions import Polyhedron, PolyhedronUnion
from elbowroom.report.charts import Chart
from elbowroom.report.page import environment

HUES = 4
SHADES = 3
SYMBOLS = ("circle", "diamond", "square", "cross")


def preimage_page(
    networks: Sequence[NetworkSets],
    x: Tensor,
    y: Tensor,
    about: About,
    *,
    names: Sequence[str],
    view: Polyhedron | None = None,
) -> str:
    """Polytopes in output space on the left, their preimages in input space on the right.

    x, y:  the samples `(N, 2)` and their labels, drawn over the sets.
    names: of the targets. view: what is drawn of the input plane; the samples and a margin.

    The output space is drawn for networks of two outputs. Pieces have different shades of the
    colour of their target; pieces without area are counted and not drawn.
    """
    view = view or window(x)
    panels, rows = [], []
    for place, network in enumerate(networks):
        if network.logits.shape[1] == 2:
            seen = window(network.logits)
            polytopes = [PolyhedronUnion.of(target).clip(seen) for target in network.targets]
            chart = _chart(polytopes, network.logits, y, seen, ("first logit", "second logit"))
            panels.append(Panel(f"outputs-{place}", f"{network.name}: outputs", chart))
        clipped = [found.clip(view) for found in network.preimages]
        chart = _chart(clipped, x, y, view, ("first input", "second input"))
        panels.append(Panel(f"inputs-{place}", f"{network.name}: inputs", chart))
        shares = [found.volume() / view.volume for found in clipped]
        rows += [
            (network, name, len(found.solid), len(found.flat), share)
            for name, found, share in zip(names, network.preimages, shares, strict=True)
        ]
    return (
        environment("elbowroom.papers")
        .get_template("preimages.html")
        .render(
            about=about,
            panels=panels,
            rows=rows,
            legend=[(k % HUES, name) for k, name in enumerate(names)],
            points=[(k % HUES, about.label(k)) for k in sorted(set(y.tolist()))],
            two_outputs=any(network.logits.shape[1] == 2 for network in networks),
            charts={panel.id: panel.chart for panel in panels},
            plotly=Markup(get_plotlyjs()),
        )
    )


def _chart(
    sets: Sequence[PolyhedronUnion],
    points: Tensor,
    y: Tensor,
    view: Polyhedron,
    titles: tuple[str, str],
) -> Chart:
    """A Plotly figure of polygons, one trace for each shade, and the points of each class.

    view: the box that is drawn; titles: of its two axes.
    """
    traces: list[dict[str, Any]] = []
    for k, found in enumerate(sets):
        polygons = found.vertices()
        for shade in range(SHADES):
            xs: list[float | None] = []
            ys: list[float | None] = []
            for polygon in polygons[shade::SHADES]:
                # A gap, so that the next polygon stands alone.
                xs += [*polygon[:, 0].tolist(), float(polygon[0, 0]), None]
                ys += [*polygon[:, 1].tolist(), float(polygon[0, 1]), None]
            if xs:
                traces.append(
                    {
                        "meta": [f"set-{k % HUES}", f"set-{k % HUES}-{shade}"],
                        "x": xs,
                        "y": ys,
                        "mode": "lines",
                        "line": {"width": 1},
                        "fill": "toself",
                        "hoverinfo": "skip",
                    }
                )
    for label in sorted(set(y.tolist())):
        mine = points[y == label].double().cpu()
        traces.append(
            {
                "meta": f"point-{label % HUES}",
                "x": mine[:, 0].tolist(),
                "y": mine[:, 1].tolist(),
                "mode": "markers",
                "marker": {"size": 5, "symbol": SYMBOLS[label % len(SYMBOLS)]},
                "hoverinfo": "skip",
            }
        )
    corners = view.vertices
    axes = {
        name: {"title": {"text": text}, "range": [float(ends.min()), float(ends.max())]}
        for name, text, ends in zip(("xaxis", "yaxis"), titles, corners.T, strict=True)
    }
    return {"data": traces, "layout": {**axes, "showlegend": False}}
