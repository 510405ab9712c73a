"""Commands that run one method: `attack`, `certify` and `exact`."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from elbowroom.attacks import ATTACKS, Attack, Closest
from elbowroom.audit import MethodConfig
from elbowroom.audit.config import Kind
from elbowroom.certificates import CERTIFICATES, Certificate
from elbowroom.classifier import Classifier
from elbowroom.cli.hunt import Hunt
from elbowroom.cli.options import (
    NormOption,
    Output,
    SeedOption,
    Subject,
    checked_samples,
    command,
    settings,
)
from elbowroom.files import write_atomically
from elbowroom.regions import ExactDistance
from elbowroom.results import Cost

EXACT_START = 500  # the budget of the attack whose points `exact` starts from

SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the method, NAME=VALUE; repeatable.")
]


def arrays_file(out: str | None) -> str | None:
    """Refuse the name of a page, before anything is computed."""
    if out is not None and out.lower().endswith((".html", ".htm")):
        raise typer.BadParameter(
            f"it is for arrays, in a .npz file, and {out} is named like a page"
        )
    return out


SaveOption = Annotated[
    str | None,
    typer.Option(
        "--out", help="Also save every sample's result to this .npz file.", callback=arrays_file
    ),
]


@dataclass(frozen=True)
class _Loaded:
    """x `(N, *shape)`, y `(N,)`, and which samples are classified rightly."""

    clf: Classifier
    x: Tensor
    y: Tensor
    right: Tensor

    @property
    def accuracy(self) -> float:
        return float(self.right.double().mean())


@command
def attack(
    subject: Subject,
    output: Output,
    method: Annotated[str, typer.Argument(help=f"One of {', '.join(ATTACKS)}.")],
    norm: Annotated[str | None, typer.Option(help="L1, L2 or Linf; the attack's own.")] = None,
    set_: SetOption = None,
    seed: SeedOption = 0,
    out: SaveOption = None,
) -> None:
    """Run one attack: upper bounds on the distance to the decision boundary.

    [bold]Examples[/bold]

      elbowroom attack ddn --samples 50 --set steps=200

      elbowroom attack pgd --norm Linf --set eps=0.1 --set restarts=5 --out pgd.npz
    """
    loaded = _load(subject, output)
    built = build_method("attack", method, {**settings(set_), "seed": seed}, norm)
    assert isinstance(built, Attack)
    found = built(loaded.clf, loaded.x, loaded.y)
    success, distance = found.success[loaded.right], found.distance[loaded.right]
    rate = float(success.double().mean()) if len(success) else math.nan
    lines = [
        ("attack", f"{method} in {built.norm}, {subject.samples} samples"),
        ("clean accuracy", f"{loaded.accuracy:.2%}"),
        ("success", f"{rate:.1%} of the rightly classified"),
        ("median distance", f"{_text(_median(distance))} {built.norm}"),
        ("cost", cost_text(found.cost, subject.samples)),
    ]
    values = {
        "method": method,
        "norm": str(built.norm),
        "samples": subject.samples,
        "clean_accuracy": loaded.accuracy,
        "success_rate": rate if len(success) else None,
        "median_distance": _median(distance),
        "cost": asdict(found.cost),
    }
    arrays = {"adversarial": found.adversarial, "distance": found.distance}
    save_arrays(out, lines, **arrays, success=found.success, label=loaded.y)
    output.result(values, lines)


@command
def certify(
    subject: Subject,
    output: Output,
    method: Annotated[
        str, typer.Argument(help=f"One of {', '.join(CERTIFICATES)}.")
    ] = "global-lipschitz",
    norm: NormOption = "L2",
    set_: SetOption = None,
    hunt: Annotated[
        bool,
        typer.Option("--hunt", help="Look for violated bounds; exit code 3 if there are any."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the hunt.")] = 0,
    out: SaveOption = None,
) -> None:
    """Certify radii within which the decision cannot change: lower bounds.

    With --hunt the bounds are attacked: those of the samples, and those of random layers for
    every rule that the method is made of. Counterexamples are printed, and saved with --out.

    [bold]Examples[/bold]

      elbowroom certify --norm Linf --samples 500 --out radii.npz

      elbowroom certify published-layer-wise --samples 20 --hunt --json
    """
    loaded = _load(subject, output)
    built = build_method("certificate", method, settings(set_), norm)
    assert isinstance(built, Certificate)
    found = built(loaded.clf, loaded.x, loaded.y)
    radius = found.radius[loaded.right]
    largest = float(radius.max()) if len(radius) else None
    lines = [
        ("certificate", f"{method} in {built.norm}, {subject.samples} samples"),
        ("sound", "yes" if found.sound else "no: kept for comparison, not a guarantee"),
        ("clean accuracy", f"{loaded.accuracy:.2%}"),
        ("median radius", f"{_text(_median(radius))} {built.norm}"),
        ("largest radius", f"{_text(largest)} {built.norm}"),
        ("cost", cost_text(found.cost, subject.samples)),
    ]
    values = {
        "method": method,
        "norm": str(built.norm),
        "sound": found.sound,
        "samples": subject.samples,
        "clean_accuracy": loaded.accuracy,
        "median_radius": _median(radius),
        "largest_radius": largest,
        "cost": asdict(found.cost),
    }
    hunted = Hunt.run(method, found, loaded.clf, loaded.x, loaded.y, seed) if hunt else None
    arrays = {"radius": found.radius, "label": loaded.y}
    if hunted is not None:
        lines += hunted.lines()
        values["hunt"] = hunted.values()
        arrays |= hunted.arrays()
    save_arrays(out, lines, **arrays)
    output.result(values, lines)
    if hunted is not None and hunted.violated:
        raise typer.Exit(3)


@command
def exact(
    subject: Subject,
    output: Output,
    seconds: Annotated[float, typer.Option(min=0, help="At most, for each sample.")] = 60.0,
    seed: SeedOption = 0,
    out: SaveOption = None,
) -> None:
    """Find exact L2 distances to the decision boundary, for networks of about a hundred units.

    Whatever is not finished in time keeps a lower and an upper bound, both of them true.

    [bold]Example[/bold]

      elbowroom exact --model mlp --model-set sizes=[64,16,16,10] --weights digits.safetensors
      --data digits --samples 20
    """
    loaded = _load(subject, output)
    near, solver = Closest(budget=EXACT_START, seed=seed), ExactDistance(seconds=seconds)
    parts = []
    with output.progress() as progress:
        for n in progress.track(range(len(loaded.x)), description="exact distances"):
            x, y = loaded.x[n : n + 1], loaded.y[n : n + 1]
            start = near(loaded.clf, x, y, indices=[n]).adversarial
            parts.append(solver(loaded.clf, x, y, start=start))
    lower, upper = torch.cat([p.lower for p in parts]), torch.cat([p.upper for p in parts])
    finished = torch.cat([part.finished for part in parts])
    spent = sum((part.cost for part in parts), Cost())
    right = loaded.right
    closed = float(finished[right].double().mean()) if bool(right.any()) else math.nan
    bounds = _median(lower[right]), _median(upper[right])
    lines = [
        ("exact distance", f"L2, {subject.samples} samples, at most {seconds:g} s each"),
        ("clean accuracy", f"{loaded.accuracy:.2%}"),
        ("finished", f"{closed:.1%} of the rightly classified"),
        ("median distance", f"between {_text(bounds[0])} and {_text(bounds[1])} L2"),
        ("cost", cost_text(spent, subject.samples)),
    ]
    values = {
        "samples": subject.samples,
        "clean_accuracy": loaded.accuracy,
        "finished_rate": closed if bool(right.any()) else None,
        "median_lower": bounds[0],
        "median_upper": bounds[1],
        "cost": asdict(spent),
    }
    nearest = torch.cat([part.point for part in parts])
    save_arrays(
        out, lines, lower=lower, upper=upper, finished=finished, nearest=nearest, label=loaded.y
    )
    output.result(values, lines)


def _load(subject: Subject, output: Output) -> _Loaded:
    data = subject.load_data(output)
    clf = subject.load_classifier(data)
    x, y = checked_samples(clf, data)
    with clf.session():
        right = clf.logits(x).argmax(dim=1) == y
    return _Loaded(clf, x, y, right)


def build_method(
    kind: Kind,
    method: str,
    options: dict[str, Any],
    norm: str | None = None,
    option: str = "--set",
) -> Any:
    """The method by its registered name. Raises `ValueError` for what does not fit.

    option: of the command, that sets what the method needs.
    """
    if norm is not None:
        options["norm"] = norm
    try:
        return MethodConfig(kind=kind, method=method, options=options).build()
    except TypeError as error:
        if "missing" not in str(error):
            raise
        # A dataclass names the missing field: "... missing 1 required keyword-only argument: 'eps'"
        missing = str(error).rpartition(": ")[2].strip("'")
        raise ValueError(f"{method} needs a value: add {option} {missing}=VALUE") from None


def save_arrays(out: str | None, lines: list[tuple[str, str]], **arrays: Tensor) -> None:
    """Write `arrays` to the .npz file `out`, if there is one, and say so in `lines`."""
    if out is None:
        return
    buffer = io.BytesIO()
    plain: dict[str, Any] = {name: array.cpu().numpy() for name, array in arrays.items()}
    np.savez_compressed(buffer, **plain)
    write_atomically(out, buffer.getvalue())
    lines.append(("saved", out))


def _median(values: Tensor) -> float | None:
    """None where there is no median, or an infinite one."""
    value = float(torch.quantile(values, 0.5)) if len(values) else math.nan
    return value if math.isfinite(value) else None


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"


def cost_text(cost: Cost, samples: int) -> str:
    """Passes and time for each of so many samples."""
    passes = ", ".join(
        f"{getattr(cost, name) / samples:.0f} {name}"
        for name in ("forward", "backward", "jvp", "vjp")
        if getattr(cost, name)
    )
    return f"{passes} passes and {cost.seconds / samples * 1e3:.1f} ms a sample"
