"""Several networks on the same samples: `compare`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from elbowroom import models
from elbowroom.attacks import ATTACKS, Attack
from elbowroom.audit.compare import BUDGET, DEFAULT_CERTIFICATE, RESAMPLES, naming
from elbowroom.audit.compare import compare as compare_classifiers
from elbowroom.audit.comparison import Comparison, Ranking, Side
from elbowroom.audit.config import describe_model
from elbowroom.certificates import CERTIFICATES, Certificate
from elbowroom.classifier import Classifier
from elbowroom.cli.options import (
    Network,
    NormOption,
    Output,
    SeedOption,
    Surroundings,
    checked_samples,
    command,
    settings,
)
from elbowroom.cli.papers import run_facts
from elbowroom.cli.single import build_method
from elbowroom.data import Dataset
from elbowroom.files import write_atomically
from elbowroom.report.comparison_page import render_comparison
from elbowroom.report.comparison_words import COLUMNS, notes, rows, sentences

DEFAULT_ATTACK = "closest"


@command
def compare(
    surroundings: Surroundings,
    output: Output,
    specs: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Networks: NAME, NAME@WEIGHTS, or LABEL=NAME@WEIGHTS to call it LABEL. NAME is a "
            "network by name, or package.module:callable; WEIGHTS a file or a folder of .npy.",
        ),
    ],
    model_set: Annotated[
        list[str] | None,
        typer.Option(
            "--model-set",
            help="An option of all networks, NAME=VALUE, or of one, LABEL.NAME=VALUE; repeatable.",
        ),
    ] = None,
    norm: NormOption = "L2",
    attack: Annotated[str, typer.Option(help=f"One of {', '.join(ATTACKS)}.")] = DEFAULT_ATTACK,
    attack_set: Annotated[
        list[str] | None,
        typer.Option("--attack-set", help="An option of the attack, NAME=VALUE; repeatable."),
    ] = None,
    certificate: Annotated[
        str, typer.Option(help=f"One of {', '.join(CERTIFICATES)}.")
    ] = DEFAULT_CERTIFICATE,
    level: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    resamples: Annotated[int, typer.Option(help="Of the bootstrap.")] = RESAMPLES,
    seed: SeedOption = 0,
    chunk: Annotated[int, typer.Option(min=1, help="Samples computed together.")] = 32,
    out: Annotated[Path | None, typer.Option(help="Also write this page.")] = None,
) -> None:
    """Rank networks by certified radius and attacked distance, where the samples tell an order.

    A sample that a network gets wrong counts with radius and distance 0.

    [bold]Examples[/bold]

      elbowroom compare fonts-plain fonts-adversarial --samples 50 --out compare.html

      elbowroom compare kw=wong-kolter-mnist@kw.pth wk17=wong-kolter-mnist@wk17.pth --data mnist

      elbowroom compare small=mlp@s.pt large=mlp@l.pt --data digits
      --model-set small.sizes=[64,8,10] --model-set large.sizes=[64,50,10]
    """
    subjects = _networks(specs, model_set or [])
    data = surroundings.load_data(output)
    classifiers = _classifiers(subjects, surroundings, data)
    usual = {"budget": BUDGET} if attack == DEFAULT_ATTACK else {}
    options = {**usual, **settings(attack_set), "seed": seed}
    attacker = build_method("attack", attack, options, norm, option="--attack-set")
    prover = build_method("certificate", certificate, {}, norm)
    assert isinstance(attacker, Attack)
    assert isinstance(prover, Certificate)
    with output.progress() as bar:
        task = bar.add_task("starting", total=1)

        def advance(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        found = compare_classifiers(
            classifiers, data.x, data.y, norm=norm, attack=attacker, certificate=prover,
            resamples=resamples, level=level, seed=seed, chunk=chunk, progress=advance,
        )  # fmt: skip
    lines = [("comparison", f"{len(subjects)} models on {data.name}/{data.split}")]
    if out is not None:
        told = [
            (f"model {name}", _describe(clf, subjects[name])) for name, clf in classifiers.items()
        ]
        page = render_comparison(found, f"{data.name}/{data.split}", run_facts(told, data, seed))
        write_atomically(out, page.encode())
        lines.append(("page", str(out)))
    output.table(COLUMNS, rows(found))
    for sentence in [*sentences(found), *notes(found)]:
        output.say(sentence)
    output.result({**_values(found), "page": None if out is None else str(out)}, lines)


def _networks(specs: Sequence[str], options: Sequence[str]) -> dict[str, Network]:
    """Networks by their names. options: of all, or of one as `LABEL.NAME=VALUE`."""
    parts: dict[str, tuple[str, str | None]] = {}
    for spec in specs:
        called, at, weights = spec.partition("@")
        label, equals, model = called.rpartition("=")
        if not model or (equals and not label) or (at and not weights):
            raise ValueError(
                f"{spec!r} is not of the form NAME, NAME@WEIGHTS or LABEL=NAME@WEIGHTS"
            )
        label = label or (f"{model}@{Path(weights).stem}" if weights else model)
        if label in parts:
            raise ValueError(
                f"two models are called {label!r}; give them names, as in first={spec}"
            )
        parts[label] = (model, weights or None)
    own: dict[str, list[str]] = {label: [] for label in parts}
    for option in options:
        owners = [label for label in parts if option.startswith(f"{label}.")]
        owner = max(owners, key=len, default=None)  # a label can hold a dot
        for label in own if owner is None else [owner]:
            own[label].append(option.removeprefix(f"{owner}."))
    return {label: Network(*part, own[label]) for label, part in parts.items()}


def _classifiers(
    networks: Mapping[str, Network], surroundings: Surroundings, data: Dataset
) -> dict[str, Classifier]:
    """Classifiers that accept the samples, each called by its label."""
    classifiers = {}
    for label, network in networks.items():
        with naming(label):
            clf = surroundings.classifier(network, data)
            clf.name = label
            checked_samples(clf, data)
        classifiers[label] = clf
    return classifiers


def _describe(clf: Classifier, network: Network) -> str:
    told = describe_model(clf)
    weights = f" with {network.weights}" if network.weights else ""
    if not weights and network.model in models.MODELS:
        weights = " with random weights"
    return (
        f"{network.model}{weights}, {told.parameters:,} parameters, {told.dtype}, fingerprint "
        f"{told.fingerprint}"
    )


def _values(found: Comparison) -> dict[str, Any]:
    """For programs. Wrong samples have 0; what is infinite or unknown is null."""
    told = [
        {
            "name": name,
            "accuracy": measured.accuracy,
            "failed_attacks": measured.failed,
            "uncertified": measured.uncertified,
            "certified": _side(found.certified_sides.get(name), found.certified, name),
            "attacked": _side(found.attacked_sides[name], found.attacked, name),
            "radius": measured.radius.tolist(),
            "distance": measured.distance.tolist(),
            "cost": asdict(measured.cost),
        }
        for name, measured in found.measured.items()
    ]
    values = {
        "norm": str(found.norm),
        "samples": found.samples,
        "attack": found.attack,
        "certificate": found.certificate,
        "level": found.level,
        "resamples": found.resamples,
        "seed": found.seed,
        "models": told,
        "certified": _ranking(found.certified),
        "attacked": _ranking(found.attacked),
        "proved": [asdict(pair) for pair in found.proved],
        "sentences": sentences(found),
    }
    plain: dict[str, Any] = _plain(values)
    return plain


def _side(side: Side | None, ranking: Ranking | None, name: str) -> dict[str, Any] | None:
    if side is None:
        return None
    return {**asdict(side), "ranks": ranking.ranks.get(name) if ranking else None}


def _ranking(ranking: Ranking | None) -> dict[str, Any] | None:
    if ranking is None:
        return None
    pairs = [{**asdict(each), "separated": each.separated} for each in ranking.differences]
    return {"order": ranking.order, "groups": ranking.groups, "differences": pairs}


def _plain(values: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
