"""The run folder: one Parquet file per work unit, every write atomic.

    config.json                       what is being computed
    units/METHOD/START-STOP.parquet   results of the samples START..STOP-1, config hash and cost
                                      in the file's metadata
    units/METHOD/paths/...            walks of the pairs that the page shows
    notes.json, summary.json, report.html

Paths go through fsspec. A file is written under a temporary name, flushed and renamed, so that a
reader sees a whole file or none, whatever kills the writer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from elbowroom.audit.config import AuditConfig

CONFIG_KEY, COST_KEY = b"elbowroom.config", b"elbowroom.cost"


@dataclass(frozen=True)
class Unit:
    """The samples at positions `start` to `stop - 1`, treated by one method."""

    method: str
    start: int
    stop: int

    @property
    def path(self) -> str:
        return f"units/{self.method}/{self.start:06d}-{self.stop:06d}.parquet"


class Store:
    """A run folder at `root`, a local path or any URL that fsspec knows."""

    def __init__(self, root: str) -> None:
        self.fs, self.root = fsspec.core.url_to_fs(str(root))

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically. Raises `OSError` with what was lost (nothing) and a remedy."""
        path = self.path(name)
        part = f"{path}.part"
        try:
            self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            with self.fs.open(part, "wb") as file:
                file.write(content)
            self.fs.mv(part, path)
        except OSError as error:
            if self.fs.exists(part):
                self.fs.rm(part)
            raise OSError(
                f"cannot write {path} ({error.strerror or error}); finished units are kept: free "
                "space or permissions, then run the same command again to resume"
            ) from error

    def read(self, name: str) -> bytes:
        """The content of a file. Raises `FileNotFoundError`."""
        return cast(bytes, self.fs.cat_file(self.path(name)))

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self.path(name)))

    # -- configuration -----------------------------------------------------------------------

    def claim(self, config: AuditConfig) -> None:
        """Make this the folder of `config`.

        Raises `ValueError` naming the fields that differ if it holds the results of another.
        """
        if not self.exists("config.json"):
            self.write("config.json", config.model_dump_json(indent=2).encode())
            return
        stored = self.config()
        if differences := stored.differences(config):
            shown = "; ".join(differences[:4]) + ("; ..." if len(differences) > 4 else "")
            raise ValueError(
                f"{self.root} holds an audit with another configuration ({shown}); results are "
                "never mixed: choose another output folder, or delete this one"
            )

    def config(self) -> AuditConfig:
        """The stored configuration. Raises `ValueError` where there is none to be read."""
        try:
            return AuditConfig.model_validate_json(self.read("config.json"))
        except FileNotFoundError as error:
            raise ValueError(
                f"{self.root} is not the folder of an audit: no config.json"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{self.path('config.json')} cannot be read by this version of elbowroom; choose "
                "another output folder"
            ) from error

    # -- units -------------------------------------------------------------------------------

    def write_unit(
        self, unit: Unit, config_hash: str, columns: dict[str, Any], cost: dict[str, float]
    ) -> None:
        """Store a finished unit: `columns` by name, `cost` per kind of pass for the whole unit."""
        table = pa.table(columns).replace_schema_metadata(
            {CONFIG_KEY: config_hash.encode(), COST_KEY: json.dumps(cost).encode()}
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write(unit.path, sink.getvalue().to_pybytes())

    def is_finished(self, unit: Unit, config_hash: str) -> bool:
        """Whether the unit is stored and whole; a damaged file counts as not finished."""
        if not self.exists(unit.path):
            return False
        try:
            metadata = pq.read_schema(pa.BufferReader(self.read(unit.path))).metadata or {}
        except (pa.ArrowInvalid, OSError):
            return False
        return metadata.get(CONFIG_KEY) == config_hash.encode()

    def read_units(self, units: list[Unit]) -> tuple[pa.Table, dict[str, float]]:
        """The rows of several units of one method, and their total cost."""
        tables = [
            pq.read_table(
                pa.BufferReader(self.read(unit.path)), use_threads=False, pre_buffer=False
            )
            for unit in units
        ]
        total: dict[str, float] = {}
        for table in tables:
            for name, value in json.loads(table.schema.metadata[COST_KEY]).items():
                total[name] = total.get(name, 0.0) + value
        return pa.concat_tables([t.replace_schema_metadata(None) for t in tables]), total
