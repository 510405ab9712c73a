"""The main job: measure a classifier, then write the card and the page."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from elbowroom.audit import Card, MethodConfig, Progress, Store, measure, read
from elbowroom.classifier import Classifier
from elbowroom.data import Dataset
from elbowroom.norms import L2, Norm
from elbowroom.report import render


def audit(
    clf: Classifier | nn.Module,
    data: Dataset | tuple[Tensor, Tensor],
    out: str | Path = "runs/audit",
    *,
    norm: Norm | str = L2,
    methods: dict[str, MethodConfig] | None = None,
    indices: list[int] | None = None,
    whole: Dataset | None = None,
    decoder: str | None = None,
    seed: int = 0,
    chunk: int = 32,
    unit: int = 32,
    progress: Progress | None = None,
) -> Card:
    """Measure a classifier on data; write `summary.json` and `report.html`.

    The arguments are those of `elbowroom.audit.measure`. Finished parts in `out` are kept: the
    same call continues an audit that was interrupted.
    """
    measure(
        clf, data, out, norm=norm, methods=methods, indices=indices, whole=whole, decoder=decoder,
        seed=seed, chunk=chunk, unit=unit, progress=progress,
    )  # fmt: skip
    return rebuild(out)


def rebuild(out: str | Path) -> Card:
    """Write `summary.json` and `report.html` anew from the results of a finished audit.

    Raises `ValueError` saying what is missing if the audit is not finished.
    """
    summary, exhibits = read(out)
    store = Store(str(out))
    store.write("summary.json", summary.model_dump_json(indent=2, by_alias=True).encode())
    store.write("report.html", render(summary, exhibits).encode())
    return Card(summary, str(out))
