"""The figures of the papers as pages: `figure`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from elbowroom.attacks import Attack, IterativePerturbation, LinearRegion, NearestPoints
from elbowroom.audit import MethodConfig
from elbowroom.classifier import Classifier
from elbowroom.cli import nspgd_figures
from elbowroom.cli.options import (
    Output,
    SeedOption,
    Subject,
    checked_samples,
    command,
    load_data,
    settings,
)
from elbowroom.data import Dataset
from elbowroom.files import write_atomically
from elbowroom.papers import bounds, lra, lra_curves, lra_pages
from elbowroom.papers.page import About, grey_scale
from elbowroom.regions import WorkingSet
from elbowroom.report.figures import percent
from elbowroom.version import __version__

# Enough for near starts in every class; classifying more takes longer than the walks.
START_POINTS = 5000
WALKS: dict[str, Any] = {"starts": 3, "regions": 30, "independent": True}
CURVES: dict[str, Any] = {"starts": 2, "regions": 20, "independent": True}


@dataclass(frozen=True)
class Job:
    """What a figure is made of: `x` `(N, *shape)`, `y` `(N,)` and their `numbers` in the data.

    points: data points that walks may start from; loaded when they are asked for.
    options: of the attack, as given with --set.
    """

    clf: Classifier
    x: Tensor
    y: Tensor
    numbers: Tensor
    points: Callable[[], Dataset]
    options: dict[str, Any]
    seed: int
    about: About
    advance: lra.Advance

    def attack(self, defaults: dict[str, Any]) -> LinearRegion:
        """`LinearRegion` with `defaults`, the given options, and starts among the data."""
        options = {**defaults, **self.options, "seed": self.seed}
        built = MethodConfig(kind="attack", method="linear-region", options=options).build()
        assert isinstance(built, LinearRegion)
        return replace(built, start=self.start())

    def told(self, method: Attack | WorkingSet, shown: int) -> About:
        """What the page is about, with the method's settings and how many samples it shows."""
        facts = [*self.about.facts, ("method", str(method))]
        if not isinstance(method, IterativePerturbation):
            data = self.points()
            facts.append(("starts", f"{data.name}, {data.split} split, {len(data)} points"))
        missing = len(self.x) - shown
        left = f", {missing} without a start or a result" if missing else ""
        return replace(self.about, facts=[*facts, ("samples", f"{shown} shown{left}")])

    def start(self) -> NearestPoints:
        data = self.points()
        return NearestPoints(points=data.x.to(self.x), labels=data.y)


# A page, and its numbers for programs.
Made = tuple[str, dict[str, Any]]


def _figure_5(job: Job, name: str) -> Made:
    attack = job.attack(WALKS)
    rows = lra.figure_5(job.clf, job.x, job.y, attack=attack, advance=job.advance)
    rows = [replace(row, sample=int(job.numbers[row.sample])) for row in rows]
    scale = grey_scale(job.clf, job.x)
    page = lra_pages.figure_5_page(rows, job.told(attack, len(rows)), norm=attack.norm, scale=scale)
    values = [
        {"sample": row.sample, "distances": row.distances.tolist(), "classes": row.classes.tolist()}
        for row in rows
    ]
    return page, {"rows": values}


def _figure_6(job: Job, name: str) -> Made:
    known = [field.name for field in fields(WorkingSet)]
    if unknown := [option for option in job.options if option not in known]:
        raise ValueError(f"lra-6 has no option {unknown[0]!r}; it has {', '.join(known)}")
    solver = replace(lra.EXACT, **job.options)
    found = lra.figure_6(job.clf, job.x, job.y, start=job.start(), solver=solver)
    found = replace(found, samples=job.numbers[found.samples.cpu()])
    about = job.told(solver, len(found.samples))
    page = lra_pages.figure_6_page(found, about, scale=grey_scale(job.clf, job.x))
    return page, {
        key: getattr(found, key).tolist()
        for key in ("samples", "distances", "apart", "violations", "constraints")
    }


def _curves(job: Job, name: str) -> Made:
    if name in ("lra-1", "lra-3"):
        attack = job.attack({**CURVES, "gamma": 9.0 if name == "lra-3" else 6.0})
        found = lra_curves.figure_1(job.clf, job.x, job.y, attack=attack, advance=job.advance)
    else:
        attack = job.attack(CURVES)
        found = lra_curves.figure_2(job.clf, job.x, job.y, attack=attack, advance=job.advance)
    about = job.told(attack, len(found.samples))
    page = lra_pages.curves_page(found, about, name=f"LRA, Fig. {name[-1]}")
    statistics = {"median": found.median, "maximum": found.maximum, "mean": found.mean}
    return page, {
        curve: {key: values[place].tolist() for key, values in statistics.items()}
        for place, curve in enumerate(found.names)
    }


def _iterated(job: Job, name: str) -> Made:
    options = {**job.options, "seed": job.seed}
    attack = MethodConfig(kind="attack", method="iterative", options=options).build()
    assert isinstance(attack, IterativePerturbation)
    found = bounds.figure_2_5(job.clf, job.x, attack=attack)
    page = bounds.figure_2_5_page(
        found,
        job.told(attack, len(job.x)),
        samples=job.numbers.tolist(),
        scale=grey_scale(job.clf, job.x),
    )
    return page, {"steps": found.steps.T.tolist(), "decisions": found.decisions.T.tolist()}


#: Figure -> (how it is made, how many samples by default).
FIGURES: dict[str, tuple[Callable[[Job, str], Made], int]] = {
    "lra-1": (_curves, 10),
    "lra-2": (_curves, 10),
    "lra-3": (_curves, 10),
    "lra-4": (_curves, 10),
    "lra-5": (_figure_5, 6),
    "lra-6": (_figure_6, 6),
    "bounds-2.5": (_iterated, 6),
    "nspgd-2": (nspgd_figures.figure_2, 4),
    "nspgd-5": (nspgd_figures.figure_5, 100),
    "nspgd-7": (nspgd_figures.figure_7, 100),
    "nspgd-9": (nspgd_figures.figure_9, 6),
}


@command
def figure(
    subject: Subject,
    output: Output,
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(FIGURES)}.")],
    out: Annotated[
        Path | None, typer.Option(help="The page to write; by default NAME.html.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="How many rightly classified samples, from the first."),
    ] = None,
    start_split: Annotated[
        str | None,
        typer.Option(
            help="The split of the data in which the walks of lra-1 to lra-6 start; train."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the figure's attack, NAME=VALUE; repeatable."),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Make a figure of the papers for any network and data, as a page.

    lra-1 to lra-6: progress over linear regions for several q (1, 3) and gamma (2, 4), images on
    the decision boundary (5), images that share a linear region (6). bounds-2.5: iterated
    perturbations. nspgd-2: one step in the null space of a two-layer network; nspgd-5, nspgd-7:
    walks between classes at equal confidence, their images and success rates; nspgd-9: how wide
    their paths are.

    [bold]Examples[/bold]

      elbowroom figure lra-5 --out boundary.html

      elbowroom figure lra-1 --model wong-kolter-mnist --weights kw.pth --data mnist
      --set regions=100 --count 50

      elbowroom figure bounds-2.5 --model my_package.nets:make --data images/

      elbowroom figure nspgd-7 --set sources=5 --set distance=ssim --set threshold=0.1
    """
    if name not in FIGURES:
        raise ValueError(f"there is no figure {name!r}; there are {', '.join(FIGURES)}")
    if start_split is not None and not name.startswith("lra-"):
        raise ValueError(f"{name} has no walks that start at other samples: drop --start-split")
    make, usual = FIGURES[name]
    data = subject.load_data(output)
    clf = subject.load_classifier(data)
    options = settings(set_)
    with output.progress() as bar:
        task = bar.add_task(name, total=1)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        x, y, numbers = _rightly(clf, data, count or usual)
        about = About(clf.name, f"{data.name}/{data.split}", data.classes, facts(clf, data, seed))

        @cache
        def points() -> Dataset:
            found = load_data(output, subject.data, start_split or "train", None)
            return found.take(min(START_POINTS, len(found)))

        job = Job(clf, x, y, numbers, points, options, seed, about, advance)
        page, values = make(job, name)
    path = out or Path(f"{name}.html")
    write_atomically(path, page.encode())
    lines = [("figure", name), ("samples", _taken_of(len(x), count))]
    if "success_rate" in values:
        lines.append(("success", percent(values["success_rate"])))
    lines.append(("page", str(path)))
    output.result({"figure": name, "page": str(path), **values}, lines)


def _taken_of(taken: int, wanted: int | None) -> str:
    if wanted is None or taken == wanted:
        return str(taken)
    return f"{taken}, fewer than {wanted}: no more are classified as labelled; --samples takes more"


def _rightly(clf: Classifier, data: Dataset, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first `count` samples that are classified as labelled, and their numbers."""
    x, y = checked_samples(clf, data)
    with clf.session():
        right = (clf.logits(x).argmax(dim=1) == y).nonzero().squeeze(1)[:count]
    if not len(right):
        raise ValueError(
            f"none of the {len(x)} samples is classified as labelled: check --weights, --mean and "
            "--std, or take more --samples"
        )
    return x[right], y[right], right.cpu()


def facts(clf: Classifier, data: Dataset, seed: int) -> list[tuple[str, str]]:
    """What is needed to make a page again."""
    model = f"{clf.name}, {str(clf.dtype).removeprefix('torch.')}"
    return run_facts([("model", model)], data, seed)


def run_facts(
    networks: Sequence[tuple[str, str]], data: Dataset, seed: int
) -> list[tuple[str, str]]:
    """The same for any number of networks, described as (name, value)."""
    return [
        ("command", shlex.join(["elbowroom", *sys.argv[1:]])),
        *networks,
        ("data", f"{data.name}, {data.split} split, shape {data.shape}"),
        ("source of the data", data.source),
        ("seed", str(seed)),
        ("elbowroom", __version__),
        ("torch", torch.__version__),
    ]
