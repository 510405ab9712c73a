"""Paths of images with the same features as a page, as in Fig. 4.31 to 4.33 of the Invariance
thesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.invariance import PathCheck
from elbowroom.papers.page import About, Figure, Panel, Strip, frame, render
from elbowroom.report.charts import Chart
from elbowroom.report.figures import number, percent

COLOURS = 9
STAYS = (
    "The path stays where it is: no step was found that gets nearer. More and shorter steps "
    "(path_steps) may."
)


@dataclass(frozen=True)
class Leg:
    """A path to one image.

    path:    `(P, *shape)`: points with the features of the first image of all.
    toward:  `(*shape)`. name: of it, in words.
    check:   of the points of `path`.
    between: `(P - 1,)`: the largest feature MSE between neighbours; None if it was not checked.
    apart:   that of `toward`.
    """

    path: Tensor
    toward: Tensor
    name: str
    check: PathCheck
    between: Tensor | None
    apart: float

    @property
    def length(self) -> float:
        """L2, along the points."""
        return float(self.check.arc_length[-1, 0])

    @property
    def distance(self) -> Tensor:
        """`(P,)`, L2, of the points to `toward`."""
        assert self.check.distance is not None
        return self.check.distance[:, 0]


def path_page(
    legs: Sequence[Leg],
    about: About,
    *,
    start: str,
    features: str,
    images: int = 9,
    scale: tuple[float, float] = (0.0, 1.0),
) -> str:
    """A strip of images for each leg, and curves over the length of the path.

    start: the name of the first image. features: what stays the same, in words. images: how many
    of each leg, at places on it as equally far apart as its points allow. scale: the values drawn
    black and white.
    """
    step = (COLOURS - 1) / max(len(legs) - 1, 1)
    keys = [f"curve-{1 + round(step * place)}" for place in range(len(legs))]
    figure = Figure(
        name="Path",
        title=f"{features} stay the same",
        lede=f"All {sum(len(leg.path) for leg in legs)} points of the path have {features} of "
        f"{start}: to the network they are one and the same. {_between_text(legs)}",
        captions=[
            "Distances are L2, in the input's own units: s along the path, d to the image that it "
            f"leads towards. The feature MSE is the mean squared difference between {features} "
            f"and those of {start}.",
        ],
        strips=[_strip(leg, about, images, scale) for leg in legs],
        panels=_panels(legs, keys),
        legend=[(key, f"towards {leg.name}") for key, leg in zip(keys, legs, strict=True)],
        over="the length of the path",
        last="At the end of each part",
    )
    return render(figure, about)


def _between_text(legs: Sequence[Leg]) -> str:
    """What the lines between the points are like: these are no points of the path."""
    checked = [leg.between for leg in legs if leg.between is not None]
    if len(checked) < len(legs):
        return "What lies between the points was not checked."
    worst = max((float(part.max()) for part in checked if len(part)), default=0.0)
    return (
        "On the straight lines between the points they change by a feature MSE of up to "
        f"{number(worst)}, where that was checked."
    )


def equally_spaced(arc_length: Tensor, count: int) -> list[int]:
    """Of points at `arc_length` `(P,)` the nearest to `count` equal distances; none twice."""
    wanted = torch.linspace(0, 1, count, dtype=arc_length.dtype) * arc_length[-1].cpu()
    nearest = (wanted[:, None] - arc_length.cpu()).abs().argmin(dim=1)
    return list(dict.fromkeys(nearest.tolist()))


def _strip(leg: Leg, about: About, images: int, scale: tuple[float, float]) -> Strip:
    check = leg.check
    frames = [
        frame(
            leg.path[row],
            scale,
            role=f"s = {number(float(check.arc_length[row, 0]))}",
            label=about.label(int(check.decision[row, 0])),
            lines=[
                f"confidence {percent(float(check.confidence[row, 0]))}",
                f"d = {number(float(leg.distance[row]))}",
                f"MSE {number(float(check.feature_mse[row, 0]))}",
            ],
        )
        for row in equally_spaced(check.arc_length[:, 0], images)
    ]
    frames.append(frame(leg.toward, scale, role="towards", label=leg.name, lines=[]))
    notes = [f"The features of {leg.name} itself have a feature MSE of {number(leg.apart)}."]
    if not leg.length:
        notes.insert(0, STAYS)
    return Strip.of(f"Towards {leg.name}", frames, notes)


def _panels(legs: Sequence[Leg], keys: Sequence[str]) -> list[Panel]:
    offsets, offset = [], 0.0
    for leg in legs:
        offsets.append(offset)
        offset += leg.length
    at = [
        (leg.check.arc_length[:, 0] + begin).tolist()
        for leg, begin in zip(legs, offsets, strict=True)
    ]
    # What holds between two points is drawn at the second.
    after = [places[1:] or places for places in at]
    distances = [leg.distance.tolist() for leg in legs]
    errors = [leg.check.feature_mse[:, 0].tolist() for leg in legs]
    panels = [
        ("distance", "Distance to the next image", at, distances, False),
        ("mse", "Feature MSE at the points", at, errors, True),
    ]
    between = [leg.between.tolist() or [0.0] for leg in legs if leg.between is not None]
    if len(between) == len(legs):
        panels.append(("between", "Largest feature MSE between them", after, between, True))
    return [
        Panel(f"chart-{name}", title, _chart(x, y, keys, offset, title, log))
        for name, title, x, y, log in panels
    ]


def _chart(
    xs: Sequence[Sequence[float]],
    ys: Sequence[Sequence[float]],
    keys: Sequence[str],
    length: float,
    title: str,
    log: bool,
) -> Chart:
    traces = [
        {
            "meta": key,
            "x": list(x),
            "y": list(y),
            "mode": "lines+markers",
            "line": {"width": 2},
            "marker": {"size": 4},
            "hovertemplate": "%{y:.3g}<extra></extra>",
        }
        for x, y, key in zip(xs, ys, keys, strict=True)
    ]
    layout = {
        "xaxis": {"title": {"text": "length of the path (L2)"}, "range": [0, length or 1]},
        "yaxis": {"title": {"text": title}}
        | ({"type": "log", "tickformat": "~g"} if log else {"rangemode": "tozero"}),
        "showlegend": False,
    }
    return {"data": traces, "layout": layout}
