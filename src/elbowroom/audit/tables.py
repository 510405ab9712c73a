"""The stored results of a run as arrays, one row per sample, in the order of the samples."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from elbowroom.audit.config import AuditConfig
from elbowroom.audit.run import CLEAN, plan
from elbowroom.audit.store import Store, Unit
from elbowroom.audit.summary import MethodCost

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class AttackTable:
    """One attack's results; `points` `(N, *shape)`."""

    success: Bools
    distance: Floats
    decision: Ints
    points: NDArray[np.floating]


@dataclass(frozen=True)
class InvarianceTable:
    """Pairs: the logits of a sample, transplanted to the image of sample number `partner`."""

    partner: Ints
    success: Bools
    distance: Floats
    distance_linf: Floats
    feature_mse: Floats
    logits: NDArray[np.floating]
    points: NDArray[np.floating]


@dataclass(frozen=True)
class ManifoldTable:
    """What an attack along the manifold found; `points` `(N, *shape)`.

    correct: what the decoder makes of the sample's own code is classified as labelled.
    latent_distance: of the codes, in the attack's norm. distance: L2 of what they are decoded to.
    """

    success: Bools
    correct: Bools
    latent_distance: Floats
    distance: Floats
    decision: Ints
    points: NDArray[np.floating]


@dataclass(frozen=True)
class PathTable:
    """Walks of some pairs: from a sample towards its partner, always with the sample's logits.

    method: the inversion that walked. index: `(M,)`, of the samples. points: `(M, P, *shape)`.
    distance: `(M, P)`, to the partner. decision, feature_mse: `(M, P)`.
    """

    method: str
    index: Ints
    points: NDArray[np.floating]
    distance: Floats
    decision: Ints
    feature_mse: Floats


@dataclass(frozen=True)
class Tables:
    """Everything a run has stored."""

    classes: list[str]
    index: Ints
    label: Ints
    decision: Ints
    logits: NDArray[np.floating]
    inputs: NDArray[np.floating]
    attacks: dict[str, AttackTable]
    certificates: dict[str, Floats]
    invariance: dict[str, InvarianceTable]
    on_manifold: dict[str, ManifoldTable]
    cost: dict[str, MethodCost]

    @property
    def right(self) -> Bools:
        """Which samples are classified as labelled."""
        right: Bools = self.label == self.decision
        return right

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    @property
    def distance(self) -> Floats:
        """`(N,)`: distance of the nearest example that any attack found; inf where none did."""
        found: Floats = np.full(len(self.label), np.inf)
        for attack in self.attacks.values():
            found = np.minimum(found, attack.distance)
        return found

    @property
    def found(self) -> Bools:
        """Which samples some attack succeeded on."""
        finite: Bools = np.isfinite(self.distance)
        return finite

    @property
    def nearest(self) -> NDArray[np.floating]:
        """`(N, *shape)`: the nearest example of all attacks; the sample itself without any."""
        points: NDArray[np.floating] = self.inputs.copy()
        distance = np.full(len(self.label), np.inf)
        for attack in self.attacks.values():
            nearer = attack.distance < distance
            points[nearer], distance[nearer] = attack.points[nearer], attack.distance[nearer]
        return points

    @property
    def radius(self) -> Floats:
        """`(N,)`: the largest certified radius; 0 without a certificate."""
        certified: Floats = np.zeros(len(self.label))
        for radius in self.certificates.values():
            certified = np.maximum(certified, radius)
        return certified

    @property
    def pairs(self) -> InvarianceTable | None:
        """Every pair with the nearest success of all inversions; None if none was run."""
        found = list(self.invariance.values())
        if not found:
            return None
        # Without a success the nearest miss; of equal distances the more exact one.
        keys = [[getattr(t, key) for t in found] for key in ("feature_mse", "distance")]
        first = np.lexsort(np.array(keys), axis=0)[0]
        rows = np.arange(len(first))
        columns = {f.name: [getattr(t, f.name) for t in found] for f in fields(InvarianceTable)}
        return InvarianceTable(**{k: np.stack(v)[first, rows] for k, v in columns.items()})


def read_tables(store: Store, config: AuditConfig) -> Tables:
    """Read the units of a finished run. Raises `ValueError` if it is not finished."""
    clean, _ = _read(store, config, [u for u in plan(config, 1) if u.method == CLEAN])
    classes = len(np.unique(_plain(clean, "label")))
    units = [unit for unit in plan(config, classes) if unit.method != CLEAN]
    shape = tuple(config.data.shape)
    attacks: dict[str, AttackTable] = {}
    certificates: dict[str, Floats] = {}
    invariance: dict[str, InvarianceTable] = {}
    on_manifold: dict[str, ManifoldTable] = {}
    cost: dict[str, MethodCost] = {}
    stored = {
        name: _read(store, config, [unit for unit in units if unit.method == name])
        for name in dict.fromkeys(unit.method for unit in units)
    }
    for name, (table, spent) in stored.items():
        kind = config.methods[name].kind
        per_sample = {key: value / len(table) for key, value in spent.items()}
        cost[name] = MethodCost(kind=kind, **per_sample)
        if kind == "attack":
            attacks[name] = AttackTable(
                _plain(table, "success"),
                _plain(table, "distance"),
                _plain(table, "decision"),
                _rows(table, "adversarial", shape),
            )
        elif kind == "certificate":
            certificates[name] = _plain(table, "radius")
        elif kind == "on-manifold":
            on_manifold[name] = ManifoldTable(
                success=_plain(table, "success"),
                correct=_plain(table, "correct"),
                latent_distance=_plain(table, "latent_distance"),
                distance=_plain(table, "distance"),
                decision=_plain(table, "decision"),
                points=_rows(table, "adversarial", shape),
            )
        else:
            invariance[name] = InvarianceTable(
                partner=_plain(table, "partner"),
                success=_plain(table, "success"),
                distance=_plain(table, "distance"),
                distance_linf=_plain(table, "distance_linf"),
                feature_mse=_plain(table, "feature_mse"),
                logits=_rows(table, "logits", (-1,)),
                points=_rows(table, "example", shape),
            )
    return Tables(
        classes=config.data.classes,
        index=_plain(clean, "index"),
        label=_plain(clean, "label"),
        decision=_plain(clean, "decision"),
        logits=_rows(clean, "logits", (-1,)),
        inputs=_rows(clean, "input", shape),
        attacks=attacks,
        certificates=certificates,
        invariance=invariance,
        on_manifold=on_manifold,
        cost=cost,
    )


def _read(
    store: Store, config: AuditConfig, units: list[Unit]
) -> tuple[pa.Table, dict[str, float]]:
    missing = [unit for unit in units if not store.is_finished(unit, config.hash)]
    if missing:
        raise ValueError(
            f"the audit in {store.root} is not finished ({missing[0].path} is missing); run the "
            "same audit again to resume it"
        )
    return store.read_units(units)


def read_projections(store: Store, config: AuditConfig, units: list[Unit]) -> tuple[Floats, Floats]:
    """`(N,)` each: distances from the manifold, of the nearest examples and of the samples."""
    table, _ = _read(store, config, units)
    examples: Floats = _plain(table, "distance").astype(np.float64)
    samples: Floats = _plain(table, "sample_distance").astype(np.float64)
    return examples, samples


def read_paths(
    store: Store, config: AuditConfig, unit: Unit, method: str
) -> tuple[PathTable, MethodCost]:
    """The walks of a finished unit, and what they cost per sample of the audit."""
    table, spent = _read(store, config, [unit])
    points = _rows(table, "path", (-1, *config.data.shape))
    steps = points.shape[1:2]
    cost = {key: value / config.samples for key, value in spent.items()}
    return PathTable(
        method=method,
        index=_plain(table, "index"),
        points=points,
        distance=_rows(table, "distance", steps).astype(np.float64),
        decision=_rows(table, "decision", steps).astype(np.int64),
        feature_mse=_rows(table, "feature_mse", steps).astype(np.float64),
    ), MethodCost(kind="invariance", **cost)


def _plain(table: pa.Table, column: str) -> NDArray[Any]:
    values: NDArray[Any] = table[column].combine_chunks().to_numpy(zero_copy_only=False)
    return values


def _rows(table: pa.Table, column: str, shape: tuple[int, ...]) -> NDArray[np.floating]:
    flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows: NDArray[np.floating] = flat.reshape(len(table), *shape)
    return rows
