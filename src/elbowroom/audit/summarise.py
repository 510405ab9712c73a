"""From stored results to the summary and to what the page exhibits."""

from __future__ import annotations

import math

import numpy as np

from elbowroom.audit.config import AuditConfig
from elbowroom.audit.gallery import Exhibits, InvarianceExample, SensitivityExample
from elbowroom.audit.summary import (
    AttackSummary,
    ClassSummary,
    CurvePoint,
    Invariance,
    Sensitivity,
    Summary,
    TrustCheck,
    WholeSplit,
)
from elbowroom.audit.tables import Bools, Floats, InvarianceTable, Tables

CURVE_POINTS = 101
CERTIFIED_POINTS = 21
NEARER = 1 - 1e-3  # the answer to a pair may be the sample itself: that is no success
EXHIBITS = 9


def summarise(
    config: AuditConfig, tables: Tables, trust: list[TrustCheck], whole: WholeSplit | None
) -> Summary:
    """The summary of a finished run."""
    name, pairs = next(iter(tables.invariance.items()), (None, None))
    return Summary(
        elbowroom=config.elbowroom,
        config=config.hash,
        seed=config.seed,
        model=config.model,
        data=config.data,
        samples=len(tables.label),
        clean_accuracy=tables.accuracy,
        whole_split=whole,
        sensitivity=_sensitivity(config, tables),
        invariance=_invariance(config, tables, name, pairs) if name and pairs else None,
        classes=[_class(tables, pairs, label) for label in range(len(tables.classes))],
        cost=tables.cost,
        trust=trust,
    )


def median(values: Floats) -> float | None:
    """The median, counting failures as infinite; None if it is not a number (JSON has no inf)."""
    if len(values) == 0:
        return None
    # The upper of the two middle values: a median of finite and infinite ones stays defined.
    value = (
        float(np.sort(values)[len(values) // 2])
        if np.isinf(values).any()
        else float(np.median(values))
    )
    return value if math.isfinite(value) else None


def curve(right: Bools, distance: Floats, radius: Floats) -> list[CurvePoint]:
    """Robust accuracy from 0 to just beyond the largest distance found.

    An even grid, and a finer one over the certified radii, which can be far smaller.
    """
    finite = distance[right & np.isfinite(distance)]
    end = float(finite.max()) * 1.05 if len(finite) and finite.max() > 0 else 1.0
    certified = radius[np.isfinite(radius)]  # a constant model is certified everywhere
    fine = np.linspace(0, float(certified.max(initial=0.0)), CERTIFIED_POINTS)
    grid = np.unique(np.concatenate([np.linspace(0, end, CURVE_POINTS), fine]))
    return [
        CurvePoint(
            eps=float(eps),
            certified=float((right & (radius >= eps)).mean()),
            attacked=float((right & (distance > eps)).mean()),
        )
        for eps in grid
    ]


def _sensitivity(config: AuditConfig, tables: Tables) -> Sensitivity:
    right, nearest = tables.right, tables.distance
    attacks = []
    for name, attack in tables.attacks.items():
        distance, success = attack.distance[right], attack.success[right]
        attacks.append(
            AttackSummary(
                method=name,
                success_rate=_mean(success) or 0.0,
                median=median(distance),
                mean=_mean(distance[success]),
                best_on=_mean(success & (distance <= nearest[right])) or 0.0,
            )
        )
    return Sensitivity(
        norm=config.norm,
        median_attacked=median(nearest[right]) if attacks else None,
        median_certified=median(tables.radius[right]) if tables.certificates else None,
        curve=curve(right, nearest, tables.radius),
        attacks=attacks,
    )


def _invariance(
    config: AuditConfig, tables: Tables, name: str, pairs: InvarianceTable
) -> Invariance:
    method = config.methods[name].build()
    between = _between(tables, pairs)
    errors = pairs.feature_mse[pairs.success]
    return Invariance(
        method=name,
        pairs=len(pairs.success),
        success_rate=float(_moved(tables, pairs).mean()),
        tolerance=float(getattr(method, "tolerance", 0.0)),
        median_distance=median(pairs.distance),
        median_distance_linf=median(pairs.distance_linf),
        median_between_images=float(np.median(between)),
        max_feature_mse=float(errors.max()) if len(errors) else None,
    )


def _class(tables: Tables, pairs: InvarianceTable | None, label: int) -> ClassSummary:
    mine = tables.label == label
    right = mine & tables.right
    return ClassSummary(
        label=tables.classes[label],
        samples=int(mine.sum()),
        clean_accuracy=_mean(tables.right[mine]) or 0.0,
        median_attacked=median(tables.distance[right]),
        median_certified=median(tables.radius[right]) if tables.certificates else None,
        median_invariance=median(pairs.distance[mine]) if pairs else None,
    )


def _mean(values: Floats | Bools) -> float | None:
    return float(values.mean()) if len(values) else None


def _between(tables: Tables, pairs: InvarianceTable) -> Floats:
    """`(N,)`: L2 distance of each pair's two inputs."""
    position = {int(index): row for row, index in enumerate(tables.index)}
    partners = tables.inputs[[position[int(partner)] for partner in pairs.partner]]
    difference = (partners - tables.inputs).reshape(len(partners), -1).astype(np.float64)
    lengths: Floats = np.linalg.norm(difference, axis=1)
    return lengths


def _moved(tables: Tables, pairs: InvarianceTable) -> Bools:
    """Which pairs have an answer that is nearer than the sample whose logits it has."""
    moved: Bools = pairs.success & (pairs.distance < NEARER * _between(tables, pairs))
    return moved


def exhibit(tables: Tables) -> Exhibits:
    """The distances and the examples that the page shows, from the nearest to the farthest."""
    right = tables.right
    grey_scale = (min(0.0, float(tables.inputs.min())), max(1.0, float(tables.inputs.max())))
    pairs = next(iter(tables.invariance.values()), None)
    return Exhibits(
        bounds=grey_scale,
        attacked=tables.distance[right],
        certified=tables.radius[right],
        invariance=pairs.distance[_moved(tables, pairs)] if pairs else np.zeros(0),
        sensitivity_examples=_sensitivity_examples(tables),
        invariance_examples=_invariance_examples(tables, pairs) if pairs else [],
    )


def _spread_out(usable: Bools, distance: Floats) -> list[int]:
    """Rows at even ranks of their distance."""
    rows = np.flatnonzero(usable)
    ordered = rows[np.argsort(distance[rows], kind="stable")]
    picks = np.linspace(0, len(ordered) - 1, min(EXHIBITS, len(ordered))).round().astype(int)
    return [int(row) for row in ordered[picks]] if len(ordered) else []


def _sensitivity_examples(tables: Tables) -> list[SensitivityExample]:
    distance = tables.distance
    examples = []
    for row in _spread_out(tables.right & tables.found, distance):
        name = min(tables.attacks, key=lambda attack: tables.attacks[attack].distance[row])
        attack = tables.attacks[name]
        examples.append(
            SensitivityExample(
                index=int(tables.index[row]),
                original=tables.inputs[row].astype(np.float32),
                label=tables.classes[tables.label[row]],
                adversarial=attack.points[row].astype(np.float32),
                decision=_class_name(tables, int(attack.decision[row])),
                distance=float(distance[row]),
                radius=float(tables.radius[row]),
                method=name,
            )
        )
    return examples


def _class_name(tables: Tables, label: int) -> str:
    """A model may have more outputs than the data has names."""
    return tables.classes[label] if label < len(tables.classes) else f"class {label}"


def _invariance_examples(tables: Tables, pairs: InvarianceTable) -> list[InvarianceExample]:
    position = {int(index): row for row, index in enumerate(tables.index)}
    examples = []
    for row in _spread_out(_moved(tables, pairs), pairs.distance):
        other = position[int(pairs.partner[row])]
        examples.append(
            InvarianceExample(
                index=int(tables.index[row]),
                target=tables.inputs[row].astype(np.float32),
                target_label=tables.classes[tables.label[row]],
                toward=tables.inputs[other].astype(np.float32),
                toward_label=tables.classes[tables.label[other]],
                example=pairs.points[row].astype(np.float32),
                distance=float(pairs.distance[row]),
                feature_mse=float(pairs.feature_mse[row]),
                target_logits=tables.logits[row].astype(np.float32),
                example_logits=pairs.logits[row].astype(np.float32),
            )
        )
    return examples
