"""The figures of the LRA paper as pages; the numbers come from `lra` and `lra_curves`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from torch import Tensor

from elbowroom.norms import L2, Norm
from elbowroom.papers.lra import BoundaryImages, SharedRegions
from elbowroom.papers.lra_curves import Curves
from elbowroom.papers.page import About, Figure, Panel, Strip, frame, render
from elbowroom.report.charts import Chart
from elbowroom.report.figures import count, number, unit

COLOURS = 9
LOGARITHMIC_FROM = 4
ON_BOUNDARY = 1e-3  # a larger relative margin is visibly off it


def figure_5_page(
    rows: Sequence[BoundaryImages],
    about: About,
    *,
    norm: Norm = L2,
    scale: tuple[float, float] = (0.0, 1.0),
) -> str:
    """A strip for each sample, as in Fig. 5.

    scale: the values that are drawn black and white.
    """
    strips = []
    for row in rows:
        last = len(row.images) - 1
        frames = []
        for place, image in enumerate(row.images):
            decision, second = (about.label(int(index)) for index in row.classes[place])
            ends = place in (0, last)
            frames.append(
                frame(
                    image,
                    scale,
                    role=_role(place, last, row.regions),
                    label=decision if ends else f"{decision}/{second}",
                    lines=_lines(row, place, last),
                )
            )
        strips.append(Strip.of(f"Sample {row.sample}: {frames[-1].label}", frames))
    figure = Figure(
        name="LRA, Fig. 5",
        title="on the decision boundary, region by region",
        lede="Each row starts at a data point of another class and walks, from one linear region "
        "to the next, to the nearest image found that is not decided like the sample. All images "
        "between the first and the last lie on the decision boundary.",
        captions=[
            "0/8 means: on the boundary between the classes 0 and 8. d is the distance to the "
            f"sample ({unit(str(norm))}). Between the line search and the result stand the images "
            "that came nearer most."
        ],
        strips=strips,
    )
    return render(figure, about)


def _role(place: int, last: int, regions: Tensor) -> str:
    if place == last:
        return "sample"
    if place < 2:
        return ("data point", "line search")[place]
    return "result" if place == last - 1 else f"region {int(regions[place - 1])}"


def _lines(row: BoundaryImages, place: int, last: int) -> list[str]:
    if place == last:
        return []
    distance = f"d = {number(float(row.distances[place]))}"
    return [distance, f"region {int(row.regions[-1])}"] if place == last - 1 else [distance]


def figure_6_page(
    found: SharedRegions, about: About, *, scale: tuple[float, float] = (0.0, 1.0)
) -> str:
    """Pairs of images that share a linear region, as in Fig. 6; scale as for `figure_5_page`."""
    strips = []
    for row, sample in enumerate(found.samples.tolist()):
        other, label = (about.label(int(index)) for index in found.classes[row])
        images = (found.lines[row], found.nearest[row])
        frames = []
        for place, role in enumerate(("line search", "nearest")):
            decision = about.label(int(found.decisions[row, place]))
            near = float(found.margins[row, place]) <= ON_BOUNDARY
            text = f"{other}/{label}" if near else decision
            lines = [f"d = {number(float(found.distances[row, place]))}"]
            if near and decision not in (other, label):
                lines.append(f"decided as {decision}")
            frames.append(frame(images[place], scale, role=role, label=text, lines=lines))
        frames.append(frame(found.originals[row], scale, role="sample", label=label, lines=[]))
        notes = [
            f"The two images are {number(float(found.apart[row]))} apart and satisfy all "
            f"{count(int(found.constraints[row]))} constraints of their region, to within "
            f"{number(float(found.violations[row].max()))} of the largest."
        ]
        strips.append(Strip.of(f"Sample {sample}: {label}", frames, notes))
    figure = Figure(
        name="LRA, Fig. 6",
        title="how large linear regions are",
        lede="The first two images of a row lie in one linear region of the network: within it "
        "the network is an affine function. The first was found by a line search from a data "
        "point of another class; the second is the point of the region, across the same decision "
        "boundary, that is nearest to the sample.",
        captions=[f"d is the distance to the sample. Distances are {unit('L2')}."],
        strips=strips,
    )
    return render(figure, about)


def curves_page(curves: Curves, about: About, *, name: str) -> str:
    """Median, maximum and mean distance over regions, as in Fig. 1 to 4.

    name: such as "LRA, Fig. 1".
    """
    keys = _keys(curves)
    figure = Figure(
        name=name,
        title="progress of the attack over regions",
        lede=f"How near the best example is after each linear region that a walk visits, over "
        f"{count(len(curves.samples))} samples; each curve is one setting of the attack.",
        captions=[f"All curves begin at the same points. Distances are {unit(str(curves.norm))}."],
        panels=[
            Panel(f"chart-{title.lower()}", title, curves_chart(curves, values, keys))
            for title, values in (
                ("Median", curves.median),
                ("Maximum", curves.maximum),
                ("Mean", curves.mean),
            )
        ],
        legend=list(zip(keys, curves.names, strict=True)),
    )
    return render(figure, about)


def _keys(curves: Curves) -> list[str]:
    """A colour for each curve, from the first to the last; grey and dashed for uniform sampling."""
    ordered = [name for name in curves.names if "uniform" not in name]
    step = (COLOURS - 1) / max(len(ordered) - 1, 1)
    return [
        f"curve-{1 + round(step * ordered.index(name))}" if name in ordered else "muted"
        for name in curves.names
    ]


def curves_chart(curves: Curves, values: Tensor, keys: Sequence[str]) -> Chart:
    """A Plotly figure of one statistic `values` `(C, R + 1)`; `keys` name the colours."""
    regions = list(range(values.shape[1]))
    traces = [
        {
            "meta": key,
            "name": escape(name),
            "x": regions,
            "y": [float(value) for value in row],
            "mode": "lines",
            "line": {"width": 2, "dash": "dash" if key == "muted" else "solid"},
            "hovertemplate": "%{y:.3g}",
        }
        for key, name, row in zip(keys, curves.names, values.cpu(), strict=True)
    ]
    # A logarithmic axis shows late progress; over a narrow range a linear one reads better.
    low, high = float(values.min()), float(values.max())
    wide = low > 0 and high > LOGARITHMIC_FROM * low
    layout = {
        "xaxis": {"title": {"text": "regions visited"}, "range": [0, max(regions[-1], 1)]},
        "yaxis": {
            "title": {"text": f"distance ({curves.norm})"},
            **({"type": "log", "dtick": "D2"} if wide else {}),
        },
        "hovermode": "x unified",
        "showlegend": False,
    }
    return {"data": traces, "layout": layout}
