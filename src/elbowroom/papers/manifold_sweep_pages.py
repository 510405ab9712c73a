"""The page of Fig. 5 and 6 of the Manifold paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from elbowroom.papers.bounds_charts import Curves, lines_chart
from elbowroom.papers.manifold import Mean, Trained, by_training, rank_correlations
from elbowroom.papers.page import About, Figure, Panel, Table, render
from elbowroom.report.figures import count, number, percent

KEYS = ("curve-1", "curve-8", "curve-5", "curve-9", "curve-3", "curve-6")
MEASURED = {
    "error": "test error",
    "on_manifold": "on-manifold success",
    "regular": "regular success",
}


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
