"""One figure as one HTML page without any other file: strips of images, or curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.report.charts import Chart
from elbowroom.report.exhibits import Features, LogitRow, feature_table, logit_rows
from elbowroom.report.page import environment
from elbowroom.report.pictures import Array, Picture, difference, is_picture, picture

__all__ = [
    "About",
    "Figure",
    "Frame",
    "Logits",
    "Panel",
    "Strip",
    "Table",
    "as_array",
    "frame",
    "grey_scale",
    "render",
]


@dataclass(frozen=True)
class About:
    """What a page is about, in words.

    classes: names of the labels; a label without one is shown as its number.
    facts:   (name, value) of everything needed to make the figure again.
    """

    model: str
    data: str
    classes: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()

    def label(self, index: int) -> str:
        """The class's name."""
        return self.classes[index] if index < len(self.classes) else str(index)


@dataclass(frozen=True)
class Frame:
    """One image of a strip: what it is, which class, how far; and a picture of a change."""

    role: str
    label: str
    lines: Sequence[str]
    values: Array
    picture: Picture | None
    change: Picture | None = None


@dataclass(frozen=True)
class Logits:
    """Wanted and reached logits side by side; of many classes the largest, `omitted` are left."""

    logits: Sequence[LogitRow]
    omitted: int

    @classmethod
    def of(cls, wanted: Tensor, reached: Tensor, classes: Sequence[str]) -> Logits:
        """Both `(K,)`; a class without a name is shown as its number."""
        rows = logit_rows(as_array(wanted), as_array(reached), classes)
        return cls(rows, len(wanted) - len(rows))


@dataclass(frozen=True)
class Strip:
    """The images of one sample; `features` instead where samples are not pictures."""

    title: str
    frames: Sequence[Frame]
    notes: Sequence[str] = ()
    features: Features | None = None
    logits: Logits | None = None

    @classmethod
    def of(cls, title: str, frames: Sequence[Frame], notes: Sequence[str] = ()) -> Strip:
        """With a table of the features that differ most between the first and the last frame."""
        features = None
        if frames[0].picture is None:
            columns = [(frame.role, frame.values) for frame in frames]
            features = feature_table(columns, frames[0].values, frames[-1].values)
        return cls(title, frames, notes, features)


@dataclass(frozen=True)
class Panel:
    """One chart of several that share a legend."""

    id: str
    title: str
    chart: Chart


@dataclass(frozen=True)
class Table:
    """Rows of (name, cells); `corner` says what the rows are.

    heat: percent of colour of each cell, 0 for none; None for a plain table.
    """

    title: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    heat: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class Figure:
    """Everything on a page besides `About`.

    name:   "LRA, Fig. 5". lede: what is seen. captions: sentences below.
    legend: (key, name) of each curve; the style sheet gives a key its colour.
    over:   what the curves run over. last: where the last values of the curves are, which have a
            table; None where `tables` have the numbers of the charts.
    """

    name: str
    title: str
    lede: str
    captions: Sequence[str] = ()
    strips: Sequence[Strip] = ()
    panels: Sequence[Panel] = ()
    legend: Sequence[tuple[str, str]] = field(default=())
    tables: Sequence[Table] = ()
    over: str = "the number of regions visited"
    last: str | None = "After the last region"


def render(figure: Figure, about: About) -> str:
    """The page as a string: readable offline, in light and dark, on paper and on a phone."""
    return (
        environment("elbowroom.papers")
        .get_template("figure.html")
        .render(
            figure=figure,
            about=about,
            charts={panel.id: panel.chart for panel in figure.panels},
            plotly=Markup(get_plotlyjs()) if figure.panels else "",
        )
    )


def frame(
    image: Tensor,
    scale: tuple[float, float],
    *,
    role: str,
    label: str,
    lines: Sequence[str],
    change: tuple[Tensor, Tensor] | None = None,
) -> Frame:
    """A frame of one image, and of the change from one image to another below it, if given."""
    values = as_array(image)
    shown: Picture | None = None
    below: Picture | None = None
    if is_picture(tuple(image.shape)):
        shown = picture(values, scale, ", ".join([role, label, *lines]), role)
        if change is not None:
            # Subtracted in float64: the smallest changes do not survive rounding to a picture.
            moved = as_array(change[1].double() - change[0].double())
            below = difference(np.zeros_like(moved), moved, f"{role}: what was changed")
    return Frame(role, label, lines, values, shown, below)


def as_array(image: Tensor) -> Array:
    """A tensor as the pictures need it."""
    array: Array = image.detach().to("cpu", torch.float32).numpy()
    return array


def grey_scale(clf: Classifier, images: Tensor) -> tuple[float, float]:
    """Which values are drawn black and white: the input bounds, or the extremes without any."""
    if clf.bounded:
        return float(clf.lower.min()), float(clf.upper.max())
    return float(images.min()), float(images.max())
