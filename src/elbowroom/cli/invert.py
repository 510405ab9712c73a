"""Inversions of pairs of samples, or of given logits: `invert`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.cli.inversion_results import (
    ROWS,
    Done,
    features_text,
    probability_gap,
    save_inversions,
    shown_inversions,
    told,
)
from elbowroom.cli.options import Output, SeedOption, checked_samples, command, settings
from elbowroom.cli.pairs import AIMS, ExactSubject, Pairs, find_pairs, wanted_logits
from elbowroom.cli.papers import facts
from elbowroom.cli.single import SaveOption, SetOption, build_method
from elbowroom.data import Dataset
from elbowroom.features import layer_names
from elbowroom.files import write_atomically
from elbowroom.graph import UnsupportedOperationError
from elbowroom.invariance import INVERSIONS, Inversion, PreimageDescent
from elbowroom.papers.inversion_pages import inversion_page
from elbowroom.papers.page import About, grey_scale
from elbowroom.results import Cost, InversionResult

AT_ONCE = 16

LayerOption = Annotated[
    str | None,
    typer.Option(help="Compare the output of this layer, not the logits; see --list-layers."),
]
ListOption = Annotated[
    bool, typer.Option("--list-layers", help="Only list the layers that --layer can name.")
]
ShiftOption = Annotated[
    bool,
    typer.Option("--up-to-shift", help="Ignore a common shift of all logits, as softmax does."),
]


@command
def invert(
    subject: ExactSubject,
    output: Output,
    method: Annotated[
        str, typer.Argument(help=f"One of {', '.join(INVERSIONS)}.")
    ] = "preimage-descent",
    start: Annotated[
        str | None,
        typer.Option(help="Numbers of samples, with commas: those whose logits are wanted."),
    ] = None,
    toward: Annotated[
        str | None,
        typer.Option(
            help="Numbers of samples: those to come close to. Or "
            + ", ".join(f"{name} ({words})" for name, words in AIMS.items())
            + "."
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many pairs of different classes to draw where none are given; 10."
        ),
    ] = None,
    logits: Annotated[
        str | None,
        typer.Option(
            help="The wanted logits themselves: numbers with commas, or a .json or .csv file with "
            "a row of them for each inversion. Of --layer, its flattened output."
        ),
    ] = None,
    layer: LayerOption = None,
    list_layers: ListOption = False,
    up_to_shift: ShiftOption = False,
    set_: SetOption = None,
    seed: SeedOption = 0,
    out: SaveOption = None,
    page: Annotated[
        Path | None, typer.Option(help="Also write a page with the images and their logits.")
    ] = None,
) -> None:
    """Find inputs with the logits of one sample that look like another one.

    [bold]Examples[/bold]

      elbowroom invert --count 20 --page inversions.html

      elbowroom invert adam --start 3 --toward 17,42 --set steps=2000 --out found.npz

      elbowroom invert --toward mean --logits 5,0,0,0,0,0,0,0,0,0
    """
    data = subject.load_data(output)
    clf = subject.load_classifier(data)
    if list_layers:
        list_layers_of(clf, data, output)
        return
    x, y = checked_samples(clf, data)
    target = None if logits is None else wanted_logits(logits).to(x)
    pairs = find_pairs(
        clf, x, y, start=start, toward=toward, count=count, seed=seed,
        targets=None if target is None else len(target),
    )  # fmt: skip
    options = {**settings(set_), "seed": seed, **compared(layer, up_to_shift)}
    built = build_method("invariance", method, options)
    assert isinstance(built, Inversion)
    if "block" not in options and isinstance(built, PreimageDescent):
        # The method pads its blocks: a full one of a single pair would cost all the others.
        built = replace(built, block=min(built.block, len(pairs)))
    if target is not None and len(target) == 1:
        target = target[0]  # the same for all
    done = _invert(clf, built, pairs, target, output)
    values, lines = told(done, method)
    if page is not None:
        about = About(
            clf.name, f"{data.name}/{data.split}", data.classes,
            [*facts(clf, data, seed), ("method", str(built))],
        )  # fmt: skip
        shown = shown_inversions(done, about, y)
        scale = grey_scale(clf, torch.cat([pairs.toward, done.found.example]))
        what = features_text(built)
        write_atomically(
            page, inversion_page(shown, about, method=method, features=what, scale=scale).encode()
        )
        lines.append(("page", str(page)))
        values["page"] = str(page)
    save_inversions(out, lines, done)
    output.result(values, lines)


def list_layers_of(clf: Classifier, data: Dataset, output: Output) -> None:
    """Print the names of the layers and the shapes of their outputs."""
    graph = clf.graph(data.shape)
    shapes = {node.name: list(node.shape) for node in graph.nodes[1:]}  # the last of a name counts
    layers = [{"name": name, "shape": shapes[name]} for name in layer_names(graph)]
    text = [(name, f"{math.prod(shapes[name])} features, {tuple(shapes[name])}") for name in shapes]
    output.result({"layers": layers}, text)


def compared(layer: str | None, up_to_shift: bool) -> dict[str, Any]:
    """The options of a method that say what is compared, those that were given."""
    return ({} if layer is None else {"layer": layer}) | (
        {"up_to_shift": True} if up_to_shift else {}
    )


def _invert(
    clf: Classifier, method: Inversion, pairs: Pairs, target: Tensor | None, output: Output
) -> Done:
    every = list(range(len(pairs)))
    groups = [every[k : k + AT_ONCE] for k in range(0, len(every), AT_ONCE)]
    with output.progress() as bar:
        parts = [
            _call(clf, method, pairs, target, rows)
            for rows in bar.track(groups, description="inversions")
        ]
    found = _joined(parts)
    misses = (~found.success).nonzero().squeeze(1).tolist()
    with clf.session():
        reached, nearby = clf.logits(found.example), clf.logits(pairs.toward)
        wanted = None if pairs.start is None else clf.logits(pairs.start)
    if target is not None and method.layer is None:
        wanted = target.expand_as(reached)
    shifted = None
    if misses and wanted is not None and method.layer is None and not method.up_to_shift:
        shifted = _up_to_shift(clf, method, pairs, target, misses, wanted)
    return Done(pairs, method, found, wanted, nearby, reached, misses, shifted)


def _call(
    clf: Classifier, method: Inversion, pairs: Pairs, target: Tensor | None, rows: Sequence[int]
) -> InversionResult:
    return method(
        clf,
        toward=pairs.toward[rows],
        start=None if pairs.start is None else pairs.start[rows],
        target=target if target is None or target.ndim == 1 else target[rows],
        indices=[pairs.indices[row] for row in rows],
    )


def _up_to_shift(
    clf: Classifier,
    method: Inversion,
    pairs: Pairs,
    target: Tensor | None,
    rows: list[int],
    wanted: Tensor,
) -> tuple[InversionResult, Tensor] | None:
    """What was missed, once more up to a common shift, and by how much a probability is off."""
    try:
        found = _call(clf, replace(method, up_to_shift=True), pairs, target, rows)
    except UnsupportedOperationError:
        return None  # a shift can be left out only of a network that is known layer by layer
    with clf.session():
        reached = clf.logits(found.example)
    return found, probability_gap(reached, wanted[rows])


def _joined(parts: Sequence[InversionResult]) -> InversionResult:
    def cat(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    paths = [part.path for part in parts if part.path is not None]
    return InversionResult(
        **{name: cat(name) for name in ROWS},
        path=torch.cat(paths, dim=1) if paths else None,
        cost=sum((part.cost for part in parts), Cost()),
    )
