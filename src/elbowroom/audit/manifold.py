"""Do the nearest regular examples leave the manifold? For data with a decoder.

A learned decoder misses the samples themselves by some distance. Only where this is small beside
the moves of the examples does it tell how these leave the manifold.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from elbowroom.audit.config import AuditConfig
from elbowroom.audit.run import Samples, column
from elbowroom.audit.statistics import median
from elbowroom.audit.store import Store, Unit
from elbowroom.audit.summary import OnManifold
from elbowroom.audit.tables import Bools, Floats, ManifoldTable, Tables, read_projections
from elbowroom.manifold import LatentAttack, project
from elbowroom.manifold.rates import rate
from elbowroom.results import Cost

# Of the moves: how far off the manifold samples may be themselves.
FINE = 0.1


def project_examples(config: AuditConfig, samples: Samples, store: Store, tables: Tables) -> None:
    """Project each sample and its nearest example, from the sample's code, and store how far they
    are. What is stored already stays.
    """
    for unit in _units(config, tables):
        if store.is_finished(unit, config.hash):
            continue
        manifold = samples.manifold
        assert manifold is not None
        parts: dict[str, list[Tensor]] = {"distance": [], "sample_distance": []}
        for start in range(unit.start, unit.stop, config.chunk):
            rows = torch.arange(start, min(start + config.chunk, unit.stop))
            real = len(rows)
            # As in `audit.run`: always batches of one size.
            rows = torch.cat([rows, rows[-1:].expand(config.chunk - real)])
            x = samples.x[rows]
            examples = torch.tensor(tables.nearest[rows.numpy()]).to(x)
            codes = manifold.encode(x, samples.y[rows])
            for name, points in (("distance", examples), ("sample_distance", x)):
                parts[name].append(project(manifold, points, codes).distance[:real].cpu())
        columns = {name: column(torch.cat(each)) for name, each in parts.items()}
        index = pa.array(samples.indices[unit.start : unit.stop], pa.int64())
        # The decoder's passes are no passes of the network.
        store.write_unit(unit, config.hash, {"index": index, **columns}, asdict(Cost()))


def summarise_manifold(store: Store, config: AuditConfig, tables: Tables) -> OnManifold | None:
    """What the page says about the manifold; None where it was not measured."""
    if config.decoder is None or not tables.on_manifold:
        return None
    found = nearest_on_manifold(tables)
    counted = tables.right & found.correct
    hits = found.success & counted
    success = rate(torch.from_numpy(found.success), torch.from_numpy(counted))
    built = [config.methods[name].build() for name in tables.on_manifold]
    norms = [str(method.norm) for method in built if isinstance(method, LatentAttack)]
    off, own, moved = _off(store, config, tables)
    fine = len(own) > 0 and float(np.median(own)) <= FINE * float(np.median(moved))
    return OnManifold(
        decoder=config.decoder,
        method=", ".join(tables.on_manifold),
        norm=", ".join(dict.fromkeys(norms)),
        samples=success.count,
        success_rate=success.value if success.count else None,
        lower=success.lower if success.count else None,
        upper=success.upper if success.count else None,
        median_latent_distance=median(found.latent_distance[hits]),
        median_distance=median(found.distance[hits]),
        regular_examples=len(off),
        median_off_manifold=median(off),
        median_samples_off_manifold=median(own),
        median_ratio=median(off / moved) if fine else None,
    )


def nearest_on_manifold(tables: Tables) -> ManifoldTable:
    """Of all attacks along the manifold, for each sample the success with the nearest code."""
    every = list(tables.on_manifold.values())
    first = np.argmin([table.latent_distance for table in every], axis=0)
    rows = np.arange(len(first))
    names = ("success", "latent_distance", "distance", "decision", "points")
    chosen = {name: np.stack([getattr(t, name) for t in every])[first, rows] for name in names}
    correct: Bools = np.all([table.correct for table in every], axis=0)
    return ManifoldTable(correct=correct, **chosen)


def _off(store: Store, config: AuditConfig, tables: Tables) -> tuple[Floats, Floats, Floats]:
    """Of the rightly classified with a regular example: how far off the manifold it is, how far the
    sample itself, and how far it moved.
    """
    units = _units(config, tables)
    rows = tables.right & tables.found
    if not units or not rows.any():
        return np.zeros(0), np.zeros(0), np.zeros(0)
    off, own = (each[rows] for each in read_projections(store, config, units))
    change = (tables.nearest.astype(np.float64) - tables.inputs)[rows].reshape(len(off), -1)
    moved = np.linalg.norm(change, axis=1)
    # An example that is the sample itself has no direction to leave in.
    return off[moved > 0], own[moved > 0], moved[moved > 0]


def _units(config: AuditConfig, tables: Tables) -> list[Unit]:
    if config.decoder is None or not tables.on_manifold or not tables.attacks:
        return []
    name = f"{next(iter(tables.on_manifold))}/projection"
    starts = range(0, config.samples, config.unit)
    return [Unit(name, s, min(s + config.unit, config.samples)) for s in starts]
