"""Commands of the main job: `audit` and `report`."""

from __future__ import annotations

from typing import Annotated, Any

import torch
import typer

from elbowroom.audit import Card, MethodConfig
from elbowroom.audit.config import default_methods
from elbowroom.cli.options import (
    DataOption,
    DebugOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MeanOption,
    ModelOption,
    ModelSetOption,
    NormOption,
    Output,
    QuietOption,
    SamplesOption,
    SeedOption,
    SplitOption,
    StdOption,
    WeightsOption,
    friendly,
    load_classifier,
    load_data,
)
from elbowroom.job import audit as run_audit
from elbowroom.job import rebuild
from elbowroom.norms import Norm

DOUBTFUL = 3

SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the method, NAME=VALUE; repeatable.")
]
SaveOption = Annotated[
    str | None, typer.Option("--out", help="Also save every sample's result to this .npz file.")
]


@friendly
def audit(
    model: ModelOption = "fonts-plain",
    weights: WeightsOption = None,
    model_set: ModelSetOption = None,
    data: DataOption = "fonts",
    split: SplitOption = "test",
    samples: SamplesOption = 100,
    norm: NormOption = "L2",
    out: Annotated[
        str | None, typer.Option(help="Folder of the run; by default runs/MODEL-DATA.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="Only this method of the default set; repeatable. See the README."),
    ] = None,
    seed: SeedOption = 0,
    mean: MeanOption = None,
    std: StdOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    chunk: Annotated[int, typer.Option(min=1, help="Samples computed together.")] = 32,
    unit: Annotated[int, typer.Option(min=1, help="Samples stored together.")] = 32,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure a classifier and write a robustness card: report.html and summary.json.

    Finished parts are kept: the same command continues an interrupted audit.

    [bold]Examples[/bold]

      elbowroom audit

      elbowroom audit --model wong-kolter-mnist --weights kw.pth --data mnist --samples 200

      elbowroom audit --model my_package.nets:make --data images/ --mean 0.5 --std 0.25
    """
    output = Output(quiet, as_json)
    whole = load_data(output, data, split, None)
    enough = samples <= len(whole)  # some sets are generated and have as many as one asks for
    samples_data = whole.take(samples) if enough else load_data(output, data, split, samples)
    clf = load_classifier(
        model, weights, model_set, samples_data, mean=mean, std=std, device=device, dtype=dtype
    )
    folder = out or f"runs/{_folder_name(model)}-{_folder_name(data)}"
    with output.progress() as bar:
        task = bar.add_task("starting", total=1)

        def advance(done: int, total: int, name: str) -> None:
            bar.update(task, completed=done, total=total, description=name)

        card = run_audit(
            clf,
            samples_data,
            folder,
            norm=norm,
            methods=_selected(clf, samples_data.x, norm, seed, method),
            whole=whole,
            seed=seed,
            chunk=chunk,
            unit=unit,
            progress=advance,
        )
    _show(card, output)


@friendly
def report(
    run: Annotated[str, typer.Argument(help="The folder of a finished audit.")],
    quiet: QuietOption = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write report.html and summary.json of a finished audit anew.

    [bold]Example[/bold]

      elbowroom report runs/fonts-plain-fonts
    """
    _show(rebuild(run), Output(quiet, as_json))


def _show(card: Card, output: Output) -> None:
    values = card.summary.model_dump(by_alias=True)
    output.result(values, [*card.rows(), ("page", card.page), ("summary", card.summary_file)])
    if not all(check.passed for check in card.summary.trust):
        raise typer.Exit(DOUBTFUL)


def _selected(
    clf: Any, x: torch.Tensor, norm: str, seed: int, names: list[str] | None
) -> dict[str, MethodConfig] | None:
    """The named methods of the default set; all of them if none are named."""
    if not names:
        return None
    every = default_methods(clf, x.to(clf.device, clf.dtype), Norm.parse(norm), seed)
    if unknown := [name for name in names if name not in every]:
        raise ValueError(f"no method {unknown[0]!r} in this audit; there are {', '.join(every)}")
    return {name: method for name, method in every.items() if name in names}


def _folder_name(spec: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in spec.rstrip("/")).strip("-.")
