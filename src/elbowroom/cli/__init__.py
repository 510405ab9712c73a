"""The command line: `elbowroom audit`, `attack`, `figure` and the others."""

from __future__ import annotations

from typing import Annotated

import typer

from elbowroom.cli import manifold
from elbowroom.cli.compare import compare
from elbowroom.cli.experiments import experiment
from elbowroom.cli.invert import invert
from elbowroom.cli.make import data, train
from elbowroom.cli.measure import audit, report
from elbowroom.cli.papers import figure
from elbowroom.cli.path import path
from elbowroom.cli.preimage import preimage
from elbowroom.cli.single import attack, certify, exact
from elbowroom.version import __version__

EXIT_CODES = (
    "Exit codes: 0 done; 1 something is wrong with the input or the disk (one line says what and "
    "how to mend it); 2 wrong usage; 3 the audit finished, but a trust check failed, or a hunt "
    "found violated bounds; 130 interrupted (the same command resumes an audit or a training)."
)

app = typer.Typer(
    name="elbowroom",
    help="How far can an input move before a network changes its mind, and how far without it "
    "noticing?",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for function in (
    audit, compare, attack, certify, exact, invert, path, figure, experiment, preimage, report,
    train, data,
):  # fmt: skip
    app.command()(function)
app.add_typer(manifold.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """What stands before a command."""


def main() -> None:
    """The entry point of the `elbowroom` command."""
    app()
