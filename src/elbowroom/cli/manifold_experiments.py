"""The experiments of the Manifold paper, for `elbowroom experiment`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor, nn

from elbowroom import data, models
from elbowroom.classifier import Classifier
from elbowroom.cli.bounds_experiments import Job, Made, Options, Size
from elbowroom.manifold import Neighbours
from elbowroom.manifold.registry import USUAL_DECODERS, decoder
from elbowroom.papers.manifold import (
    Sweep,
    Trained,
    images_needed,
    rank_correlations,
    sweep,
)
from elbowroom.papers.manifold_attacks import ATTACKS, Found, Trial, decisions
from elbowroom.papers.manifold_distance import distances, rank_test
from elbowroom.papers.manifold_example_pages import (
    Both,
    Example,
    both_page,
    quality_page,
    quality_sentences,
)
from elbowroom.papers.manifold_pages import (
    distance_sentences,
    distances_page,
    needed_sentences,
    sweep_page,
)
from elbowroom.papers.manifold_samples import quality
from elbowroom.papers.manifold_toy import toy, toy_page, toy_sentence
from elbowroom.papers.page import grey_scale
from elbowroom.report.figures import number, percent
from elbowroom.training import Recipe, TrainingRun

JUDGE_SEED = 1_000_033  # no network of a sweep has it


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
        said = ", ".join(
            f"{attack} {number(one.networks)} ({number(one.means)} of means, slope "
            f"{number(one.slope)})"
            for attack, one in each.items()
        )
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
            training: {
                attack: {name: told(value) for name, value in asdict(one).items()}
                for attack, one in each.items()
            }
            for training, each in rank_correlations(found).items()
        },
        "images_needed": images_needed(found),
    }


def _figure_3(job: Job) -> Made:
    options = job.options
    test = data.load(options["data"], "test", options["samples"])
    train = data.load(options["data"], "train", options["train"])
    clf = _classifier(job, test)
    truth = USUAL_DECODERS.get(options["data"])
    found = distances(
        clf,
        _trial(job, test),
        regular=options["regular"],
        on_manifold=options["on_manifold"],
        near=Neighbours(train.x, options["neighbours"]),
        truth=None if truth is None else decoder(truth, "test"),
    )
    page = distances_page(found, job.about(clf.name, test.name))
    said = distance_sentences(found)
    kinds = {"planes": found.planes, "through_own": found.through_own, "share": found.share}
    tests = {name: rank_test(each["on-manifold"], each["regular"]) for name, each in kinds.items()}
    values: dict[str, Any] = {
        **{
            name: {kind: _median(values) for kind, values in each.items()}
            for name, each in kinds.items()
        },
        "counts": {name: len(each) for name, each in found.planes.items()},
        "median_ratio": None if found.ratio is None else _median(found.ratio),
        "rank_tests": {name: None if one is None else asdict(one) for name, one in tests.items()},
        "median_cosine": None if found.cosine is None else _median(found.cosine[0]),
    }
    return page, values, [("", sentence) for sentence in said]


def _classifier(job: Job, test: data.Dataset) -> Classifier:
    """The network of the options. Raises `ValueError` if it classifies no sample rightly."""
    name, weights = job.options["model"], job.options["weights"]
    clf = Classifier(models.load(name, weights or None), bounds=test.bounds, name=str(name))
    clf.validate(test.x, test.y)
    if not bool((decisions(clf, test.x) == test.y).any()):
        raise ValueError(
            f"{name} classifies no sample of {test.name} rightly; --set model=... and --set "
            "weights=... give one that was trained on them"
        )
    return clf


def _trial(job: Job, test: data.Dataset) -> Trial:
    options = job.options
    for name in (options["regular"], options["on_manifold"]):
        if name not in ATTACKS or name.endswith("transfer"):
            known = ", ".join(name for name in ATTACKS if not name.endswith("transfer"))
            raise ValueError(f"unknown attack {name!r}; choose {known}")
    return Trial(
        test,
        manifold=options["manifold"],
        data_manifold=options["data_manifold"],
        seed=job.seed,
    )


def _figure_2(job: Job) -> Made:
    options = job.options
    test = data.load(options["data"], "test", options["samples"])
    clf = _classifier(job, test)
    trial = _trial(job, test)
    right = decisions(clf, test.x) == test.y
    off, on = (ATTACKS[options[kind]](trial, clf) for kind in ("regular", "on_manifold"))
    found = [
        Both(
            number=row,
            label=int(test.y[row]),
            sample=test.x[row],
            regular=_example(clf, test, off, row),
            on_manifold=_example(clf, test, on, row),
        )
        for row in (on.success & on.counts & right).nonzero().flatten().tolist()
    ]
    rates = [each.among(right).rate for each in (off, on)]
    caption = (
        f"Of the {int(right.sum())} rightly classified, {percent(rates[0].value)} have an example "
        f"by {options['regular']}, {percent(rates[1].value)} one by {options['on_manifold']}. The "
        f"first {min(len(found), options['shown'])} of the latter are shown."
    )
    about = replace(job.about(clf.name, test.name), classes=test.classes)
    page = both_page(
        found[: options["shown"]], about, captions=[caption], scale=grey_scale(clf, test.x)
    )
    values = {"regular": asdict(rates[0]), "on_manifold": asdict(rates[1])}
    return page, values, [("", caption)]


def _example(clf: Classifier, test: data.Dataset, found: Found, row: int) -> Example | None:
    if not bool(found.success[row]):
        return None
    point = found.examples[row]
    distance = float((point.double() - test.x[row].double()).norm())
    return Example(point, int(decisions(clf, point[None])[0]), distance)


def _judge(job: Job) -> nn.Module:
    """A trained network by name, or one that is trained unless the folder of runs has it."""
    options = job.options
    if options["judge"] in models.PRETRAINED:
        return models.pretrained(options["judge"])
    recipe = Recipe(
        model=options["judge"],
        model_options=options["judge_options"],
        data=options["data"],
        count=options["judge_images"],
        settings=TrainingRun(
            epochs=options["judge_epochs"], learning_rate_decay=0.6, seed=JUDGE_SEED
        ),
    )
    job.say(f"the network that judges, {options['judge']}, is trained if {job.runs} has none")
    name = f"judge-{options['judge']}-{options['data']}-{options['judge_images']}"
    return recipe.run(job.runs / name, accelerator="cpu").model


def _figure_9(job: Job) -> Made:
    options = job.options
    test = data.load(options["data"], "test", options["tested"])
    manifold = decoder(options["manifold"], "test")  # before a judge is trained
    judge = Classifier(_judge(job), bounds=test.bounds)
    found = quality(
        manifold, judge, test, samples=options["samples"], shown=options["shown"], seed=job.seed
    )
    about = replace(job.about(options["manifold"], test.name), classes=test.classes)
    values = {
        "accuracy": asdict(found.accuracy),
        "recognised": {str(label): asdict(one) for label, one in found.recognised.items()},
        "reconstructed": asdict(found.reconstructed),
        "mean_ssim": float(found.similarity.mean()),
    }
    lines = [
        (test.classes[label], f"{percent(one.value)} of the random samples recognised")
        for label, one in found.recognised.items()
    ]
    lines += [("", sentence) for sentence in quality_sentences(found)]
    return quality_page(found, about), values, lines


def _figure_20(job: Job) -> Made:
    found = toy(**job.options, seed=job.seed)
    said = toy_sentence(found)
    values = {
        "misclassified": int(found.misclassified.sum()),
        "adversarial": int(found.adversarial.sum()),
    }
    about = job.about("the best classifier", "the toy data of Tsipras et al.")
    return toy_page(found, about), values, [("", said)]


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

#: What figures about examples of both kinds are of; attacks by their names in a sweep.
_KINDS: Options = {
    "model": "fonts-plain", "weights": "", "data": "fonts", "manifold": "fonts",
    "data_manifold": "",
    "regular": "regular", "on_manifold": "on-manifold",
}  # fmt: skip
_QUALITY: Options = {
    "data": "mnist", "manifold": "runs/vae-mnist", "samples": 1000, "shown": 10, "tested": 10_000,
    "judge": "fonts-cnn", "judge_options": {}, "judge_images": 60_000, "judge_epochs": 5,
}  # fmt: skip
_TOY: Options = {"count": 1000, "p": 0.9, "eta": 3.0}


def _pictures(**options: Any) -> dict[Size, Options]:
    shown = {**_KINDS, "samples": 100, "shown": 12, **options}
    return {"small": shown, "paper": {**shown, "samples": 1000, "shown": 100}}


def _planes(**options: Any) -> dict[Size, Options]:
    small = {
        **_KINDS, "samples": 200, "train": 10_000, "neighbours": 50, **options
    }  # fmt: skip
    return {"small": small, "paper": {**small, "samples": 5000, "train": 60_000}}


#: Experiment -> how it is made, and its options at both sizes.
EXPERIMENTS: dict[str, tuple[Callable[[Job], Made], dict[Size, Options]]] = {
    "manifold-figure-2": (_figure_2, _pictures()),
    "manifold-figure-3": (_figure_3, _planes()),
    "manifold-figure-9": (
        _figure_9,
        {
            "small": {**_QUALITY, "samples": 200, "tested": 1000},
            "paper": _QUALITY,
        },
    ),
    "manifold-figure-14": (_figure_3, _planes(regular="regular CW", on_manifold="on-manifold CW")),
    "manifold-figure-17": (
        _figure_2,
        _pictures(on_manifold="on-data-manifold", data_manifold="runs/vae-all"),
    ),
    "manifold-figure-20": (_figure_20, {"small": _TOY, "paper": _TOY}),
    **{
        f"manifold-figure-{figure}": (_sweep(_ALSO.get(figure, f"Fig. {figure}")), sizes)
        for figure, sizes in _SWEEPS.items()
    },
}
