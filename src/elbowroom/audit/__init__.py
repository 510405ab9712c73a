"""The main job without its page: plan, run, store, summarise."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import BaseModel
from torch import Tensor, nn

from elbowroom.audit.card import Card
from elbowroom.audit.config import (
    AuditConfig,
    MethodConfig,
    default_methods,
    describe_bounds,
    describe_data,
    describe_model,
)
from elbowroom.audit.gallery import Exhibits
from elbowroom.audit.manifold import project_examples, summarise_manifold
from elbowroom.audit.paths import stored_paths, walk_paths
from elbowroom.audit.run import Progress, Samples, pair_up, run
from elbowroom.audit.store import Store
from elbowroom.audit.summarise import exhibit, summarise
from elbowroom.audit.summary import Summary, TrustCheck, WholeSplit
from elbowroom.audit.tables import read_tables
from elbowroom.audit.trust import model_checks, recheck, recheck_logits, table_checks
from elbowroom.classifier import Classifier, as_classifier
from elbowroom.data import Dataset
from elbowroom.manifold import Decoder
from elbowroom.manifold.registry import decoder as decoder_of
from elbowroom.norms import L2, Norm
from elbowroom.version import __version__

__all__ = ["AuditConfig", "Card", "MethodConfig", "Progress", "Store", "Summary", "measure", "read"]

NOTES = "notes.json"
WHOLE_BATCH = 500


class _Notes(BaseModel):
    """What only the model can tell, kept so that a report can be made again without it."""

    checks: list[TrustCheck]
    whole: WholeSplit | None


def measure(
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
) -> None:
    """Measure a classifier on data and store every result; `read` gives them back.

    data:     a `Dataset`, or inputs `(N, *shape)` and labels `(N,)`.
    out:      folder (or fsspec URL) for results; finished parts are kept, and running the same
              audit again continues where it stopped.
    norm:     of the sensitivity part.
    methods:  by the names the report shows; the default set for the norm if None.
    indices:  the samples' numbers in their data set, which seed their randomness; 0..N-1 by
              default. Results are bitwise independent of the order of the samples.
    whole:    the split that `data` was taken from, to report its clean accuracy too.
    decoder:  of the manifold that the data lie on, as `manifold.registry.decoder` takes it: adds an
              attack along it, and the distance of the other examples from it.
    chunk:    samples computed together; results differ in the last bits between chunk sizes.
    unit:     samples stored together; what a crash can lose at most.
    progress: called with (units done, units in all, method).

    Raises `ValueError` for unusable inputs and for a folder that holds another audit; `OSError`
    if results cannot be written (what is finished stays).
    """
    clf = as_classifier(clf)
    if not isinstance(data, Dataset):
        if not isinstance(data, tuple) or len(data) != 2:
            raise TypeError("data must be a Dataset, or a tuple of inputs and labels")
        x, y = data
        data = _describe(clf, x, y)
    else:
        x, y = data.x.to(device=clf.device, dtype=clf.dtype), data.y
    x, y = clf.validate(x, y)
    indices = list(range(len(x))) if indices is None else [int(i) for i in indices]
    if len(indices) != len(x) or len(set(indices)) != len(x):
        raise ValueError(f"indices must be {len(x)} different numbers, one per sample")
    if chunk < 1 or unit < 1:
        raise ValueError("chunk and unit must be at least 1")
    norm = Norm.parse(norm)
    config = AuditConfig(
        elbowroom=__version__,
        model=describe_model(clf),
        data=describe_data(data, x, y, indices),
        bounds=describe_bounds(clf),
        samples=len(x),
        norm=str(norm),
        seed=seed,
        chunk=chunk,
        unit=unit,
        methods=methods or default_methods(clf, x, norm, seed, decoder),
        decoder=decoder,
    )
    for method in config.methods.values():
        method.build()  # a wrong option shows now and not after an hour
    manifold = _manifold(config, x, y)
    samples = Samples(x, y, indices, pair_up(indices, y.tolist(), seed), manifold)
    store = Store(str(out))
    store.claim(config)
    run(clf, config, samples, store, progress)
    tables = read_tables(store, config)
    walk_paths(clf, config, samples, store, tables)
    project_examples(config, samples, store, tables)
    paths, _ = stored_paths(store, config, tables)
    checks = [*model_checks(clf, x, y, norm), recheck(clf, tables, y)]
    if tables.invariance:
        checks.append(recheck_logits(clf, config, tables, paths))
    notes = _Notes(
        checks=checks,
        whole=None if whole is None else _whole_split(clf, whole),
    )
    store.write(NOTES, notes.model_dump_json(indent=2).encode())


def read(out: str | Path) -> tuple[Summary, Exhibits]:
    """The summary of a finished audit, made anew from its stored results, and its exhibits.

    Raises `ValueError` saying what is missing if the audit is not finished.
    """
    store = Store(str(out))
    config = store.config()
    tables = read_tables(store, config)
    if not store.exists(NOTES):
        raise ValueError(f"the audit in {out} is not finished; run it again to resume it")
    notes = _Notes.model_validate_json(store.read(NOTES))
    checks = [*notes.checks, *table_checks(tables)]
    paths, cost = stored_paths(store, config, tables)
    on_manifold = summarise_manifold(store, config, tables)
    summary = summarise(config, tables, checks, notes.whole, cost, on_manifold)
    return summary, exhibit(tables, paths)


def _manifold(config: AuditConfig, x: Tensor, y: Tensor) -> Decoder | None:
    """The decoder, if a method needs it.

    Raises `ValueError` for one that is missing, unknown, or not of these samples.
    """
    along = [name for name, method in config.methods.items() if method.kind == "on-manifold"]
    if not along and config.decoder is not None:
        raise ValueError(
            "a decoder is for attacks along the manifold, but no method of this audit is one"
        )
    if not along:
        return None
    if config.decoder is None:
        raise ValueError(f"the method {along[0]!r} needs a decoder")
    found = decoder_of(config.decoder, config.data.split)
    found.encode(x, y)  # a wrong one shows now and not after an hour
    return found


def _whole_split(clf: Classifier, data: Dataset) -> WholeSplit:
    right = 0
    with clf.session():
        for start in range(0, len(data), WHOLE_BATCH):
            x = data.x[start : start + WHOLE_BATCH].to(clf.device, clf.dtype)
            decisions = clf.logits(x).argmax(dim=1).cpu()
            right += int((decisions == data.y[start : start + WHOLE_BATCH]).sum())
    return WholeSplit(samples=len(data), accuracy=right / len(data))


def _describe(clf: Classifier, x: Tensor, y: Tensor) -> Dataset:
    """A name for inputs given as tensors."""
    clf.validate(x, y)
    return Dataset(
        name="tensors",
        split="all",
        x=x.detach().float().cpu(),
        y=y.long().cpu(),
        classes=tuple(str(label) for label in range(int(y.max()) + 1)),
        bounds=(-math.inf, math.inf),
        source="given as tensors",
    )
