"""The experiments of the papers that bring their own networks and data: `experiment`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import torch
import typer

from elbowroom.certificates import CERTIFICATES, Certificate
from elbowroom.cli import bounds_experiments, manifold_experiments
from elbowroom.cli.bounds_experiments import Job, Options, Size
from elbowroom.cli.options import Output, SeedOption, command, settings
from elbowroom.files import write_atomically
from elbowroom.norms import L2
from elbowroom.papers.bounds_compare import usual_bounds
from elbowroom.version import __version__

EXPERIMENTS = {**bounds_experiments.EXPERIMENTS, **manifold_experiments.EXPERIMENTS}


@command
def experiment(
    output: Output,
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(EXPERIMENTS)}.")],
    size: Annotated[
        str, typer.Option(help="small: minutes; paper: as many samples as the paper has.")
    ] = "small",
    bound: Annotated[
        list[str] | None,
        typer.Option(help="A certificate to put beside the attacks; repeatable; by default all."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the experiment, NAME=VALUE; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The page to write; by default NAME.html.")
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(help="The folder of networks that are trained; by default runs/PAPER."),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Repeat an experiment of the papers with its own networks and data, as a page.

    Of the Bounds thesis, always the published bound and the sound ones side by side: random linear
    classifiers (bounds-table-3.1), random and trained MLPs (bounds-table-4.2, bounds-table-4.3),
    margins of the output layer (bounds-figure-4.3), LeNet-5 and Network-in-Network
    (bounds-table-5.1), LeNet-5 with response normalisation (bounds-table-5.3), kernels scaled down
    (bounds-figure-5.12), layers (bounds-figure-5.13). For a network of yours, see figure.

    Of the Manifold paper, on FONTS or with other data and manifold: examples of both kinds (2, 17),
    whether they leave the manifold (3, 14), robustness on and off it over the number of training
    images (5, and 7, 12, 13, 15, 16, 18, 19 for other trainings, attacks and networks), samples of
    learned manifolds (9), toy data (20). Small takes minutes, up to a quarter of an hour, paper
    days.

    Networks that are trained need the extra \\[train]. They are kept in --runs: the first run of
    chapter 5 takes about ten minutes for each of them, and an interrupted training goes on.

    [bold]Examples[/bold]

      elbowroom experiment bounds-table-3.1

      elbowroom experiment bounds-table-4.2 --set activation=relu --set exact_seconds=5

      elbowroom experiment bounds-table-5.1 --size paper --bound layer-wise --json

      elbowroom experiment manifold-figure-5 --set seeds=3
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}")
    make, sizes = EXPERIMENTS[name]
    if size not in ("small", "paper"):
        raise ValueError(f"--size must be small or paper, not {size!r}")
    chosen: Size = "small" if size == "small" else "paper"
    options = _options(name, sizes[chosen], settings(set_))
    torch.set_num_threads(1)  # these networks are small, and training repeats itself bit by bit
    bounds = _bounds(bound)
    facts = [
        ("command", shlex.join(["elbowroom", *sys.argv[1:]])),
        *([("bounds", ", ".join(bounds))] if name.startswith("bounds-") else []),
        ("options", ", ".join(f"{key} = {value}" for key, value in options.items())),
        ("seed", str(seed)),
        ("elbowroom", __version__),
        ("torch", torch.__version__),
    ]
    with output.progress() as bar:
        task = bar.add_task(name, total=1)

        def advance(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        kept = runs or Path("runs") / name.partition("-")[0]
        job = Job(bounds, options, chosen, seed, kept, facts, advance, output.say)
        page, values, lines = make(job)
    path = out or Path(f"{name}.html")
    write_atomically(path, page.encode())
    told = {"experiment": name, "page": str(path), "size": chosen, "options": options}
    output.result(
        {**told, **values}, [("experiment", f"{name}, {chosen}"), *lines, ("page", str(path))]
    )


def _options(name: str, usual: Options, given: Options) -> Options:
    if unknown := [key for key in given if key not in usual]:
        raise ValueError(f"{name} has no option {unknown[0]!r}; it has {', '.join(usual)}")
    for key, value in given.items():
        if isinstance(usual[key], list) != isinstance(value, list):
            kind = "a list, such as [0,1]" if isinstance(usual[key], list) else "one value"
            raise ValueError(f"{key} of {name} must be {kind}, not {value!r}")
    return {**usual, **given}


def _bounds(names: list[str] | None) -> dict[str, Certificate]:
    if not names:
        return usual_bounds()
    if unknown := [name for name in names if name not in CERTIFICATES]:
        raise ValueError(f"there is no bound {unknown[0]!r}; there are {', '.join(CERTIFICATES)}")
    return {name: CERTIFICATES[name](norm=L2) for name in names}
