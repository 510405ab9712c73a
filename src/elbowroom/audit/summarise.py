"""From stored results to the summary and to what the page exhibits."""

from __future__ import annotations

import numpy as np

from elbowroom.audit.config import AuditConfig
from elbowroom.audit.gallery import (
    EXHIBITS,
    ON_MANIFOLD,
    Exhibits,
    InvarianceExample,
    OnManifoldExample,
    PathExample,
    SensitivityExample,
)
from elbowroom.audit.manifold import nearest_on_manifold
from elbowroom.audit.pairs import exhibited, invariance, moved, partners
from elbowroom.audit.statistics import eps_grid, mean, median, robust_accuracy, spread_out
from elbowroom.audit.summary import (
    AttackSummary,
    ClassSummary,
    CurvePoint,
    MethodCost,
    OnManifold,
    Sensitivity,
    Summary,
    TrustCheck,
    WholeSplit,
)
from elbowroom.audit.tables import Bools, Floats, InvarianceTable, PathTable, Tables


def summarise(
    config: AuditConfig,
    tables: Tables,
    trust: list[TrustCheck],
    whole: WholeSplit | None,
    further: dict[str, MethodCost] | None = None,
    on_manifold: OnManifold | None = None,
) -> Summary:
    """The summary of a finished run. further: what was spent beside the methods."""
    pairs = tables.pairs
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
        invariance=invariance(config, tables),
        on_manifold=on_manifold,
        classes=[_class(tables, pairs, label) for label in range(len(tables.classes))],
        cost=tables.cost | (further or {}),
        trust=trust,
    )


def curve(right: Bools, distance: Floats, radius: Floats) -> list[CurvePoint]:
    """Robust accuracy from 0 to just beyond the largest distance found."""
    eps = eps_grid(right, distance, radius)
    certified, attacked = robust_accuracy(right, distance, radius, eps)
    return [
        CurvePoint(eps=float(at), certified=float(low), attacked=float(high))
        for at, low, high in zip(eps, certified, attacked, strict=True)
    ]


def _sensitivity(config: AuditConfig, tables: Tables) -> Sensitivity:
    right, nearest = tables.right, tables.distance
    attacks = []
    for name, attack in tables.attacks.items():
        distance, success = attack.distance[right], attack.success[right]
        attacks.append(
            AttackSummary(
                method=name,
                success_rate=mean(success) or 0.0,
                median=median(distance),
                mean=mean(distance[success]),
                best_on=mean(success & (distance <= nearest[right])) or 0.0,
            )
        )
    return Sensitivity(
        norm=config.norm,
        median_attacked=median(nearest[right]) if attacks else None,
        median_certified=median(tables.radius[right]) if tables.certificates else None,
        curve=curve(right, nearest, tables.radius),
        attacks=attacks,
    )


def _class(tables: Tables, pairs: InvarianceTable | None, label: int) -> ClassSummary:
    mine = tables.label == label
    right = mine & tables.right
    return ClassSummary(
        label=tables.classes[label],
        samples=int(mine.sum()),
        clean_accuracy=mean(tables.right[mine]) or 0.0,
        median_attacked=median(tables.distance[right]),
        median_certified=median(tables.radius[right]) if tables.certificates else None,
        median_invariance=median(pairs.distance[mine]) if pairs else None,
    )


def exhibit(tables: Tables, paths: PathTable | None = None) -> Exhibits:
    """The distances and the examples that the page shows, from the nearest to the farthest."""
    right = tables.right
    grey_scale = (min(0.0, float(tables.inputs.min())), max(1.0, float(tables.inputs.max())))
    pairs = tables.pairs
    return Exhibits(
        bounds=grey_scale,
        attacked=tables.distance[right],
        certified=tables.radius[right],
        invariance=pairs.distance[moved(tables, pairs)] if pairs else np.zeros(0),
        sensitivity_examples=_sensitivity_examples(tables),
        invariance_examples=_invariance_examples(tables, pairs) if pairs else [],
        paths=_path_examples(tables, pairs, paths) if pairs and paths else [],
        on_manifold_examples=_on_manifold_examples(tables) if tables.on_manifold else [],
    )


def _sensitivity_examples(tables: Tables) -> list[SensitivityExample]:
    distance = tables.distance
    examples = []
    for row in spread_out(tables.right & tables.found, distance, EXHIBITS):
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


def _on_manifold_examples(tables: Tables) -> list[OnManifoldExample]:
    found = nearest_on_manifold(tables)
    hits = tables.right & found.correct & found.success
    return [
        OnManifoldExample(
            index=int(tables.index[row]),
            original=tables.inputs[row].astype(np.float32),
            label=tables.classes[tables.label[row]],
            adversarial=found.points[row].astype(np.float32),
            decision=_class_name(tables, int(found.decision[row])),
            distance=float(found.distance[row]),
            latent_distance=float(found.latent_distance[row]),
        )
        for row in spread_out(hits, found.latent_distance, ON_MANIFOLD)
    ]


def _class_name(tables: Tables, label: int) -> str:
    """A model may have more outputs than the data has names."""
    return tables.classes[label] if label < len(tables.classes) else f"class {label}"


def _invariance_examples(tables: Tables, pairs: InvarianceTable) -> list[InvarianceExample]:
    other_of = partners(tables, pairs)
    examples = []
    for row in exhibited(tables):
        other = other_of[row]
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


def _path_examples(tables: Tables, pairs: InvarianceTable, paths: PathTable) -> list[PathExample]:
    position = {int(index): row for row, index in enumerate(tables.index)}
    other_of = partners(tables, pairs)
    examples = []
    for number, index in enumerate(paths.index):
        row = position[int(index)]
        points = paths.points[number]
        # A walk that has ended stays where it is: its points repeat.
        flat = points.reshape(len(points), -1)
        kept = np.append(True, (flat[1:] != flat[:-1]).any(axis=1))
        if kept.sum() == 1:
            continue
        examples.append(
            PathExample(
                index=int(index),
                label=tables.classes[tables.label[row]],
                toward_label=tables.classes[tables.label[other_of[row]]],
                points=points[kept].astype(np.float32),
                distance=paths.distance[number][kept],
                decisions=[_class_name(tables, int(k)) for k in paths.decision[number][kept]],
                feature_mse=paths.feature_mse[number][kept],
                nearest=float(pairs.distance[row]),
            )
        )
    return examples
