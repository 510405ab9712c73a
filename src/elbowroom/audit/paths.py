"""Walks of some exhibited pairs: images that all have the same logits, from one to the other.

A walk costs three times an inversion, so only pairs that the page shows get one: they are chosen
when all other results are known.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from elbowroom.audit.config import AuditConfig
from elbowroom.audit.gallery import PATHS
from elbowroom.audit.pairs import exhibited
from elbowroom.audit.run import Samples, column
from elbowroom.audit.store import Store, Unit
from elbowroom.audit.summary import MethodCost
from elbowroom.audit.tables import PathTable, Tables, read_paths
from elbowroom.classifier import Classifier
from elbowroom.invariance import PreimageDescent, check_path, sparsify
from elbowroom.invariance.preimage_descent import PATH_ALONE

POINTS = 6
STEPS = 60


class _Plan(NamedTuple):
    """The unit to be stored, the rows of its samples, the inversion's name, and how it walks."""

    unit: Unit
    rows: list[int]
    name: str
    method: PreimageDescent


def walk_paths(
    clf: Classifier, config: AuditConfig, samples: Samples, store: Store, tables: Tables
) -> None:
    """Walk, and store the paths, unless they are stored already."""
    plan = _plan(config, tables)
    if plan is None or store.is_finished(plan.unit, config.hash):
        return
    rows, method = plan.rows, plan.method
    # As in `audit.run`: always batches of one size.
    padded = [*rows, *rows[-1:] * (PATHS - len(rows))]
    start = samples.x[padded]
    toward = samples.x[[samples.partners[row] for row in padded]]
    indices = [samples.indices[row] for row in padded]
    with clf.metered() as spent:
        found = method(clf, start=start, toward=toward, indices=indices)
        assert found.path is not None
        path = sparsify(found.path, POINTS)
        check = check_path(
            clf, path, toward=toward, between=0,
            layer=method.layer, up_to_shift=method.up_to_shift,
        )  # fmt: skip
        cost = spent()
    assert check.distance is not None
    columns = {
        "path": path,
        "distance": check.distance,
        "decision": check.decision,
        "feature_mse": check.feature_mse,
    }
    stored = {
        name: column(values.transpose(0, 1).cpu()[: len(rows)]) for name, values in columns.items()
    }
    index = pa.array(indices[: len(rows)], pa.int64())
    store.write_unit(plan.unit, config.hash, {"index": index, **stored}, asdict(cost))


def stored_paths(
    store: Store, config: AuditConfig, tables: Tables
) -> tuple[PathTable | None, dict[str, MethodCost]]:
    """The paths of a run and their cost by name; nothing where it has none."""
    plan = _plan(config, tables)
    if plan is None or not store.is_finished(plan.unit, config.hash):
        return None, {}
    paths, cost = read_paths(store, config, plan.unit, plan.name)
    return paths, {plan.unit.method: cost}


def _plan(config: AuditConfig, tables: Tables) -> _Plan | None:
    """None without a descent or a pair."""
    shown = exhibited(tables)
    picks = np.linspace(0, len(shown) - 1, min(PATHS, len(shown))).round().astype(int)
    rows = [shown[pick] for pick in picks]
    for name in tables.invariance:
        method = config.methods[name].build()
        if isinstance(method, PreimageDescent) and rows:
            # Only the walk is wanted of it: the rest is made as short as can be.
            walk = replace(method, path_steps=STEPS, block=PATHS, **PATH_ALONE)
            return _Plan(Unit(f"{name}/paths", 0, len(rows)), rows, name, walk)
    return None
