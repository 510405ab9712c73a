"""Commands of the main job: `audit` and `report`."""

from __future__ import annotations

from typing import Annotated

import typer

from elbowroom.audit import Card, MethodConfig
from elbowroom.audit.config import all_methods
from elbowroom.classifier import Classifier
from elbowroom.cli.options import NormOption, Output, SeedOption, Subject, command, load_data
from elbowroom.data import Dataset
from elbowroom.job import audit as run_audit
from elbowroom.job import rebuild
from elbowroom.manifold.registry import USUAL_DECODERS
from elbowroom.norms import Norm

DOUBTFUL = 3


@command
def audit(
    subject: Subject,
    output: Output,
    norm: NormOption = "L2",
    out: Annotated[
        str | None, typer.Option(help="Folder of the run; by default runs/MODEL-DATA.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only this method, such as ddn; repeatable."),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="Of the manifold that the data lie on, as for manifold attack; fonts for fonts, "
            "and none otherwise, by default."
        ),
    ] = None,
    seed: SeedOption = 0,
    chunk: Annotated[int, typer.Option(min=1, help="Samples computed together.")] = 32,
    unit: Annotated[int, typer.Option(min=1, help="Samples stored together.")] = 32,
) -> None:
    """Measure a classifier and write a robustness card: report.html and summary.json.

    Finished parts are kept: the same command continues an interrupted audit.

    [bold]Examples[/bold]

      elbowroom audit

      elbowroom audit --model wong-kolter-mnist --weights kw.pth --data mnist --samples 200

      elbowroom audit --model my_package.nets:make --data images/ --mean 0.5 --std 0.25
    """
    whole = load_data(output, subject.data, subject.split, None)
    enough = subject.samples <= len(whole)  # generated sets have as many as one asks for
    samples = whole.take(subject.samples) if enough else subject.load_data(output)
    clf = subject.load_classifier(samples)
    folder = out or f"runs/{_folder_name(subject.model)}-{_folder_name(subject.data)}"
    through = USUAL_DECODERS.get(subject.data) if decoder is None else decoder
    unused = decoder is None and bool(method) and "on-manifold" not in (method or [])
    through = None if through == "none" or unused else through
    with output.progress() as bar:
        task = bar.add_task("starting", total=1)

        def advance(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name)

        card = run_audit(
            clf,
            samples,
            folder,
            norm=norm,
            methods=_selected(clf, samples, Norm.parse(norm), seed, method, through),
            whole=whole,
            decoder=through,
            seed=seed,
            chunk=chunk,
            unit=unit,
            progress=advance,
        )
    _show(card, output)


@command
def report(
    output: Output,
    run: Annotated[str, typer.Argument(help="The folder of a finished audit.")],
) -> None:
    """Write report.html and summary.json of a finished audit anew.

    [bold]Example[/bold]

      elbowroom report runs/fonts-plain-fonts
    """
    _show(rebuild(run), output)


def _show(card: Card, output: Output) -> None:
    values = card.summary.model_dump(by_alias=True)
    output.result(values, [*card.rows(), ("page", card.page), ("summary", card.summary_file)])
    if not all(check.passed for check in card.summary.trust):
        raise typer.Exit(DOUBTFUL)


def _selected(
    clf: Classifier,
    data: Dataset,
    norm: Norm,
    seed: int,
    names: list[str] | None,
    decoder: str | None,
) -> dict[str, MethodConfig] | None:
    """The named methods; the default set if none are named."""
    if not names:
        return None
    every = all_methods(clf, data.x.to(clf.device, clf.dtype), norm, seed, decoder)
    if unknown := [name for name in names if name not in every]:
        hint = "; it needs --decoder" if unknown[0] == "on-manifold" else ""
        known = ", ".join(every)
        raise ValueError(f"no method {unknown[0]!r} in this audit{hint}; there are {known}")
    return {name: method for name, method in every.items() if name in names}


def _folder_name(spec: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in spec.rstrip("/")).strip("-.")
