"""What the benchmark of attacks reports in words: its tables, and who beats whom."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np

from bench_models import MODELS
from bench_store import Store, Unit
from bench_tables import (
    Distances,
    Point,
    differences_to_best,
    dominating,
    lower_envelope,
    markdown,
    mean_found,
    mean_gap,
    optimality,
    robust_accuracy,
)

REFERENCE = "ddn-100"
"""Budgets of ours that take less time than this attack are not held against the others."""


@dataclass(frozen=True)
class Row:
    """One attack on one model."""

    name: str
    distance: Distances
    unit: Unit

    @property
    def point(self) -> Point:
        return Point(self.name, self.unit.per_sample("cpu_seconds"), float(self.distance.mean()))


@dataclass(frozen=True)
class Result:
    """All attacks on one model, over the same samples, best first.

    images: how many test images were looked at to find these correctly classified ones.
    """

    model: str
    rows: list[Row]
    images: int

    @property
    def best(self) -> Distances:
        return lower_envelope(row.distance for row in self.rows)


def collect(store: Store, models: list[str], patterns: list[str], samples: int) -> list[Result]:
    """What is stored, of attacks that have finished the first `samples` samples."""
    results = []
    for model in [name for name in models if name in store.models()]:
        units = {
            name: unit
            for name in store.attacks(model)
            if any(fnmatch(name, pattern) for pattern in patterns)
            and (unit := store.read(model, name)) is not None
        }
        indices = np.unique(np.concatenate([u.columns["index"] for u in units.values()] or [[]]))
        indices = indices[:samples]
        rows = []
        for name, unit in units.items():
            kept = np.isin(unit.columns["index"], indices)
            if kept.sum() < len(indices):
                print(f"{model} {name}: not shown: {kept.sum()} of {len(indices)} samples")
                continue
            rows.append(Row(name, unit.columns["distance"][kept], unit))
        if rows:
            rows.sort(key=lambda row: (-np.isfinite(row.distance).mean(), row.point.mean))
            results.append(Result(model, rows, int(indices[-1]) + 1))
    return results


def tables(results: list[Result]) -> str:
    sections = [*(_model_tables(result) for result in results), _side_by_side(results)]
    return "\n\n".join([*sections, _overall(results)])


def _model_tables(result: Result) -> str:
    best = result.best
    rows = []
    for row in result.rows:
        per = row.unit.per_sample
        rows.append(
            [
                row.name,
                f"{mean_found(row.distance):.4f}",
                f"{np.median(row.distance):.4f}",
                f"{np.isfinite(row.distance).mean():.1%}",
                f"{mean_gap(row.distance, best):.2%}",
                f"{optimality(row.distance, best):.4f}",
                *(f"{per(kind):.0f}" for kind in ("forward", "backward", "jvp", "vjp")),
                f"{per('seconds'):.4f}",
                f"{per('cpu_seconds'):.4f}",
            ]
        )
    header = [
        "attack", "mean L2", "median L2", "found", "gap to best", "optimality",
        "forward", "backward", "JVP", "VJP", "s", "CPU s",
    ]  # fmt: skip
    return "\n\n".join(
        [
            f"## {result.model}",
            f"The first {len(best)} correctly classified of {result.images} test images. Best of "
            f"all attacks: mean {best.mean():.4f}, median {np.median(best):.4f}. Mean and gap are "
            "over what was found; passes and seconds are per sample, with the line search. Attacks "
            "are compared by CPU seconds, which other work on the machine disturbs least.",
            markdown(header, rows),
            "Robust accuracy, upper bounds (in the order of the table above):",
            _robust_accuracy(result),
            _domination(result),
            _commits(result),
        ]
    )


def _commits(result: Result) -> str:
    """Which code made which results; the largest group is not listed by name."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in result.rows:
        groups.setdefault(row.unit.commits, []).append(row.name)
    ordered = sorted(groups.items(), key=lambda group: len(group[1]))
    parts = [f"{', '.join(names)}: {' and '.join(made)}" for made, names in ordered[:-1]]
    made, names = ordered[-1]
    parts.append(f"{'the others' if parts else 'all'} ({len(names)}): {' and '.join(made)}")
    return f"Commits: {'; '.join(parts)}."


def _accuracies(result: Result) -> dict[str, dict[float, float]]:
    radii = MODELS[result.model].radii
    return {
        row.name: {r: robust_accuracy(row.distance, r, result.images) for r in radii}
        for row in result.rows
    }


def _robust_accuracy(result: Result) -> str:
    radii = MODELS[result.model].radii
    accuracies = _accuracies(result)
    accuracies["best of all"] = {r: robust_accuracy(result.best, r, result.images) for r in radii}
    rows = [[name, *(f"{curve[r]:.3f}" for r in radii)] for name, curve in accuracies.items()]
    return markdown(["attack", *(f"L2 {radius:g}" for radius in radii)], rows)


def _domination(result: Result) -> str:
    points = [row.point for row in result.rows]
    ours = [point for point in points if is_ours(point.name)]
    reference = [point.seconds for point in points if point.name == REFERENCE]
    if not ours or not reference:
        return f"Whether an attack beats `closest`: needs `closest-*` and `{REFERENCE}`."
    others = [point for point in points if not is_ours(point.name)]
    pairs = dominating(ours, others, reference[0])
    if not pairs:
        return "No attack is both at least as fast as a budget of `closest` and closer."
    lines = [
        f"- **{other.name}** ({other.mean:.4f} in {other.seconds:.4f} s) beats {budget.name} "
        f"({budget.mean:.4f} in {budget.seconds:.4f} s)"
        for other, budget in pairs
    ]
    return "\n".join(["At least as fast as a budget of `closest`, and closer:", *lines])


def is_ours(name: str) -> bool:
    return name == "closest" or name.startswith("closest-")


def _side_by_side(results: list[Result]) -> str:
    """All models in one table, in the order of the mean optimality."""
    cells: dict[str, dict[str, str]] = {}
    scores: dict[str, float] = {}
    for result in results:
        for row in result.rows:
            score, gap = (f(row.distance, result.best) for f in (optimality, mean_gap))
            scores[row.name] = scores.get(row.name, 0.0) + score
            found = np.isfinite(row.distance).mean()
            share = "" if found == 1 else f" ({found:.1%} found)"
            cells.setdefault(row.name, {})[result.model] = (
                f"{mean_found(row.distance):.4f}{share}, {gap:.2%}, {score:.4f}, "
                f"{row.point.seconds:.3f}"
            )
    names = sorted(cells, key=lambda name: -scores[name])
    header = ["attack", *(f"{result.model} ({len(result.best)})" for result in results)]
    rows = [[name, *(cells[name].get(result.model, "-") for result in results)] for name in names]
    return (
        "## Side by side\n\nMean L2, gap to the best of all, optimality, CPU seconds; of so many "
        "samples.\n\n" + markdown(header, rows)
    )


def _overall(results: list[Result]) -> str:
    differences = differences_to_best({result.model: _accuracies(result) for result in results})
    scores: dict[str, list[float]] = {}
    for result in results:
        for row in result.rows:
            scores.setdefault(row.name, []).append(optimality(row.distance, result.best))
    rows = [
        [name, f"{mean:.2%}", f"{most:.2%}", f"{np.mean(scores[name]):.4f}", str(models)]
        for name, (mean, most, models) in sorted(differences.items(), key=lambda item: item[1][0])
    ]
    return (
        "## All models\n\nRobust accuracy above the lowest of all attacks, over models and radii; "
        "optimality averaged over models.\n\n"
        + markdown(["attack", "mean difference", "maximum", "optimality", "models"], rows)
    )
