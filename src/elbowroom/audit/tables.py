"""The stored results of a run as arrays, one row per sample, in the order of the samples."""

from __future__ import annotations

from dataclasses import dataclass
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
    def radius(self) -> Floats:
        """`(N,)`: the largest certified radius; 0 without a certificate."""
        certified: Floats = np.zeros(len(self.label))
        for radius in self.certificates.values():
            certified = np.maximum(certified, radius)
        return certified


def read_tables(store: Store, config: AuditConfig) -> Tables:
    """Read the units of a finished run. Raises `ValueError` if it is not finished."""
    clean, _ = _read(store, config, [u for u in plan(config, 1) if u.method == CLEAN])
    classes = len(np.unique(_plain(clean, "label")))
    units = [unit for unit in plan(config, classes) if unit.method != CLEAN]
    shape = tuple(config.data.shape)
    attacks: dict[str, AttackTable] = {}
    certificates: dict[str, Floats] = {}
    invariance: dict[str, InvarianceTable] = {}
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


def _plain(table: pa.Table, column: str) -> NDArray[Any]:
    values: NDArray[Any] = table[column].combine_chunks().to_numpy(zero_copy_only=False)
    return values


def _rows(table: pa.Table, column: str, shape: tuple[int, ...]) -> NDArray[np.floating]:
    flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    rows: NDArray[np.floating] = flat.reshape(len(table), *shape)
    return rows
