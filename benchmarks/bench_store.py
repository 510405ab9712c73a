"""Where a benchmark keeps its results: one Parquet file per chunk of samples, each written whole.

    OUT/MODEL/ATTACK/START.parquet    samples START, START + 1, ... of those asked for: one row
                                      each; what the whole chunk cost in the file's metadata

An interrupted run loses at most the chunk in flight. A chunk counts as finished if it holds the
samples wanted, from the same configuration; chunks of another configuration are deleted.
"""

from __future__ import annotations

import io
import json
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from elbowroom.files import write_atomically

META = b"elbowroom.benchmark"


@dataclass(frozen=True)
class Unit:
    """All chunks of one attack on one model: rows by column name, cost added up.

    commits: of the code that made them; results of several are to be read with care.
    """

    config: dict[str, Any]
    columns: dict[str, np.ndarray]
    cost: dict[str, float]
    commits: tuple[str, ...]

    @property
    def samples(self) -> int:
        return len(self.columns["index"])

    def per_sample(self, kind: str) -> float:
        return self.cost[kind] / self.samples


class Store:
    """The folder `root` of one benchmark."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def models(self) -> list[str]:
        return sorted(path.name for path in self.root.glob("*/") if any(path.glob("*/*.parquet")))

    def attacks(self, model: str) -> list[str]:
        found = {path.parent.name for path in (self.root / model).glob("*/*.parquet")}
        return sorted(found)

    def discard_stale(self, model: str, attack: str, config: dict[str, Any]) -> None:
        """Delete the chunks of another configuration, so that results are never mixed."""
        for path in self._chunks(model, attack):
            table = _read(path)
            if table is None or _meta(table)["config"] != config:
                path.unlink()

    def has(self, model: str, attack: str, start: int, indices: list[int]) -> bool:
        """Whether the chunk at `start` holds the samples `indices` first of all."""
        table = _read(self._path(model, attack, start))
        return table is not None and table["index"].to_pylist()[: len(indices)] == indices

    def write(
        self,
        model: str,
        attack: str,
        start: int,
        columns: dict[str, Any],
        config: dict[str, Any],
        cost: dict[str, float],
    ) -> None:
        """Store a finished chunk, with what is needed to run it again."""
        meta = {"config": config, "cost": cost, "run": describe_run()}
        table = pa.table(columns).replace_schema_metadata({META: json.dumps(meta).encode()})
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        write_atomically(self._path(model, attack, start), sink.getvalue())

    def read(self, model: str, attack: str) -> Unit | None:
        """The finished chunks of a unit, in the order of its samples; None if there are none."""
        tables = [
            table for path in self._chunks(model, attack) if (table := _read(path)) is not None
        ]
        if not tables:
            return None
        metas = [_meta(table) for table in tables]
        cost: dict[str, float] = {}
        for meta in metas:
            for kind, value in meta["cost"].items():
                cost[kind] = cost.get(kind, 0.0) + value
        rows = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
        columns = {name: rows[name].to_numpy() for name in rows.column_names}
        commits = tuple(sorted({meta["run"]["commit"] for meta in metas}))
        return Unit(metas[0]["config"], columns, cost, commits)

    def _path(self, model: str, attack: str, start: int) -> Path:
        return self.root / model / attack / f"{start:06d}.parquet"

    def _chunks(self, model: str, attack: str) -> list[Path]:
        return sorted((self.root / model / attack).glob("*.parquet"))


def _read(path: Path) -> pa.Table | None:
    """The table in a file; None if the file is missing, damaged or not ours."""
    if not path.exists():
        return None
    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
    except (pa.ArrowInvalid, OSError):
        return None
    return table if META in (table.schema.metadata or {}) else None


def _meta(table: pa.Table) -> dict[str, Any]:
    return json.loads(table.schema.metadata[META])


def describe_run() -> dict[str, Any]:
    """What a reader needs to judge a timing, or to repeat it."""
    return {
        "command": shlex.join(sys.argv),
        "commit": _commit(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load": os.getloadavg()[0],
    }


def _commit() -> str:
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return answer.stdout.strip()
