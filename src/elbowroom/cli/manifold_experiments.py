"""The experiments of the Manifold paper, for `elbowroom experiment`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from torch import Tensor

from elbowroom import data, models
from elbowroom.attacks import PGD
from elbowroom.classifier import Classifier
from elbowroom.cli.bounds_experiments import Job, Made, Options, Size
from elbowroom.manifold import LatentPGD, Neighbours
from elbowroom.manifold.registry import decoder
from elbowroom.norms import Linf
from elbowroom.papers.manifold import Sweep, rank_correlations, sweep
from elbowroom.papers.manifold_distance import distances, rank_test
from elbowroom.papers.manifold_pages import (
    distance_sentences,
    distances_page,
    sweep_page,
)
from elbowroom.report.figures import number, percent


def _figure_5(job: Job) -> Made:
    plan = Sweep(**job.options)
    found = sweep(plan, job.runs, seed=job.seed, advance=job.advance, say=job.say)
    page = sweep_page(found, job.about(plan.model, plan.data))
    correlations = rank_correlations(found)
    lines = [
        (
            f"{one.training}, {one.images}",
            f"seed {one.seed}: test error {percent(one.error.value)}, on-manifold success "
            f"{percent(one.on_manifold.value)}, regular {percent(one.regular.value)}",
        )
        for one in found
    ]
    lines += [
        (
            f"{training}",
            f"rank correlation of the test error with on-manifold success {number(on)}, with "
            f"regular success {number(off)}",
        )
        for training, (on, off) in correlations.items()
    ]
    # JSON has no NaN.
    told = {name: [None if v != v else v for v in each] for name, each in correlations.items()}
    return page, {"networks": [asdict(one) for one in found], "correlations": told}, lines


def _figure_3(job: Job) -> Made:
    options = job.options
    test = data.load(options["data"], "test", options["samples"])
    train = data.load(options["data"], "train", options["train"])
    clf = Classifier(models.load(options["model"]), bounds=test.bounds, name=str(options["model"]))
    truth = decoder(options["truth"], "test") if options["truth"] else None
    along = decoder(options["decoder"], "test")
    found = distances(
        clf,
        test.x,
        test.y,
        regular=PGD.published_manifold(Linf, seed=job.seed),
        along=LatentPGD(seed=job.seed),
        decoder=along,
        near=Neighbours(train.x, options["neighbours"]),
        truth=truth,
    )
    page = distances_page(found, job.about(clf.name, test.name))
    said = distance_sentences(found)
    test_of = rank_test(found.planes["on-manifold"], found.planes["regular"])
    values: dict[str, Any] = {
        "planes": {name: _median(each) for name, each in found.planes.items()},
        "counts": {name: len(each) for name, each in found.planes.items()},
        "median_ratio": None if found.ratio is None else _median(found.ratio),
        "rank_test": None if test_of is None else asdict(test_of),
        "median_cosine": None if found.cosine is None else _median(found.cosine[0]),
    }
    return page, values, [("", sentence) for sentence in said]


def _median(values: Tensor) -> float | None:
    return float(values.double().quantile(0.5)) if len(values) else None


_SMALL = {
    "trainings": ["normal", "adversarial", "on-manifold", "random transformations"],
    "images": [250, 1000, 2500], "seeds": 1, "model": "fonts-cnn", "data": "fonts",
    "manifold": "fonts", "epochs": 20, "steps": 10, "tested": 2000, "attacked": 200, "restarts": 2,
}  # fmt: skip

#: Experiment -> how it is made, and its options at both sizes.
EXPERIMENTS: dict[str, tuple[Callable[[Job], Made], dict[Size, Options]]] = {
    "manifold-figure-3": (
        _figure_3,
        {
            "small": {
                "model": "fonts-plain",
                "data": "fonts",
                "samples": 200,
                "train": 10_000,
                "neighbours": 50,
                "decoder": "fonts",
                "truth": "fonts",
            },
            "paper": {
                "model": "fonts-plain",
                "data": "fonts",
                "samples": 5000,
                "train": 60_000,
                "neighbours": 50,
                "decoder": "fonts",
                "truth": "fonts",
            },
        },
    ),
    "manifold-figure-5": (
        _figure_5,
        {
            "small": _SMALL,
            "paper": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(Sweep()).items()
            },
        },
    ),
}
