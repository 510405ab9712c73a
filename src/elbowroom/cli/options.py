"""What the commands share: options, loading, output, and errors in one line."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from elbowroom import data as data_module
from elbowroom import models
from elbowroom.classifier import Classifier
from elbowroom.data import Dataset

F = TypeVar("F", bound=Callable[..., Any])

ModelOption = Annotated[
    str,
    typer.Option(help="A network that comes with the package, a name, or package.module:callable."),
]
WeightsOption = Annotated[
    str | None, typer.Option(help="Weights: .safetensors, .pt/.pth (tensors only), .npy folder.")
]
ModelSetOption = Annotated[
    list[str] | None, typer.Option("--model-set", help="An option of the network, NAME=VALUE.")
]
DataOption = Annotated[
    str, typer.Option(help="A data set, an .npz file, an image folder, or package.module:callable.")
]
SplitOption = Annotated[str, typer.Option(help="Which split of the data.")]
SamplesOption = Annotated[int, typer.Option(min=1, help="How many samples, from the first.")]
NormOption = Annotated[str, typer.Option(help="L1, L2 or Linf.")]
SeedOption = Annotated[int, typer.Option(help="Of everything random.")]
DeviceOption = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; the model's own.")]
DtypeOption = Annotated[str | None, typer.Option(help="float32 or float64; the model's own.")]
MeanOption = Annotated[str | None, typer.Option(help="Normalisation inside: numbers with commas.")]
StdOption = Annotated[str | None, typer.Option(help="Normalisation inside: numbers with commas.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="A traceback for errors.")]

FORESEEN = (ValueError, OSError, ImportError, TypeError, FloatingPointError)


def friendly(command: F) -> F:
    """Turn foreseen errors into one line and an exit code; `--debug` lets them through."""

    @functools.wraps(command)
    def wrapped(**options: Any) -> Any:
        try:
            return command(**options)
        except KeyboardInterrupt:
            typer.echo("interrupted: run the same command again to resume", err=True)
            raise typer.Exit(130) from None
        except FORESEEN as error:
            if options.get("debug"):
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from None

    return wrapped  # type: ignore[return-value]


class Output:
    """Where a command's words go: people read stderr's progress and stdout's result."""

    def __init__(self, quiet: bool, as_json: bool) -> None:
        self.quiet = quiet or as_json
        self.as_json = as_json
        self.console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(escape(text))

    def result(self, values: dict[str, Any], lines: list[tuple[str, str]]) -> None:
        """The result: `values` as JSON, or `lines` of name and text for people."""
        if self.as_json:
            sys.stdout.write(json.dumps(values, indent=2) + "\n")
        elif not self.quiet:
            for name, text in lines:
                self.console.print(f"[bold]{escape(name):<20}[/bold] {escape(text)}")

    def progress(self) -> Progress:
        """A progress bar on stderr; shown on terminals only, never with --quiet."""
        console = Console(stderr=True)
        return Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=console,
            disable=self.quiet or not console.is_terminal,
            transient=True,
        )


def load_data(output: Output, spec: str, split: str, count: int | None) -> Dataset:
    """The data, with a line for every download that takes place."""
    started: set[str] = set()

    def report(name: str, received: int, total: int) -> None:
        if name not in started:
            started.add(name)
            output.say(f"downloading {name} ({total / 1e6:.1f} MB)")

    with data_module.report_progress(report):
        return data_module.load(spec, split, count)


def load_classifier(
    model: str,
    weights: str | None,
    model_set: list[str] | None,
    data: Dataset,
    *,
    mean: str | None = None,
    std: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
) -> Classifier:
    """The classifier the options describe, with the input bounds of the data."""
    if dtype not in (None, "float32", "float64"):
        raise ValueError(f"dtype must be float32 or float64, not {dtype!r}")
    if model in models.MODELS and weights is None:
        typer.echo(f"note: {model} without --weights has random weights", err=True)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)  # random weights are the same in every run
        network = models.load(model, weights, **settings(model_set))
    return Classifier(
        network,
        bounds=data.bounds,
        mean=numbers("mean", mean),
        std=numbers("std", std),
        device=torch.device(device) if device else None,
        dtype=getattr(torch, dtype) if dtype else None,
        name=model,
    )


def numbers(name: str, text: str | None) -> list[float] | float | None:
    """`"0.5"` to a number, `"0.4,0.5,0.6"` to a list."""
    if text is None:
        return None
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--{name} takes numbers separated by commas, not {text!r}") from None
    return values if len(values) > 1 else values[0]


def settings(pairs: list[str] | None) -> dict[str, Any]:
    """`["steps=40", "loss=margin"]` to a dictionary; values are JSON where they can be."""
    found: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"{pair!r} is not of the form NAME=VALUE")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
