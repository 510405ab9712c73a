"""The experiments of the Manifold paper, for `elbowroom experiment`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
from elbowroom.papers.manifold import (
    Sweep,
    Trained,
    images_needed,
    rank_correlations,
    sweep,
)
from elbowroom.papers.manifold_distance import distances, rank_test
from elbowroom.papers.manifold_pages import (
    distance_sentences,
    distances_page,
    needed_sentences,
    sweep_page,
)
from elbowroom.report.figures import number, percent


def _sweep(figure: str) -> Callable[[Job], Made]:
    """The experiment of a figure that is about networks over training images."""

    def make(job: Job) -> Made:
        plan = Sweep(**job.options)
        found = sweep(plan, job.runs, seed=job.seed, advance=job.advance, say=job.say)
        page = sweep_page(found, job.about(plan.model, plan.data), figure)
        return page, _sweep_values(found), _sweep_lines(found)

    return make


def _sweep_lines(found: Sequence[Trained]) -> list[tuple[str, str]]:
    lines = []
    for one in found:
        success = "".join(
            f", {attack} {percent(each.rate.value)}" for attack, each in one.success.items()
        )
        said = f"seed {one.seed}: test error {percent(one.error.value)}; success:{success[1:]}"
        lines.append((f"{one.training}, {one.images}", said))
    for training, each in rank_correlations(found).items():
        said = ", ".join(f"{attack} {number(value)}" for attack, value in each.items())
        lines.append((training, f"rank correlation of the test error with success: {said}"))
    return lines + [("", sentence) for sentence in needed_sentences(found)]


def _sweep_values(found: Sequence[Trained]) -> dict[str, Any]:
    def told(value: float) -> float | None:
        return None if math.isnan(value) else value  # JSON has no NaN

    networks = [asdict(one) for one in found]
    for one in networks:
        for each in one["success"].values():
            each["length"] = told(each["length"])
            each["rate"] = {key: told(value) for key, value in each["rate"].items()}
    return {
        "networks": networks,
        "correlations": {
            training: {attack: told(value) for attack, value in each.items()}
            for training, each in rank_correlations(found).items()
        },
        "images_needed": images_needed(found),
    }


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


def _plan(**options: Any) -> Options:
    """A sweep's options at the paper's size, as lists, which --set can change."""
    each = {**asdict(Sweep()), **options}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in each.items()
    }


_SMALL: Options = {
    "images": [250, 1000, 2500], "seeds": 1, "steps": 10, "tested": 2000, "attacked": 200,
    "restarts": 2,
}  # fmt: skip
_FOUR = ["normal", "adversarial", "on-manifold", "random transformations"]
_MORE_IMAGES = [250, 500, 1000, 2500, 5000, 10_000, 20_000, 40_000]


def _sizes(small: Options | None = None, **options: Any) -> dict[Size, Options]:
    """Both sizes of a sweep; `options` hold for both, `small` for the small one."""
    return {"small": _plan(**{**options, **_SMALL, **(small or {})}), "paper": _plan(**options)}


#: Figure of the paper -> what its sweep has that others have not.
_SWEEPS: dict[str, dict[Size, Options]] = {
    "5": _sizes({"trainings": _FOUR}),
    "7": _sizes(
        {"model": "fonts-cnn"},
        model="resnet13",
        trainings=["normal", "adversarial", "on-manifold", "combined"],
        images=_MORE_IMAGES,
        seeds=3,
    ),
    "12": _sizes(
        {"trainings": _FOUR},
        attacks=["on-manifold L2", "regular L2", "on-manifold CW", "regular CW"],
    ),
    "13": _sizes({"trainings": _FOUR}, attacks=["on-manifold transfer", "regular transfer"]),
    "15": _sizes({"trainings": _FOUR}, model="fonts-mlp"),
    "16": _sizes({"trainings": ["normal", "on-manifold"]}, model="resnet13"),
    "18": _sizes(
        trainings=["normal", "on-manifold", "on-data-manifold"],
        attacks=["on-data-manifold", "on-manifold"],
        data_manifold="runs/vae-all",
    ),
    "19": _sizes(
        trainings=[
            "normal", "adversarial", "adversarial, full", "adversarial, weak", "on-manifold",
            "on-manifold, full", "on-manifold, weak", "random transformations",
            "random perturbations",
        ],
    ),
}  # fmt: skip
_ALSO = {"5": "Fig. 5 and 6", "12": "Fig. 8 and 12"}

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
    **{
        f"manifold-figure-{figure}": (_sweep(_ALSO.get(figure, f"Fig. {figure}")), sizes)
        for figure, sizes in _SWEEPS.items()
    },
}
