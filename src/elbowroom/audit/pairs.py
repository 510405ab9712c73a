"""The pairs of samples that inversions were run on: what they say together."""

from __future__ import annotations

import numpy as np

from elbowroom.audit.config import AuditConfig
from elbowroom.audit.gallery import EXHIBITS
from elbowroom.audit.statistics import median, spread_out
from elbowroom.audit.summary import ClassPair, Invariance, InversionSummary
from elbowroom.audit.tables import Bools, Floats, InvarianceTable, Tables
from elbowroom.invariance.base import NEARER


def invariance(config: AuditConfig, tables: Tables) -> Invariance | None:
    """The figures of the pairs; None where no inversion was run."""
    pairs = tables.pairs
    if pairs is None:
        return None
    inversions = [
        InversionSummary(
            method=name,
            nearer_rate=float(moved(tables, found).mean()),
            tolerance=tolerance(config, name),
            median_distance=median(found.distance),
            best_on=float((found.success & (found.distance <= pairs.distance)).mean()),
            max_feature_mse=_largest_error(found),
        )
        for name, found in tables.invariance.items()
    ]
    return Invariance(
        method=", ".join(tables.invariance),
        pairs=len(pairs.success),
        nearer_rate=float(moved(tables, pairs).mean()),
        tolerance=max(each.tolerance for each in inversions),
        median_distance=median(pairs.distance),
        median_distance_linf=median(pairs.distance_linf),
        median_between_images=float(np.median(between(tables, pairs))),
        max_feature_mse=_largest_error(pairs),
        inversions=inversions,
        by_class=by_class(tables, pairs),
    )


def by_class(tables: Tables, pairs: InvarianceTable) -> list[ClassPair]:
    """The pairs of every two classes that have any, and the median of their distances."""
    images = tables.label[partners(tables, pairs)]
    both = np.stack([tables.label, images], axis=1)
    cells, cell = np.unique(both, axis=0, return_inverse=True)
    cell = cell.reshape(-1)
    return [
        ClassPair(
            logits=tables.classes[logits],
            image=tables.classes[image],
            pairs=int((cell == number).sum()),
            median_distance=median(pairs.distance[cell == number]),
        )
        for number, (logits, image) in enumerate(cells.tolist())
    ]


def tolerance(config: AuditConfig, name: str) -> float:
    """The largest feature MSE that counts as a success of an inversion."""
    return float(getattr(config.methods[name].build(), "tolerance", 0.0))


def partners(tables: Tables, pairs: InvarianceTable) -> list[int]:
    """`(N,)`: the row of each sample's partner."""
    position = {int(index): row for row, index in enumerate(tables.index)}
    return [position[int(partner)] for partner in pairs.partner]


def between(tables: Tables, pairs: InvarianceTable) -> Floats:
    """`(N,)`: L2 distance of each pair's two inputs."""
    difference = tables.inputs[partners(tables, pairs)] - tables.inputs
    lengths: Floats = np.linalg.norm(
        difference.reshape(len(difference), -1).astype(np.float64), axis=1
    )
    return lengths


def moved(tables: Tables, pairs: InvarianceTable) -> Bools:
    """Which pairs have an answer that is nearer than the sample whose logits it has."""
    found: Bools = pairs.success & (pairs.distance < NEARER * between(tables, pairs))
    return found


def exhibited(tables: Tables) -> list[int]:
    """Rows of the pairs that the page shows, from the nearest to the farthest."""
    pairs = tables.pairs
    return [] if pairs is None else spread_out(moved(tables, pairs), pairs.distance, EXHIBITS)


def _largest_error(pairs: InvarianceTable) -> float | None:
    errors = pairs.feature_mse[pairs.success]
    return float(errors.max()) if len(errors) else None
