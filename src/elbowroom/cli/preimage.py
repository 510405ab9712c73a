"""The exact preimages of a network of two inputs, drawn: `preimage`."""

from __future__ import annotations

import json
import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.cli.options import Output, SeedOption, Subject, command
from elbowroom.data import Dataset
from elbowroom.files import write_atomically
from elbowroom.papers.page import About
from elbowroom.papers.preimage_pages import preimage_page
from elbowroom.papers.preimages import (
    ACTIVATIONS,
    MoonsTraining,
    NetworkSets,
    network_sets,
    window,
)
from elbowroom.regions import ExactPreimage, Polyhedron, decision_region
from elbowroom.regions.preimages import LIMIT, Approach
from elbowroom.version import __version__


@dataclass(frozen=True)
class PlaneSubject(Subject):
    """What is drawn: a network of two inputs and samples."""

    model: Annotated[
        str,
        typer.Option(
            help="A network by name, or package.module:callable; by default 2-8-4-2 networks with "
            "ReLU and leaky ReLU are trained on the samples.",
            show_default=False,
        ),
    ] = ""
    data: Annotated[str, typer.Option(help="A data set of two features, an .npz file, ...")] = (
        "two-moons"
    )
    split: Annotated[str, typer.Option(help="Which split of the data.")] = "train"
    samples: Annotated[int, typer.Option(min=1, help="How many samples, from the first.")] = 200


@command
def preimage(
    subject: PlaneSubject,
    output: Output,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("preimage.html"),
    target: Annotated[
        Path | None,
        typer.Option(
            help='A polytope A y <= c of outputs, as JSON: {"A": [[1, -1]], "c": [0]}; by default '
            "the decision region of each class."
        ),
    ] = None,
    approach: Annotated[
        str, typer.Option(help="forward, or backward: the same sets, more slowly.")
    ] = "forward",
    limit: Annotated[
        int, typer.Option(min=1, help="Partial linear regions visited at most.")
    ] = LIMIT,
    view: Annotated[
        str | None,
        typer.Option(help="What is drawn: LEFT,RIGHT,BOTTOM,TOP; by default around the samples."),
    ] = None,
    seed: SeedOption = 0,
) -> None:
    """Draw exact preimages: all inputs of the plane whose outputs lie in a polytope.

    [bold]Examples[/bold]

      elbowroom preimage --out moons.html

      elbowroom preimage --model mlp --model-set sizes=[2,16,2] --weights moons.safetensors
      --target polytope.json --view -2,3,-2,2
    """
    method = ExactPreimage(approach=cast(Approach, approach), limit=limit)  # which checks it
    own, box = _polytope(target), _view(view)
    data = subject.load_data(output)
    classifiers = _given(subject, data) if subject.model else _trained(output, data, seed)
    networks, x = [], data.x
    for clf in classifiers:
        x = data.x.to(clf.device, clf.dtype)
        targets = [own] if own else _decisions(clf, x)
        networks.append(network_sets(clf, x, data.y, targets, method))
    box = box or window(x)
    facts = [
        ("command", shlex.join(["elbowroom", *sys.argv[1:]])),
        ("data", f"{data.name}, {data.split} split, {len(data)} samples"),
        ("source of the data", data.source),
        ("method", str(method)),
        ("seed", str(seed)),
        ("elbowroom", __version__),
        ("torch", torch.__version__),
    ]
    title = ", ".join(network.name for network in networks)
    about = About(title, f"{data.name}/{data.split}", data.classes, facts)
    count = len(networks[0].targets)
    names = [target.name] if target else [f"decided as {about.label(k)}" for k in range(count)]
    page = preimage_page(networks, x, data.y, about, names=names, view=box)
    write_atomically(out, page.encode())
    found = [_values(network, names, box) for network in networks]
    output.result({"page": str(out), "networks": found}, [*_lines(found), ("page", str(out))])


def _given(subject: Subject, data: Dataset) -> list[Classifier]:
    return [subject.load_classifier(data)]


def _trained(output: Output, data: Dataset, seed: int) -> list[Classifier]:
    """The thesis's two networks, trained on the samples."""
    if data.shape != (2,):
        raise ValueError(f"{data.name} has samples of shape {data.shape}; the networks need (2,)")
    found = []
    torch.set_num_threads(1)
    for activation in ACTIVATIONS:
        output.say(f"training 2-8-4-2 with {activation}")
        model, accuracy, used = MoonsTraining(activation=activation, seed=seed)(data.x, data.y)
        if accuracy < 1:
            typer.echo(
                f"note: {activation} gets {accuracy:.1%} of the samples right; try another --seed",
                err=True,
            )
        name = f"2-8-4-2 {activation} (seed {used})"
        found.append(Classifier(model, bounds=data.bounds, name=name))
    return found


def _decisions(clf: Classifier, x: Tensor) -> list[Polyhedron]:
    x, _ = clf.validate(x)
    classes = clf.graph(x.shape[1:]).nodes[-1].shape[0]
    return [decision_region(classes, label) for label in range(classes)]


def _polytope(path: Path | None) -> Polyhedron | None:
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Polyhedron(found["A"], found["c"])
    except FileNotFoundError:
        raise ValueError(f"--target: there is no file {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f'{path} does not hold a polytope such as {{"A": [[1, -1]], "c": [0]}}: {error!r}'
        ) from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _view(text: str | None) -> Polyhedron | None:
    if text is None:
        return None
    try:
        left, right, bottom, top = (float(part) for part in text.split(","))
    except ValueError:
        left = right = bottom = top = math.nan
    if not (left < right and bottom < top and math.isfinite(right - left + top - bottom)):
        raise ValueError(f"--view takes LEFT,RIGHT,BOTTOM,TOP, not {text!r}")
    return Polyhedron.box([left, bottom], [right, top])


def _values(network: NetworkSets, names: list[str], box: Polyhedron) -> dict[str, Any]:
    return {
        "name": network.name,
        "accuracy": network.accuracy,
        "linear_regions": network.regions,
        "sets": [
            {
                "name": name,
                "pieces": len(found.solid),
                "without_area": len(found.flat),
                "share_of_view": found.clip(box).volume() / box.volume,
            }
            for name, found in zip(names, network.preimages, strict=True)
        ],
    }


def _lines(networks: list[dict[str, Any]]) -> list[tuple[str, str]]:
    lines = []
    for network in networks:
        told = f"{network['accuracy']:.1%} accuracy, {network['linear_regions']} linear regions"
        lines.append(("network", f"{network['name']}: {told}"))
        for one in network["sets"]:
            flat = f", {one['without_area']} without area" if one["without_area"] else ""
            share = f"{one['share_of_view']:.1%} of what is drawn"
            lines.append(("preimage", f"{one['name']}: {one['pieces']} pieces{flat}, {share}"))
    return lines
