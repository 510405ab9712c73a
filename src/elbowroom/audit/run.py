"""Run the units of a plan, in fixed-size padded chunks.

Floating-point results depend on the size of the batch a sample is computed in. Every method is
therefore called with exactly `chunk` samples, the last ones repeated where there are fewer, so
that a sample's result is the same bit for bit in any order and any division into units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from elbowroom.attacks import Attack
from elbowroom.audit.config import AuditConfig
from elbowroom.audit.store import Store, Unit
from elbowroom.certificates import Certificate
from elbowroom.classifier import Classifier
from elbowroom.invariance import Inversion
from elbowroom.manifold import Decoder, LatentAttack
from elbowroom.results import Cost

Progress = Callable[[int, int, str], None]

CLEAN = "clean"


@dataclass(frozen=True)
class Samples:
    """What is measured, on the classifier's device.

    x: `(N, *shape)`; y: `(N,)`; indices: the samples' numbers in their data set; partners: the
    position of the image of another class that each sample's logits are transplanted to, -1 for
    none; manifold: what the samples lie on, where a decoder of it is known.
    """

    x: Tensor
    y: Tensor
    indices: list[int]
    partners: list[int]
    manifold: Decoder | None = None


def pair_up(indices: list[int], labels: list[int], seed: int) -> list[int]:
    """For each sample the position of a random sample of another class; -1 if there is none.

    The choice depends on the set of samples, not on their order.
    """
    order = sorted(range(len(indices)), key=indices.__getitem__)
    partners = []
    for index, label in zip(indices, labels, strict=True):
        others = [position for position in order if labels[position] != label]
        stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index, 1])))
        partners.append(others[int(stream.integers(len(others)))] if others else -1)
    return partners


def plan(config: AuditConfig, classes: int) -> list[Unit]:
    """All units: the clean pass first, then method by method.

    classes: how many different labels the samples have; pairs need two.
    """
    usable = [n for n, m in config.methods.items() if classes > 1 or m.kind != "invariance"]
    names = [CLEAN, *usable]
    starts = range(0, config.samples, config.unit)
    return [Unit(n, s, min(s + config.unit, config.samples)) for n in names for s in starts]


def run(
    clf: Classifier,
    config: AuditConfig,
    samples: Samples,
    store: Store,
    progress: Progress | None = None,
) -> None:
    """Compute the units that are not stored yet."""
    units = plan(config, len(set(samples.y.tolist())))
    for done, unit in enumerate(units):
        if progress is not None:
            progress(done, len(units), unit.method)
        if store.is_finished(unit, config.hash):
            continue
        compute = _computation(clf, config, samples, unit.method)
        columns, cost = _in_chunks(compute, unit, config.chunk)
        indices = pa.array(samples.indices[unit.start : unit.stop], pa.int64())
        store.write_unit(unit, config.hash, {"index": indices, **columns}, asdict(cost))
    if progress is not None:
        progress(len(units), len(units), "done")


Chunk = tuple[dict[str, Tensor], Cost]


def _computation(
    clf: Classifier, config: AuditConfig, samples: Samples, name: str
) -> Callable[[Tensor], Chunk]:
    """A function of the positions of exactly one chunk, giving its columns."""

    def clean(rows: Tensor) -> Chunk:
        x = samples.x[rows]
        with clf.metered() as spent:
            logits = clf.logits(x)
        columns = {"label": samples.y[rows], "decision": logits.argmax(dim=1)}
        return {**columns, "logits": logits, "input": x}, spent()

    if name == CLEAN:
        return clean
    method = config.methods[name].build()

    def attack(rows: Tensor) -> Chunk:
        assert isinstance(method, Attack)
        indices = [samples.indices[row] for row in rows.tolist()]
        result = method(clf, samples.x[rows], samples.y[rows], indices=indices)
        with clf.session():
            decision = clf.logits(result.adversarial).argmax(dim=1)
        columns = {"success": result.success, "distance": result.distance, "decision": decision}
        return {**columns, "adversarial": result.adversarial}, result.cost

    def certificate(rows: Tensor) -> Chunk:
        assert isinstance(method, Certificate)
        certified = method(clf, samples.x[rows], samples.y[rows])
        return {"radius": certified.radius}, certified.cost

    def invariance(rows: Tensor) -> Chunk:
        assert isinstance(method, Inversion)
        indices = [samples.indices[row] for row in rows.tolist()]
        partners = torch.tensor([samples.partners[row] for row in rows.tolist()])
        toward = samples.x[partners]
        found = method(clf, start=samples.x[rows], toward=toward, indices=indices)
        with clf.session():
            logits = clf.logits(found.example)
        columns = {
            "partner": torch.tensor([samples.indices[p] for p in partners.tolist()]),
            "success": found.success,
            "distance": found.distance,
            "distance_linf": found.distance_linf,
            "feature_mse": found.feature_mse,
        }
        return {**columns, "logits": logits, "example": found.example}, found.cost

    def on_manifold(rows: Tensor) -> Chunk:
        assert isinstance(method, LatentAttack)
        assert samples.manifold is not None
        indices = [samples.indices[row] for row in rows.tolist()]
        codes = samples.manifold.encode(samples.x[rows], samples.y[rows])
        found = method(clf, samples.manifold, codes, samples.y[rows], indices=indices)
        with clf.session():
            decision = clf.logits(found.adversarial.to(clf.dtype)).argmax(dim=1)
        columns = {
            "success": found.success,
            "correct": found.correct,
            "latent_distance": found.latent_distance,
            "distance": found.distance,
            "decision": decision,
        }
        return {**columns, "adversarial": found.adversarial}, found.cost

    kinds = {
        "attack": attack,
        "certificate": certificate,
        "invariance": invariance,
        "on-manifold": on_manifold,
    }
    return kinds[config.methods[name].kind]


def _in_chunks(
    compute: Callable[[Tensor], Chunk], unit: Unit, chunk: int
) -> tuple[dict[str, Any], Cost]:
    """Run a unit chunk by chunk. Passes of padding are not charged; seconds are as measured."""
    parts: list[dict[str, Tensor]] = []
    total = Cost()
    for start in range(unit.start, unit.stop, chunk):
        rows = torch.arange(start, min(start + chunk, unit.stop))
        real = len(rows)
        rows = torch.cat([rows, rows[-1:].expand(chunk - real)])
        columns, cost = compute(rows)
        parts.append({name: column[:real].cpu() for name, column in columns.items()})
        total += _share(cost, real / chunk)
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {name: column(values) for name, values in joined.items()}, total


def _share(cost: Cost, share: float) -> Cost:
    passes = {k: round(v * share) for k, v in asdict(cost).items() if k != "seconds"}
    return replace(cost, **passes)


def column(values: Tensor) -> pa.Array:
    """A Parquet column; a row of more than one dimension becomes a flat list."""
    if values.ndim == 1:
        return pa.array(values.numpy())
    flat = values.flatten(1)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.flatten().numpy()), flat.shape[1])
