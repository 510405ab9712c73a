"""The figures of the NSPGD paper as pages; the numbers come from `nspgd`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from elbowroom.papers.nspgd import OneStep, SuccessMatrix, Summary, Transformed, Widths
from elbowroom.papers.page import About, Figure, Frame, Panel, Strip, Table, frame, render
from elbowroom.report.charts import Chart
from elbowroom.report.figures import count, number, percent, unit

COLOURS = 9


def figure_2_page(
    shown: OneStep,
    about: About,
    *,
    labels: Sequence[tuple[int, int]],
    samples: Sequence[int],
    scale: tuple[float, float] = (0.0, 1.0),
) -> str:
    """A strip for each pair, as in Fig. 2.

    labels: classes of source and target. samples: numbers of the sources. scale: the values drawn
    black and white.
    """
    found, strips = shown.found, []
    for n, sample in enumerate(samples):
        source, target = (about.label(index) for index in labels[n])
        start, end = float(found.distance_start[n]), float(found.distance[n])
        frames = [
            frame(image, scale, role=role, label=label, lines=lines)
            for role, image, label, lines in (
                ("source", shown.start[n], source, [f"d = {number(start)}"]),
                ("target", shown.toward[n], target, list[str]()),
                ("after one step", found.example[n], f"still {source}", [f"d = {number(end)}"]),
            )
        ]
        strips.append(Strip.of(f"Sample {sample}: {source} to {target}", frames, _facts(shown, n)))
    figure = Figure(
        name="NSPGD, Fig. 2",
        title="one step in the null space",
        lede="The third image is the first after one step towards the second, in directions in "
        "which no logit of this two-layer network changes.",
        captions=[
            f"d is the distance to the target ({unit('L2')}). The step knows nothing of the input "
            "bounds; pictures show values beyond them as the bounds themselves."
        ],
        strips=strips,
    )
    return render(figure, about)


def _facts(shown: OneStep, n: int) -> list[str]:
    found = shown.found
    if not int(found.dimension[n]):
        return ["The null space is trivial: no direction leaves the logits as they are."]
    return [
        f"The null space has {count(int(found.dimension[n]))} dimensions; "
        f"{count(int(found.held[n]))} hidden units are held. The largest change of a logit is "
        f"{number(float(found.logit_change[n]))}, the largest excess over the input bounds "
        f"{number(float(found.outside[n]))}."
    ]


def figure_5_page(
    found: Transformed,
    about: About,
    *,
    name: str = "NSPGD, Fig. 5",
    scale: tuple[float, float] = (0.0, 1.0),
) -> str:
    """A strip for each target image, with what became of the source of each class: Fig. 4 and 5."""
    strips = []
    for target in torch.unique(found.targets)[_by_class(found)].tolist():
        rows = (found.targets == target).nonzero().squeeze(1)
        own = int(found.classes[rows[0], 1])
        frames = [
            (int(found.classes[row, 0]), _reached(found, int(row), about, scale)) for row in rows
        ]
        aim = frame(found.aims[rows[0]], scale, role="target", label=about.label(own), lines=[])
        ordered = sorted([*frames, (own, aim)], key=lambda pair: pair[0])
        title = f"Sample {target}: {about.label(own)}"
        strips.append(Strip.of(title, [shown for _, shown in ordered]))
    figure = Figure(
        name=name,
        title="the same confidence, another image",
        lede="Each row has one target image; the others are where a walk from a source of each "
        "other class that has any ended, on which the network's confidence in the source's class "
        "hardly falls.",
        captions=[
            "Below each image: the class of its source, the network's confidence in it, and "
            f"d, the distance to the target ({unit('L2')})."
        ],
        strips=strips,
    )
    return render(figure, about)


def _by_class(found: Transformed) -> torch.Tensor:
    targets, rows = torch.unique(found.targets, return_inverse=True)
    labels = torch.zeros_like(targets).scatter(0, rows, found.classes[:, 1])
    return labels.argsort(stable=True)


def _reached(found: Transformed, row: int, about: About, scale: tuple[float, float]) -> Frame:
    source = about.label(int(found.classes[row, 0]))
    lines = [
        f"confidence {percent(float(found.confidence[row]))}",
        f"d = {number(float(found.distance[row]))}",
    ]
    if found.success is not None:
        lines.append("reached" if bool(found.success[row]) else "not reached")
    return frame(found.images[row], scale, role=f"from {source}", label=source, lines=lines)


def figure_7_page(
    matrix: SuccessMatrix,
    summary: Summary,
    about: About,
    *,
    decided_by: str,
    name: str = "NSPGD, Fig. 7",
) -> str:
    """Success rates by target image and source class, as in Fig. 6 and 7.

    decided_by: the perceptual distance and its threshold, in words.
    """
    rows = [
        (f"{about.label(int(label))} (sample {int(target)})", [_rate(float(r)) for r in rates])
        for target, label, rates in zip(
            matrix.targets, matrix.target_classes, matrix.rates, strict=True
        )
    ]
    columns = [about.label(int(label)) for label in matrix.source_classes]
    alike = f" and the similarity {number(summary.similarity[0])}" if summary.similarity else ""
    figure = Figure(
        name=name,
        title="how often a walk reaches its target",
        lede=f"On average {percent(summary.success)} of the walks from the sources of a class end "
        "at an image that looks like the target, while the confidence in the source's class "
        "hardly falls.",
        captions=[
            f"Rows are target images, columns classes of sources. Success is {decided_by}. Over "
            f"{count(summary.pairs)} pairs the mean distance to the target is "
            f"{number(summary.distance[0])} ({unit('L2')}){alike}, the mean confidence "
            f"{percent(summary.confidence)}."
        ],
        tables=[Table("Success rates", "target", columns, rows)],
    )
    return render(figure, about)


def _rate(value: float) -> str:
    return percent(None if value != value else value)


def figure_9_page(found: Widths, about: About) -> str:
    """Percentiles of the confidence along the path, a curve for each radius, as in Fig. 9."""
    radii = found.around.radii.tolist()
    step = (COLOURS - 1) / max(len(radii) - 1, 1)
    keys = ["muted", *(f"curve-{1 + round(step * place)}" for place in range(len(radii)))]
    names = ["on the path", *(f"radius {number(radius)}" for radius in radii)]
    middle = found.around.on_path.mean(dim=1)
    panels = []
    for place, title in enumerate(("5th percentile", "95th percentile")):
        curves = found.around.percentiles[..., place].mean(dim=1)
        values = torch.cat([middle[:, None], curves], dim=1).T
        chart = _chart(found.steps.tolist(), values.tolist(), keys, names)
        panels.append(Panel(f"chart-{place}", title, chart))
    figure = Figure(
        name="NSPGD, Fig. 9",
        title="how wide equi-confidence paths are",
        lede="Around the images of each walk, points were drawn at random on spheres on which the "
        "confidence does not change to first order. A wide path keeps the confidence far out.",
        captions=[
            f"Means over {count(found.around.on_path.shape[1])} walks of the 5th and the 95th "
            f"percentile of the confidence in the source's class. Radii are {unit('L2')}."
        ],
        panels=panels,
        legend=list(zip(keys, names, strict=True)),
        over="the steps of the walk",
        last="At the end of the path",
    )
    return render(figure, about)


def _chart(
    steps: Sequence[int],
    values: Sequence[Sequence[float]],
    keys: Sequence[str],
    names: Sequence[str],
) -> Chart:
    traces = [
        {
            "meta": key,
            "name": name,
            "x": list(steps),
            "y": list(row),
            "mode": "lines",
            "line": {"width": 2, "dash": "dash" if key == "muted" else "solid"},
            "hovertemplate": "%{y:.1%}",
        }
        for key, name, row in zip(keys, names, values, strict=True)
    ]
    layout = {
        "xaxis": {"title": {"text": "steps"}, "range": [0, max(steps[-1], 1)]},
        "yaxis": {"title": {"text": "confidence"}, "range": [0, 1.02], "tickformat": ".0%"},
        "hovermode": "x unified",
        "showlegend": False,
    }
    return {"data": traces, "layout": layout}
