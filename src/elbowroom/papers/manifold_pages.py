"""The pages of Fig. 3, 5, 6 and 10 of the Manifold paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from elbowroom.papers.bounds_charts import Curves, lines_chart
from elbowroom.papers.manifold import Mean, Trained, by_training, rank_correlations
from elbowroom.papers.manifold_distance import Distances, rank_test
from elbowroom.papers.page import About, Figure, Panel, Table, render
from elbowroom.report.figures import count, number, percent

KEYS = ("curve-1", "curve-8", "curve-5", "curve-9", "curve-3", "curve-6")
MEASURED = {
    "error": "test error",
    "on_manifold": "on-manifold success",
    "regular": "regular success",
}
DISTANCE_KEYS = {
    "regular": "curve-8",
    "on-manifold": "curve-1",
    "test images": "curve-5",
    "perturbation": "muted",
}
BINS = 40


def sweep_page(found: Sequence[Trained], about: About) -> str:
    """From `sweep`: rates over the number of images, and success over test error."""
    means = {name: by_training(found, name) for name in MEASURED}
    trainings = list(means["error"])
    keys = dict(zip(trainings, KEYS, strict=False))
    axis = {"range": [-0.02, 1.02], "tickformat": ".0%"}
    panels = [
        Panel(f"over-images-{name}", f"{title}, over training images",
              lines_chart(_over_images(means[name]), x="training images, thousands", y=title,
                          keys=keys, **axis))
        for name, title in MEASURED.items()
    ]  # fmt: skip
    panels += [
        Panel(f"over-error-{name}", f"{MEASURED[name]}, over test error",
              lines_chart(_over_error(means["error"], means[name]), x="test error",
                          y=MEASURED[name], keys=keys, **axis))
        for name in ("on_manifold", "regular")
    ]  # fmt: skip
    tables = [_table(name, title, means[name]) for name, title in MEASURED.items()]
    tables.append(_correlations(found))
    figure = Figure(
        name="Manifold, Fig. 5 and 6",
        title="robustness and generalisation",
        lede="Networks trained on more and more images: do they become robust on the manifold, "
        "where the data are, and off it, where adversarial examples usually are?",
        captions=[
            "On the manifold a success is an input that the data could have: where success rises "
            "and falls with the test error, robustness there is generalisation. Success rates are "
            "of the samples that are classified correctly.",
            "Intervals are 95 %: over seeds (Student's t), or of a single network (Wilson's).",
        ],
        panels=panels,
        legend=[(keys[name], name) for name in trainings],
        tables=tables,
        over="the number of training images",
        last=None,
    )
    return render(figure, about)


def _over_images(means: Mapping[str, Mapping[int, Mean]]) -> Curves:
    return {
        training: ([images / 1000 for images in own], [mean.value for mean in own.values()])
        for training, own in means.items()
    }


def _over_error(
    errors: Mapping[str, Mapping[int, Mean]], means: Mapping[str, Mapping[int, Mean]]
) -> Curves:
    return {
        training: (
            [errors[training][images].value for images in own],
            [mean.value for mean in own.values()],
        )
        for training, own in means.items()
    }


def _table(name: str, title: str, means: Mapping[str, Mapping[int, Mean]]) -> Table:
    images = sorted({n for own in means.values() for n in own})
    rows = [(training, [_interval(own.get(n)) for n in images]) for training, own in means.items()]
    return Table(title, "training", [f"{count(n)} images" for n in images], rows)


def _interval(mean: Mean | None) -> str:
    if mean is None or math.isnan(mean.value):
        return number(None)
    low, high = max(mean.lower, 0.0), min(mean.upper, 1.0)
    return f"{percent(mean.value)} ({percent(low)} to {percent(high)})"


def _correlations(found: Sequence[Trained]) -> Table:
    rows = [
        (training, [number(value) for value in values])
        for training, values in rank_correlations(found).items()
    ]
    columns = ("with on-manifold success", "with regular success")
    return Table("Rank correlation of the test error (Spearman)", "training", columns, rows)


def distances_page(found: Distances, about: About) -> str:
    """From `distances`: histograms, ratios and the rank test (Fig. 3 and 10)."""
    groups = dict(found.planes)
    panels = [_histograms("planes", "Distance to the training images' planes", groups)]
    if found.projection is not None:
        known = {"regular": found.projection, "perturbation": found.perturbation}
        panels.append(_histograms("truth", "Distance to the true manifold", known))
    rows = [
        (name, [count(len(values)), *(number(q) for q in _quartiles(values))])
        for name, values in groups.items()
    ]
    tables = [
        Table("Distances to planes, L2", "points", ("how many", "25 %", "median", "75 %"), rows)
    ]
    captions = distance_sentences(found)
    figure = Figure(
        name="Manifold, Fig. 3 and 10",
        title="do adversarial examples leave the manifold?",
        lede="Regular adversarial examples change pixels, those on the manifold change what the "
        "data vary in. Only the first should lie off the manifold.",
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
    test = rank_test(found.planes["on-manifold"], found.planes["regular"])
    if test is not None:
        said.append(
            f"An on-manifold example is nearer to the planes than a regular one in "
            f"{percent(test.probability)} of all pairs (Mann-Whitney, p = {number(test.p)})."
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


def _histograms(name: str, title: str, groups: Mapping[str, Tensor]) -> Panel:
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
        "xaxis": {"title": {"text": "L2 distance"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "share"}, "tickformat": ".0%", "rangemode": "tozero"},
        "hovermode": "x unified",
        "showlegend": False,
    }
    return Panel(name, title, {"data": traces, "layout": layout})
