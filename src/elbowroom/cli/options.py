"""What the commands share: groups of options, output, and errors in one line."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import torch
import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import Tensor

from elbowroom import data as data_sets
from elbowroom import models
from elbowroom.audit.trust import are_probabilities
from elbowroom.classifier import Classifier
from elbowroom.data import Dataset

SMALL = 1_000_000
WIDE = 500  # letters
SOME = 100  # samples that tell whether the outputs are logits
FORESEEN = (ValueError, OSError, ImportError, TypeError, RuntimeError, FloatingPointError)

NormOption = Annotated[str, typer.Option(help="L1, L2 or Linf.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything random.")]
ModelSetOption = Annotated[
    list[str] | None, typer.Option("--model-set", help="An option of the network, NAME=VALUE.")
]
DebugOption = Annotated[bool, typer.Option("--debug", help="A traceback for errors.")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """A function with groups of options as parameters, as a command.

    A parameter whose type is a dataclass stands for one option per field. Foreseen errors become
    one line and an exit code; the option `--debug`, added here, lets them through.
    """
    groups: dict[str, type] = {}
    options: dict[str, inspect.Parameter] = {}

    def add(parameter: inspect.Parameter, hint: Any) -> None:
        options[parameter.name] = parameter.replace(
            kind=inspect.Parameter.KEYWORD_ONLY, annotation=hint
        )

    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if not is_dataclass(kind):
            add(parameter, kind)
            continue
        assert isinstance(kind, type)
        groups[parameter.name] = kind
        inner = get_type_hints(kind, include_extras=True)
        for member in inspect.signature(kind).parameters.values():
            add(member, inner[member.name])
    keyword = inspect.Parameter.KEYWORD_ONLY
    options["debug"] = inspect.Parameter("debug", keyword, default=False, annotation=DebugOption)

    def wrapped(*, debug: bool, **values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{f.name: values.pop(f.name) for f in fields(kind)})
        try:
            function(**values)
        except typer.Exit:  # which is a RuntimeError
            raise
        except KeyboardInterrupt:
            told = "the same command resumes an audit or a training, and does others anew"
            typer.echo(f"interrupted: {told}", err=True)
            raise typer.Exit(130) from None
        except FORESEEN as error:
            if debug:
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from None

    wrapped.__name__, wrapped.__doc__ = function.__name__, function.__doc__
    wrapped.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    wrapped.__annotations__ = {name: option.annotation for name, option in options.items()}
    return wrapped


@dataclass(frozen=True)
class Output:
    """Where a command's words go: progress to stderr, the result to stdout."""

    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="The result as JSON on standard output.")
    ] = False

    def say(self, text: str) -> None:
        """A line on the way to the result."""
        if not (self.quiet or self.as_json):
            _console().print(escape(text))

    def result(self, values: dict[str, Any], lines: list[tuple[str, str]]) -> None:
        """The result: `values` as JSON, or `lines` of name and text for people."""
        if self.as_json:
            sys.stdout.write(json.dumps(values, indent=2) + "\n")
        elif not self.quiet:
            for name, text in lines:
                _console().print(f"[bold]{escape(name):<20}[/bold] {escape(text)}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table for people: the first column is text, the others are figures."""
        if self.quiet or self.as_json:
            return
        table = Table(box=SIMPLE, pad_edge=False)
        for place, column in enumerate(columns):
            table.add_column(escape(column), justify="right" if place else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        # A file or another program has no width that lines would have to be broken for.
        terminal = Console().is_terminal
        Console(highlight=False, width=None if terminal else WIDE).print(table)

    def progress(self) -> Progress:
        """A progress bar; shown on terminals only."""
        console = Console(stderr=True)
        return Progress(
            TextColumn("{task.description:<20}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=console,
            disable=self.quiet or self.as_json or not console.is_terminal,
            transient=True,
        )


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Network:
    """Which network is measured."""

    model: Annotated[
        str, typer.Option(help="A network by name, trained or not, or package.module:callable.")
    ] = "fonts-plain"
    weights: Annotated[
        str | None,
        typer.Option(help="Weights: .safetensors, .pt/.pth (tensors only), a folder of .npy."),
    ] = None
    model_set: ModelSetOption = None


@dataclass(frozen=True)
class Surroundings:
    """What a network is measured on, and how it is run."""

    data: Annotated[
        str,
        typer.Option(help="A data set, an .npz file, an image folder, or package.module:callable."),
    ] = "fonts"
    split: Annotated[str, typer.Option(help="Which split of the data.")] = "test"
    samples: Annotated[int, typer.Option(min=1, help="How many samples, from the first.")] = 100
    mean: Annotated[
        str | None, typer.Option(help="Normalisation inside the model: numbers with commas.")
    ] = None
    std: Annotated[str | None, typer.Option(help="As for --mean.")] = None
    device: Annotated[
        str | None, typer.Option(help="Such as cpu or cuda:0; by default the model's own.")
    ] = None
    dtype: Annotated[
        str | None, typer.Option(help="float32 or float64; by default the model's own.")
    ] = None

    threads: Annotated[
        int | None,
        typer.Option(min=1, help="By default 1 for networks below a million parameters, else all."),
    ] = None

    def load_data(self, output: Output) -> Dataset:
        """The samples that are measured."""
        return load_data(output, self.data, self.split, self.samples)

    def classifier(self, network: Network, data: Dataset) -> Classifier:
        """The network as a classifier, with the input bounds of the data."""
        if self.dtype not in (None, "float32", "float64"):
            raise ValueError(f"dtype must be float32 or float64, not {self.dtype!r}")
        name = network.model
        if name in models.MODELS and network.weights is None:
            typer.echo(f"note: no weights are given for {name}: it has random weights", err=True)
            name += " (random weights)"
        with torch.random.fork_rng([]):
            torch.manual_seed(0)  # random weights are the same in every run
            options = settings(network.model_set)
            loaded = models.load(network.model, network.weights, **options)
        small = sum(parameter.numel() for parameter in loaded.parameters()) < SMALL
        if self.threads or small:
            # On small networks threads cost more than they do, many times so on a busy machine.
            torch.set_num_threads(self.threads or 1)
        return Classifier(
            loaded,
            bounds=data.bounds,
            mean=_numbers("mean", self.mean),
            std=_numbers("std", self.std),
            device=_device(self.device),
            dtype=getattr(torch, self.dtype) if self.dtype else None,
            name=name,
        )


@dataclass(frozen=True)
class Subject(Surroundings, Network):
    """What is measured: a network and samples."""

    def load_classifier(self, data: Dataset) -> Classifier:
        """The classifier, with the input bounds of the data."""
        return self.classifier(self, data)


def checked_samples(clf: Classifier, data: Dataset) -> tuple[Tensor, Tensor]:
    """The samples `(N, *shape)` and labels `(N,)`; a note where the network gives no logits."""
    x, y = clf.validate(data.x.to(clf.device, clf.dtype), data.y)
    with clf.session():
        outputs = clf.logits(x[:SOME])
    if are_probabilities(outputs):
        typer.echo(
            f"note: the outputs of {clf.name} look like probabilities, where logits are expected: "
            "leave its softmax out, or gradients vanish",
            err=True,
        )
    return x, y


def load_data(output: Output, spec: str, split: str, count: int | None) -> Dataset:
    """Data by name, with a line for every download that takes place."""
    started: set[str] = set()

    def report(name: str, received: int, total: int) -> None:
        if name not in started:
            started.add(name)
            output.say(f"downloading {name} ({total / 1e6:.1f} MB)")

    with data_sets.report_progress(report):
        return data_sets.load(spec, split, count)


def _device(name: str | None) -> torch.device | None:
    if name is None:
        return None
    try:
        torch.zeros(1, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here: {first_line}") from None


def _numbers(name: str, text: str | None) -> list[float] | float | None:
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
