"""The pages of Fig. 3, 5, 6 and 10 of the Manifold paper."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple

import torch
from torch import Tensor

from elbowroom.papers.bounds_charts import Curves, lines_chart
from elbowroom.papers.manifold import (
    Mean,
    Trained,
    by_training,
    images_needed,
    rank_correlations,
)
from elbowroom.papers.manifold_distance import Distances, rank_test
from elbowroom.papers.page import About, Figure, Panel, Table, render
from elbowroom.report.figures import count, number, percent

KEYS = (
    "curve-1", "curve-8", "curve-5", "curve-9", "curve-3", "curve-6", "curve-2", "curve-4",
    "curve-7",
)  # fmt: skip
DISTANCE_KEYS = {
    "regular": "curve-8",
    "on-manifold": "curve-1",
    "test images": "curve-5",
    "perturbation": "muted",
}
BINS = 40


def sweep_page(found: Sequence[Trained], about: About, name: str = "Fig. 5 and 6") -> str:
    """From `sweep`: rates over the number of images, and success over test error."""
    attacks = list(found[0].success)
    titles = {"error": "test error", **{attack: f"{attack} success" for attack in attacks}}
    means = {measured: by_training(found, measured) for measured in titles}
    trainings = list(means["error"])
    keys = dict(zip(trainings, itertools.cycle(KEYS), strict=False))
    axis = {"range": [-0.02, 1.02], "tickformat": ".0%"}
    panels = [
        Panel(f"over-images-{number}", f"{title}, over training images",
              lines_chart(_over_images(means[measured]), x="training images, thousands", y=title,
                          keys=keys, **axis))
        for number, (measured, title) in enumerate(titles.items())
    ]  # fmt: skip
    panels += [
        Panel(f"over-error-{number}", f"{titles[attack]}, over test error",
              lines_chart(_over_error(means["error"], means[attack]), x="test error",
                          y=titles[attack], keys=keys, **axis))
        for number, attack in enumerate(attacks)
    ]  # fmt: skip
    tables = [_table(title, means[measured]) for measured, title in titles.items()]
    tables += [_lengths(found), _correlations(found)]
    figure = Figure(
        name=f"Manifold, {name}",
        title="robustness and generalisation",
        lede="Networks trained on more and more images: do they become robust on the manifold, "
        "where the data are, and off it, where adversarial examples usually are?",
        captions=[
            "On the manifold a success is an input that the data could have: where success rises "
            "and falls with the test error, robustness there is generalisation. Success rates are "
            "of the samples that are classified correctly.",
            "Intervals are 95 %: over seeds (Student's t), or of a single network (Wilson's).",
            *needed_sentences(found),
        ],
        panels=panels,
        legend=[(keys[training], training) for training in trainings],
        tables=tables,
        over="the number of training images",
        last=None,
    )
    return render(figure, about)


def needed_sentences(found: Sequence[Trained]) -> list[str]:
    """How many images each training needs to be as accurate as normal training (Fig. 7)."""
    said = []
    for training, ratios in images_needed(found).items():
        if ratios:
            each = ", ".join(f"{ratio:.2g} for {count(n)}" for n, ratio in ratios.items())
            said.append(
                f"Times as many images as {training} training has, with which normal training is "
                f"as accurate: {each}."
            )
    return said


def _over_images(means: Mapping[str, Mapping[int, Mean]]) -> Curves:
    return {
        training: ([images / 1000 for images in own], [_point(mean) for mean in own.values()])
        for training, own in means.items()
    }


def _point(mean: Mean) -> float | None:
    return None if math.isnan(mean.value) else mean.value


def _over_error(
    errors: Mapping[str, Mapping[int, Mean]], means: Mapping[str, Mapping[int, Mean]]
) -> Curves:
    return {
        training: (
            [errors[training][images].value for images in own],
            [_point(mean) for mean in own.values()],
        )
        for training, own in means.items()
    }


def _table(title: str, means: Mapping[str, Mapping[int, Mean]]) -> Table:
    images = sorted({n for own in means.values() for n in own})
    rows = [(training, [_interval(own.get(n)) for n in images]) for training, own in means.items()]
    return Table(title, "training", [f"{count(n)} images" for n in images], rows)


def _lengths(found: Sequence[Trained]) -> Table:
    """Of all networks of a training: another measure of robustness (Fig. 8)."""
    rows = []
    for training in dict.fromkeys(one.training for one in found):
        own = [one for one in found if one.training == training]
        lengths = [
            [s.length for s in (one.success[attack] for one in own) if not math.isnan(s.length)]
            for attack in found[0].success
        ]
        rows.append(
            (training, [number(sum(all_) / len(all_) if all_ else None) for all_ in lengths])
        )
    columns = list(found[0].success)
    return Table(
        "Mean size of the changes, in the norm and space of the attack", "training", columns, rows
    )


def _interval(mean: Mean | None) -> str:
    if mean is None or math.isnan(mean.value):
        return number(None)
    low, high = max(mean.lower, 0.0), min(mean.upper, 1.0)
    return f"{percent(mean.value)} ({percent(low)} to {percent(high)})"


def _correlations(found: Sequence[Trained]) -> Table:
    rows = [
        (training, [number(value) for each in values.values() for value in astuple(each)])
        for training, values in rank_correlations(found).items()
    ]
    measures = ("networks", "means", "slope")
    columns = [f"{attack} success, {each}" for attack in found[0].success for each in measures]
    title = (
        "How success follows the test error: rank correlation (Spearman) over networks and over "
        "means of seeds, and slope"
    )
    return Table(title, "training", columns, rows)


def distances_page(found: Distances, about: About) -> str:
    """From `distances`: histograms, ratios and the rank test (Fig. 3 and 10)."""
    groups = dict(found.planes)
    panels = [
        _histograms("planes", "Distance to planes through the neighbours' mean", groups),
        _histograms("own", "Distance to planes through the test image", found.through_own),
        _histograms(
            "share", "The same, of the distance to the test image", found.share, "share of the move"
        ),
    ]
    if found.projection is not None:
        known = {"regular": found.projection, "perturbation": found.perturbation}
        panels.append(_histograms("truth", "Distance to the true manifold", known))
    rows = [
        (f"{name}, {centre}", [count(len(values)), *(number(q) for q in _quartiles(values))])
        for centre, each in (
            ("mean", groups),
            ("test image", found.through_own),
            ("share of the move", found.share),
        )
        for name, values in each.items()
    ]
    tables = [
        Table("Distances to planes, L2", "points", ("how many", "25 %", "median", "75 %"), rows)
    ]
    captions = distance_sentences(found)
    figure = Figure(
        name="Manifold, Fig. 3, 10 and 14",
        title="do adversarial examples leave the manifold?",
        lede="Regular adversarial examples change pixels, those on the manifold change what the "
        "data vary in. Only the first should lie off the manifold, for how far they moved: planes "
        "through neighbours are coarse, and a long way along a curved manifold leaves them too.",
        captions=captions,
        panels=panels,
        legend=[(key, name) for name, key in DISTANCE_KEYS.items()],
        tables=tables,
        last=None,
    )
    return render(figure, about)


def distance_sentences(found: Distances) -> list[str]:
    """What `distances` found, in words."""
    said = []
    if found.ratio is not None and len(found.ratio):
        low, middle, high = _quartiles(found.ratio)
        said.append(
            f"Half of the {count(len(found.ratio))} regular examples are farther from the true "
            f"manifold than {number(middle)} times the length of their perturbation (quartiles "
            f"{number(low)} and {number(high)}): 1 means that they leave it at right angles."
        )
    for planes, words in (
        (found.planes, "nearer to the planes through the neighbours' mean than a regular one"),
        (found.through_own, "nearer to the planes through its test image than a regular one"),
        (found.share, "moved less off these than a regular one, for how far it moved,"),
    ):
        test = rank_test(planes["on-manifold"], planes["regular"])
        if test is not None:
            said.append(
                f"An on-manifold example is {words} in {percent(test.probability)} of all pairs "
                f"(Mann-Whitney, p = {number(test.p)})."
            )
    if found.cosine is not None:
        cosines, chance = found.cosine
        said.append(
            f"The cosine between the loss gradient and the tangent of the manifold is "
            f"{number(_quartiles(cosines)[1])} in the median; a random direction has "
            f"{number(chance)}."
        )
    return said


def _quartiles(values: Tensor) -> tuple[float, float, float]:
    if not len(values):
        return math.nan, math.nan, math.nan
    low, middle, high = values.double().quantile(torch.tensor([0.25, 0.5, 0.75]).double()).tolist()
    return low, middle, high


def _histograms(
    name: str, title: str, groups: Mapping[str, Tensor], x: str = "L2 distance"
) -> Panel:
    """Shares of each group in bins that all have in common."""
    most = max((float(values.max()) for values in groups.values() if len(values)), default=1.0)
    edges = torch.linspace(0, most or 1.0, BINS + 1).double()
    middles = ((edges[1:] + edges[:-1]) / 2).tolist()
    traces = []
    for group, values in groups.items():
        if not len(values):
            continue
        shares = torch.histogram(values.double(), edges).hist / len(values)
        traces.append(
            {
                "meta": DISTANCE_KEYS[group],
                "name": group,
                "x": middles,
                "y": shares.tolist(),
                "mode": "lines",
                "line": {"shape": "hvh", "width": 2},
                "hovertemplate": "%{y:.1%}",
            }
        )
    layout = {
        "xaxis": {"title": {"text": x}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "share"}, "tickformat": ".0%", "rangemode": "tozero"},
        "hovermode": "x unified",
        "showlegend": False,
    }
    return Panel(name, title, {"data": traces, "layout": layout})
