"""Commands that make what is measured: `train` and `data`."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from elbowroom.cli.options import ModelSetOption, Output, command, load_data, settings
from elbowroom.data import DATASETS
from elbowroom.data.own import to_npz
from elbowroom.models import MODELS
from elbowroom.training import OBJECTIVES, RECIPES, EpochReport, Recipe, make_objective


@command
def train(
    output: Output,
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and the final weights.")],
    recipe: Annotated[
        str | None, typer.Option(help=f"Start from one of {', '.join(RECIPES)}.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A network by name, or package.module:callable.")
    ] = None,
    model_set: ModelSetOption = None,
    data: Annotated[str | None, typer.Option(help="A data set, as for audit.")] = None,
    split: Annotated[str | None, typer.Option(help="The split to train on.")] = None,
    count: Annotated[int | None, typer.Option(help="How many samples to train on.")] = None,
    objective: Annotated[str | None, typer.Option(help=f"One of {', '.join(OBJECTIVES)}.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of the objective, NAME=VALUE; repeatable."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.")] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Train a network, plainly or adversarially; the same command resumes an interrupted run.

    Needs the extra \\[train]: pip install 'elbowroom\\[train]'.

    [bold]Examples[/bold]

      elbowroom train --recipe fonts-plain --out runs/fonts-plain

      elbowroom train --model mlp --model-set sizes='[784,100,10]' --data mnist
      --objective adversarial --set eps=0.1 --set norm=Linf --epochs 5 --out runs/robust
    """
    plan = _plan(recipe, model, data)
    changes: dict[str, Any] = {"model_options": settings(model_set)} if model_set else {}
    changes |= {k: v for k, v in {"split": split, "count": count}.items() if v is not None}
    if objective or set_:
        name = objective or plan.objective.name
        kept = _fields(plan.objective) if name == plan.objective.name else {}
        changes["objective"] = make_objective(name, {**kept, **settings(set_)})
    given = {
        "seed": seed,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
    }
    run_changes: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
    changes["settings"] = replace(plan.settings, **run_changes)
    plan = replace(plan, **changes)

    def advance(report: EpochReport) -> None:
        output.say(_line(report))

    typed = shlex.join(["elbowroom", *sys.argv[1:]])
    result = plan.run(out, progress=advance, accelerator=accelerator, metadata={"command": typed})
    last = result.history[-1]
    lines = [("weights", str(result.weights)), ("last epoch", _line(last))]
    output.result({"weights": str(result.weights), **asdict(last)}, lines)


def _line(report: EpochReport) -> str:
    score = "" if report.accuracy is None else f", accuracy {report.accuracy:.2%}"
    return (
        f"epoch {report.epoch}/{report.epochs}: loss {report.loss:.4f}{score} "
        f"({report.seconds:.1f} s)"
    )


def _plan(recipe: str | None, model: str | None, data: str | None) -> Recipe:
    if recipe is not None:
        if recipe not in RECIPES:
            raise ValueError(f"unknown recipe {recipe!r}; there are {', '.join(RECIPES)}")
        changes = {k: v for k, v in {"model": model, "data": data}.items() if v is not None}
        return replace(RECIPES[recipe], **changes)  # type: ignore[arg-type]
    if model is None or data is None:
        raise ValueError("give --recipe, or both --model and --data")
    return Recipe(model=model, data=data)


def _fields(objective: Any) -> dict[str, Any]:
    return {f.name: getattr(objective, f.name) for f in fields(objective)}


@command
def data(
    output: Output,
    name: Annotated[str | None, typer.Argument(help="A data set; all are listed if none.")] = None,
    split: Annotated[str, typer.Option(help="Which split of the data.")] = "test",
    count: Annotated[int | None, typer.Option(help="Only the first so many samples.")] = None,
    out: Annotated[str | None, typer.Option(help="Save it as an .npz file.")] = None,
) -> None:
    """List the data sets, or fetch, check and describe one.

    [bold]Examples[/bold]

      elbowroom data

      elbowroom data mnist --split train

      elbowroom data fonts --count 500 --out letters.npz
    """
    if name is None:
        output.result(
            {"data": list(DATASETS), "models": list(MODELS), "recipes": list(RECIPES)},
            [("data sets", ", ".join(DATASETS)), ("networks", ", ".join(MODELS)),
             ("training recipes", ", ".join(RECIPES))],
        )  # fmt: skip
        return
    found = load_data(output, name, split, count)
    counts = Counter(found.y.tolist())
    per_class = {label: counts.get(i, 0) for i, label in enumerate(found.classes)}
    lower, upper = (torch.as_tensor(bound) for bound in found.bounds)
    limits = [float(lower.min()), float(upper.max())]
    values = {
        "name": found.name,
        "split": found.split,
        "samples": len(found),
        "shape": list(found.shape),
        "bounds": limits,
        "classes": per_class,
        "source": found.source,
    }
    lines = [
        ("name", f"{found.name}/{found.split}"),
        ("samples", f"{len(found)} of shape {found.shape}"),
        ("bounds", f"[{limits[0]:g}, {limits[1]:g}]"),
        ("classes", ", ".join(f"{label} {n}" for label, n in per_class.items())),
        ("source", found.source),
    ]
    if out:
        to_npz(found, out)
        lines.append(("saved", out))
    output.result(values, lines)
