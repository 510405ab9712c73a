"""The experiments of the Bounds thesis, for `elbowroom experiment`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from elbowroom import data
from elbowroom.attacks import DDN
from elbowroom.certificates import Certificate
from elbowroom.classifier import Classifier
from elbowroom.papers import (
    bounds_cnn,
    bounds_cnn_pages,
    bounds_layers,
    bounds_mlp,
    bounds_pages,
    bounds_random,
)
from elbowroom.papers.bounds_compare import Measured, Spread, plain, plain_spread, summary
from elbowroom.papers.lra import Advance
from elbowroom.papers.page import About
from elbowroom.training import EpochReport

Size = Literal["small", "paper"]
Options = dict[str, Any]
# A page, numbers for programs, and lines for people.
Made = tuple[str, dict[str, Any], list[tuple[str, str]]]


@dataclass(frozen=True)
class Job:
    """What an experiment is given.

    options: those of its size, changed by --set. runs: folder of networks that are kept.
    say:     tells what happens before the measuring.
    """

    bounds: Mapping[str, Certificate]
    options: Options
    size: Size
    seed: int
    runs: Path
    facts: list[tuple[str, str]]
    advance: Advance
    say: Callable[[str], None]

    def about(self, model: str, data: str) -> About:
        return About(model, data, facts=self.facts)

    def network(self, name: str) -> tuple[Classifier, data.Dataset]:
        """A trained network of chapter 5 and its test data."""
        if name not in bounds_cnn.PUBLISHED:
            known = ", ".join(bounds_cnn.PUBLISHED)
            raise ValueError(f"there is no network {name!r} in chapter 5; there are {known}")
        self.say(f"{name}: trained if {self.runs} does not have it yet, which takes minutes")

        def told(report: EpochReport) -> None:
            score = "" if report.accuracy is None else f", accuracy {report.accuracy:.2%}"
            self.say(f"{name}: epoch {report.epoch}/{report.epochs}{score}")

        short = self.size == "small"
        model = bounds_cnn.trained(name, self.runs, short=short, progress=told)
        test = data.load(bounds_cnn.recipe(name, short=short).data, "test")
        # Float32 rounds away more than bounds of deep networks leave.
        clf = Classifier(model, bounds=test.bounds, dtype=torch.float64, name=name)
        return clf, test


def _table_3_1(job: Job) -> Made:
    rows = _rows(bounds_random.TABLE_3_1, job)
    found = bounds_random.table_3_1(job.bounds, settings=rows, seed=job.seed, advance=job.advance)
    page = bounds_pages.table_3_1_page(
        found, rows, job.about("linear classifiers", "uniform noise")
    )
    return page, _random_values(rows, found), _told({str(n): m for n, m in enumerate(found, 1)})


def _table_4_2(job: Job) -> Made:
    rows = _rows(bounds_random.TABLE_4_2, job)
    given = {name: value for name, value in job.options.items() if name != "networks"}
    found = bounds_random.table_4_2(
        job.bounds, settings=rows, seed=job.seed, advance=job.advance, **given
    )
    about = job.about(f"random MLPs ({given['activation']})", "uniform noise")
    page = bounds_pages.table_4_2_page(found, rows, about)
    return page, _random_values(rows, found), _told({str(n): m for n, m in enumerate(found, 1)})


def _table_4_3(job: Job) -> Made:
    found = bounds_mlp.table_4_3(
        job.bounds, folder=job.runs, seed=job.seed, advance=job.advance, **job.options
    )
    page = bounds_pages.table_4_3_page(found, job.about("trained MLPs", ", ".join(found)))
    values = {
        name: {"accuracy": one.accuracy, **summary(one.measured)} for name, one in found.items()
    }
    lines = [(f"{name} accuracy", f"{one.accuracy:.2%}") for name, one in found.items()]
    return page, values, lines + _told({name: one.measured for name, one in found.items()})


def _figure_4_3(job: Job) -> Made:
    found = bounds_mlp.figure_4_3(seed=job.seed, advance=job.advance, **job.options)
    page = bounds_pages.figure_4_3_page(found, job.about("trained MLPs", ", ".join(found)))
    values = {
        name: {**vars(one), "distances": [plain_spread(spread) for spread in one.distances]}
        for name, one in found.items()
    }
    lines = [
        (f"{name}, weight {weight:g}", f"accuracy {accuracy:.1%}, error {error:.1%}")
        for name, one in found.items()
        for weight, accuracy, error in zip(one.weights, one.accuracy, one.error, strict=True)
    ]
    return page, values, lines


def _images(table: str) -> Callable[[Job], Made]:
    def make(job: Job) -> Made:
        found, sets = {}, []
        options = dict(job.options)
        networks = options.pop("networks")
        for name in networks:
            clf, test = job.network(name)
            sets.append(test.name)
            found[name] = bounds_cnn.perturb(
                clf, test, job.bounds, seed=job.seed, advance=job.advance, **options
            )
        about = job.about(", ".join(networks), ", ".join(dict.fromkeys(sets)))
        page = bounds_cnn_pages.images_page(found, about, name=table)
        values, lines = {}, []
        for name, one in found.items():
            fgs = one.measured.distances["FGS"]
            spread = Spread.of(one.eps)
            values[name] = {
                "accuracy": one.accuracy,
                "eps": plain_spread(spread),
                "heat": one.heat().tolist(),
                "normalised_distance": plain(one.normalised(fgs)),
                "normalised_bounds": {
                    bound: plain(one.normalised(radii))
                    for bound, radii in one.measured.radii.items()
                },
                **summary(one.measured),
            }
            rate, mean = one.measured.success_rate("FGS"), spread.mean if spread else torch.nan
            text = f"accuracy {one.accuracy:.2%}, FGS {rate:.2%}, mean eps {mean:.4g}"
            lines.append((name, text))
        return page, values, lines + _told({name: one.measured for name, one in found.items()})

    return make


def _figure_5_12(job: Job) -> Made:
    found = {}
    for name in job.options["networks"]:
        clf, test = job.network(name)
        chosen = test.take(job.options["samples"])
        found[name] = bounds_layers.scaled_kernels(
            clf,
            chosen.x.to(clf.dtype),
            chosen.y,
            attacks={"DDN": DDN(steps=job.options["steps"], seed=job.seed)},
            bounds=job.bounds,
            scale=job.options["scale"],
            advance=job.advance,
        )
    page = bounds_cnn_pages.figure_5_12_page(found, job.about(", ".join(found), "test images"))
    values, lines = {}, []
    for name, one in found.items():
        kernels = len(one.measured) - 1
        bounds = {bound: one.relative(bound) for bound in job.bounds}
        computed = [
            bounds_layers.increase_by_scaling(n, one.scale) for n in range(len(one.measured))
        ]
        values[name] = {
            "computed": computed,
            "nearest": [plain(value) for value in one.relative()],
            "bounds": {b: [plain(ratio) for ratio in ratios] for b, ratios in bounds.items()},
            "accuracy": one.accuracy,
            "margins": one.margins,
            "measured": [summary(measured) for measured in one.measured],
        }
        measured = ", ".join(f"{bound} {ratio[-1]:.4g}" for bound, ratio in bounds.items())
        text = f"computed {computed[-1]:.4g}; nearest found {one.relative()[-1]:.4g}, {measured}"
        lines.append((f"{name}, {kernels} scaled", text))
    return page, values, lines


def _figure_5_13(job: Job) -> Made:
    found = {}
    for done, name in enumerate(job.options["networks"]):
        clf, test = job.network(name)
        chosen = test.take(job.options["samples"])
        found[name] = bounds_layers.layer_bounds(clf, chosen.x.to(clf.dtype), bounds=job.bounds)
        job.advance(done + 1, len(job.options["networks"]))
    page = bounds_cnn_pages.figure_5_13_page(found, job.about(", ".join(found), "test images"))
    values: dict[str, Any] = {
        name: {
            "layers": one.layers,
            "refused": one.refused,
            "relative": {b: [plain(value) for value in one.relative(b)] for b in one.kappas},
            "ratios": {b: [plain(value) for value in one.ratios(b)] for b in one.kappas},
        }
        for name, one in found.items()
    }
    layers = range(1, bounds_cnn_pages.LAYERS_SHOWN + 1)
    values["computed"] = [bounds_layers.increase_by_layers(n) for n in layers]
    lines = [
        (f"{name}, {bound}", f"relative increase {one.relative(bound)[-1]:.4g} of all layers")
        for name, one in found.items()
        for bound in one.kappas
    ]
    return page, values, lines


def _rows(table: tuple[bounds_random.Setting, ...], job: Job) -> list[bounds_random.Setting]:
    most = job.options["networks"]
    return [replace(row, networks=min(row.networks, most)) for row in table]


def _random_values(rows: list[bounds_random.Setting], found: list[Measured]) -> dict[str, Any]:
    pairs = zip(rows, found, strict=True)
    return {"rows": [{"setting": asdict(row), **summary(one)} for row, one in pairs]}


def _told(found: Mapping[str, Measured]) -> list[tuple[str, str]]:
    """A line for each bound: violations of all samples."""
    lines = []
    for bound in next(iter(found.values())).radii:
        violations = sum(int(one.violations(bound).sum()) for one in found.values())
        samples = sum(int(one.radii[bound].isfinite().sum()) for one in found.values())
        refused = "" if samples else ", refused"
        lines.append((bound, f"{violations} violations on {samples} samples{refused}"))
    return lines


_CNN_SMALL = {"samples": 100, "strong": 20, "tested": 1000, "budget": 400}
_CNN_PAPER = {"samples": 10_000, "strong": 500, "tested": 10_000, "budget": 1500}
_LENETS = ["lenet5", "lenet5-lrn1", "lenet5-lrn2", "lenet5-lrn3"]

#: Experiment -> how it is made, and its options at both sizes.
EXPERIMENTS: dict[str, tuple[Callable[[Job], Made], dict[Size, Options]]] = {
    "bounds-table-3.1": (_table_3_1, {"small": {"networks": 20}, "paper": {"networks": 100}}),
    "bounds-table-4.2": (
        _table_4_2,
        {
            "small": {"networks": 10, "activation": "tanh", "max_eps": 1.0, "budget": 100,
                      "exact_seconds": None},
            "paper": {"networks": 100, "activation": "tanh", "max_eps": 1.0, "budget": 600,
                      "exact_seconds": None},
        },
    ),
    "bounds-table-4.3": (
        _table_4_3,
        {"small": {"samples": 100, "budget": 300}, "paper": {"samples": 10_000, "budget": 1500}},
    ),
    "bounds-figure-4.3": (
        _figure_4_3,
        {
            "small": {"weights": [0.0, 0.1, 0.2, 0.5], "max_eps": 1.0},
            "paper": {"weights": list(bounds_mlp.WEIGHTS), "max_eps": 1.0},
        },
    ),
    "bounds-table-5.1": (
        _images("Tables 5.1 and 5.2"),
        {
            "small": {"networks": ["lenet5"], **_CNN_SMALL},
            "paper": {"networks": ["lenet5", "cifar-nin"], **_CNN_PAPER},
        },
    ),
    "bounds-table-5.3": (
        _images("Table 5.3"),
        {"small": {"networks": _LENETS, **_CNN_SMALL},
         "paper": {"networks": _LENETS, **_CNN_PAPER}},
    ),
    "bounds-figure-5.12": (
        _figure_5_12,
        {
            "small": {"networks": ["lenet5"], "samples": 50, "steps": 100, "scale": 0.9},
            "paper": {"networks": ["lenet5", "cifar-nin"], "samples": 200, "steps": 200,
                      "scale": 0.9},
        },
    ),
    "bounds-figure-5.13": (
        _figure_5_13,
        {
            "small": {"networks": ["lenet5"], "samples": 50},
            "paper": {"networks": ["lenet5", "cifar-nin"], "samples": 500},
        },
    ),
}  # fmt: skip
