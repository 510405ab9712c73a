"""The one training loop. It can be interrupted at any time and goes on where it stopped."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn

from elbowroom import models
from elbowroom.data import Dataset
from elbowroom.sampling import epoch_seed
from elbowroom.training.checkpoint import FILE as CHECKPOINT_FILE
from elbowroom.training.checkpoint import Checkpoint, fingerprint
from elbowroom.training.objectives import Objective

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": lambda parameters, **options: torch.optim.SGD(parameters, momentum=0.9, **options),
}
WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """How to train; the defaults are those of the Manifold paper (3.1).

    epochs:              passes over the data.
    batch_size:          the largest size of a batch; an epoch's batches differ by at most one.
    learning_rate:       in the first epoch.
    learning_rate_decay: its factor from each epoch to the next.
    weight_decay:        L2 penalty on all parameters, as the optimizer defines it.
    optimizer:           a name in `OPTIMIZERS` ("sgd" has momentum 0.9).
    seed:                of the order of the samples and of all other random numbers.
    """

    epochs: int = 20
    batch_size: int = 100
    learning_rate: float = 0.01
    learning_rate_decay: float = 0.95
    weight_decay: float = 1e-4
    optimizer: str = "adam"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "learning_rate_decay"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"unknown optimizer {self.optimizer!r}; choose {', '.join(OPTIMIZERS)}"
            )

    def describe(self) -> dict[str, str]:
        """Every setting in words, as a checkpoint and a weights file keep them."""
        return {f.name: str(getattr(self, f.name)) for f in fields(self)}


@dataclass(frozen=True)
class EpochReport:
    """What `progress` is told after each epoch.

    epoch:    counted from 1, of `epochs`.
    loss:     mean of the objective over the epoch, while the weights changed.
    accuracy: fraction of the validation samples classified correctly; None without such.
    seconds:  of the epoch.
    """

    epoch: int
    epochs: int
    loss: float
    accuracy: float | None
    seconds: float


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """model: trained, in evaluation mode. history: one report per epoch. weights: its file."""

    model: nn.Module
    history: tuple[EpochReport, ...]
    weights: Path | None


def accuracy(model: nn.Module, data: Dataset, *, batch_size: int = 1000) -> float:
    """The fraction of samples that `model` classifies correctly, in evaluation mode."""
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    correct = 0
    with torch.no_grad():
        for x, y in zip(
            torch.split(data.x, batch_size), torch.split(data.y, batch_size), strict=True
        ):
            correct += int((model(x.to(device)).argmax(dim=1) == y.to(device)).sum())
    model.train(training)
    return correct / len(data)


def train(
    model: nn.Module,
    data: Dataset,
    objective: Objective,
    settings: TrainingRun,
    *,
    validation: Dataset | None = None,
    folder: str | Path | None = None,
    progress: Callable[[EpochReport], None] | None = None,
    accelerator: str = "auto",
    metadata: Mapping[str, str] | None = None,
) -> TrainingResult:
    """Train `model`, in place, on one device.

    model:       from samples `(N, *shape)` to logits, one per class of `data`.
    validation:  samples whose accuracy is reported after each epoch; they decide nothing.
    folder:      where to keep a checkpoint after each epoch, and the final weights. If it holds
                 one of the same run, training goes on from its weights, to bitwise the same
                 result as without the interruption (same CPU and number of threads).
    progress:    called after each epoch.
    accelerator: of Lightning Fabric: "auto", "cpu", "cuda", ...; the model stays there.
    metadata:    further entries for the weights file.

    torch's global random state is left as it was. Raises `ImportError` without Lightning,
    `ValueError` for data that do not fit the model or a folder with another run, and
    `FloatingPointError` when the loss becomes NaN or infinite.
    """
    fabric = _fabric(accelerator)
    _check(model, data)
    identity = {
        **settings.describe(),
        **objective.describe(),
        "data": fingerprint(data),
        "model": str(model),
    }
    folder = None if folder is None else Path(folder)
    checkpoint = Checkpoint.resumed(folder, identity)
    if checkpoint is not None:
        models.load_state(model, checkpoint.state_dict, f"{folder}/{CHECKPOINT_FILE}")
    wrapped, optimizer = fabric.setup(
        model,
        OPTIMIZERS[settings.optimizer](
            model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        ),
    )
    history: list[EpochReport] = []
    if checkpoint is not None:
        optimizer.load_state_dict(checkpoint.optimizer)
        history = [EpochReport(**report) for report in checkpoint.history]

    for epoch in range(len(history), settings.epochs):
        start = perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * settings.learning_rate_decay**epoch
        with _seeded(settings.seed, epoch, fabric.device) as generator:
            loss = _epoch(fabric, wrapped, optimizer, data, objective, settings, generator)
        score = None if validation is None else accuracy(model, validation)
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {loss} in epoch {epoch + 1}; lower learning_rate "
                f"(it was {settings.learning_rate:g} in the first epoch)"
            )
        seconds = perf_counter() - start
        history.append(EpochReport(epoch + 1, settings.epochs, loss, score, seconds))
        if folder is not None:
            reports = [asdict(report) for report in history]
            Checkpoint(identity, model.state_dict(), optimizer.state_dict(), reports).write(folder)
        if progress is not None:
            progress(history[-1])

    model.eval()
    weights = None if folder is None else folder / WEIGHTS_FILE
    if weights is not None:
        written = {**identity, "torch": torch.__version__, "threads": str(torch.get_num_threads())}
        if validation is not None:
            written["validation"] = fingerprint(validation)
            written["validation accuracy"] = f"{accuracy(model, validation):.4f}"
        models.save(model, weights, {**written, **(metadata or {})})
    return TrainingResult(model, tuple(history), weights)


def _fabric(accelerator: str) -> Any:
    try:
        # Imported here: it takes seconds, and only training needs it.
        from lightning.fabric import Fabric
    except ImportError as error:
        raise ImportError(
            "training needs Lightning; install it with: pip install 'elbowroom[train]'"
        ) from error
    try:
        return Fabric(accelerator=accelerator, devices=1)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"accelerator {accelerator!r} cannot be used here: {error}") from error


def _check(model: nn.Module, data: Dataset) -> None:
    if len(data) < 2:
        raise ValueError(f"{data.name} ({data.split}) has {len(data)} samples; training needs two")
    device = next(model.parameters()).device
    training = model.training
    try:
        with torch.no_grad():
            shape = tuple(model.eval()(data.x[:1].to(device)).shape)
    except RuntimeError as error:
        raise ValueError(
            f"the model rejects samples of shape {data.shape}: {str(error).splitlines()[0]}"
        ) from error
    finally:
        model.train(training)
    if shape != (1, len(data.classes)):
        raise ValueError(
            f"the model returns shape {shape} for one sample of {data.name}, which has "
            f"{len(data.classes)} classes; build it with classes={len(data.classes)}"
        )


@contextmanager
def _seeded(seed: int, epoch: int, device: torch.device) -> Iterator[torch.Generator]:
    """A generator, and torch's global one for dropout, that depend on (seed, epoch) alone."""
    number = epoch_seed(seed, epoch)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield torch.Generator().manual_seed(number)


def _epoch(
    fabric: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    objective: Objective,
    settings: TrainingRun,
    generator: torch.Generator,
) -> float:
    """One pass over the data in random order; the mean loss."""
    model.train()
    order = torch.randperm(len(data), generator=generator)
    total = torch.zeros((), device=fabric.device)
    # Equal parts rather than full batches and a rest: batch norm cannot train on one sample.
    for rows in order.tensor_split(math.ceil(len(data) / settings.batch_size)):
        x, y = data.x[rows].to(fabric.device), data.y[rows].to(fabric.device)
        optimizer.zero_grad()
        loss = objective.loss(model, x, y, data.bounds, generator)
        fabric.backward(loss)
        optimizer.step()
        total += loss.detach() * len(rows)
    return float(total) / len(data)
