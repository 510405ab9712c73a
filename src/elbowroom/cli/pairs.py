"""Which samples `invert` and `path` are about: numbers, draws at random, and what is no sample."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from torch import Tensor

from elbowroom.audit.run import pair_up
from elbowroom.classifier import Classifier
from elbowroom.cli.options import Subject
from elbowroom.invariance import mean_image, uniform_noise

COUNT = 10
# What an inversion can go towards besides samples (Invariance thesis, 4.3.3 and 4.4).
AIMS = {"mean": "the mean of the samples", "noise": "uniform noise", "grey": "constant grey"}
NO_SAMPLE = -1


@dataclass(frozen=True)
class ExactSubject(Subject):
    """What is inverted, in float64 unless told otherwise."""

    dtype: Annotated[
        str | None,
        typer.Option(
            help="float64, or float32. Equal logits are equal to rounding: in float64 to about "
            "1e-14, in float32 to 1e-6, where the last steps onto a preimage are lost in it."
        ),
    ] = "float64"


@dataclass(frozen=True)
class Pairs:
    """M inversions.

    start:   `(M, *shape)`: have the wanted features; None where these are given themselves.
    toward:  `(M, *shape)`.
    starts, towards: their numbers in the data, `NO_SAMPLE` for what is none.
    aim:     what `toward` is, where it is no sample; one of `AIMS`.
    """

    start: Tensor | None
    toward: Tensor
    starts: list[int]
    towards: list[int]
    aim: str | None = None

    def __len__(self) -> int:
        return len(self.toward)

    @property
    def indices(self) -> list[int]:
        """Numbers that seed each inversion's randomness."""
        if self.start is not None:
            return self.starts
        return list(range(len(self))) if self.aim else self.towards


def find_pairs(
    clf: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    start: str | None,
    toward: str | None,
    count: int | None,
    seed: int,
    targets: int | None = None,
) -> Pairs:
    """Pairs among the samples `x` `(N, *shape)` with labels `y` `(N,)`.

    start, toward: numbers of samples with commas, one for all or as many as the other has; toward
                   may be one of `AIMS`. What is left out is drawn at random: samples, and for
                   each a sample of another class.
    count:   how many are drawn. targets: how many wanted features are given instead of a start.
    Raises `ValueError` for numbers that do not fit.
    """
    aim = toward if toward in AIMS else None
    starts = None if start is None else sample_numbers("--start", start, len(x))
    towards = None
    if toward is not None and aim is None:
        towards = sample_numbers("--toward", toward, len(x), also=AIMS)
    if count is not None and (starts or towards):
        raise ValueError("--count is of pairs drawn at random: leave it out, or the numbers")
    if targets is None:
        starts, towards = _both(y, starts, towards, aim, count, seed)
        begin, indices = x[starts], starts
    else:
        if starts is not None:
            raise ValueError("give either --start or --logits: what has the wanted logits, or them")
        towards = _towards(len(x), towards, aim, targets, count, seed)
        starts, begin, indices = [NO_SAMPLE] * len(towards), None, list(range(len(towards)))
    aims = x[towards] if aim is None else _aim(clf, x, aim, indices, seed)
    return Pairs(begin, aims, starts, towards, aim)


def _both(
    y: Tensor,
    starts: list[int] | None,
    towards: list[int] | None,
    aim: str | None,
    count: int | None,
    seed: int,
) -> tuple[list[int], list[int]]:
    """Numbers of the starts and of what they go towards, whatever of them is given."""
    if starts is None and towards is None:
        starts = drawn(len(y), count or min(COUNT, len(y)), seed)
    if aim is not None:
        assert starts is not None
        return starts, [NO_SAMPLE] * len(starts)
    if starts is None or towards is None:
        given = starts or towards or []
        other = partners(y, given, seed)
        return (given, other) if towards is None else (other, given)
    starts, towards = _alike(starts, towards)
    for number in (a for a, b in zip(starts, towards, strict=True) if a == b):
        raise ValueError(f"sample {number} is both --start and --toward: there is nowhere to go")
    return starts, towards


def _towards(
    total: int,
    towards: list[int] | None,
    aim: str | None,
    targets: int,
    count: int | None,
    seed: int,
) -> list[int]:
    """Numbers of what so many wanted features are looked for near of."""
    if towards is None:
        if targets > 1 and count not in (None, targets):
            raise ValueError(f"--logits has {targets} rows, so --count cannot be {count}")
        usual = 1 if aim in ("mean", "grey") else min(COUNT, total)
        many = targets if targets > 1 else count or usual
        towards = [NO_SAMPLE] * many if aim else drawn(total, many, seed)
    return _alike(towards, [NO_SAMPLE] * targets)[0]


def _alike(*lists: list[int]) -> list[list[int]]:
    """Lists of one length, those of one number repeated."""
    many = max(map(len, lists))
    if any(len(numbers) not in (1, many) for numbers in lists):
        lengths = " and ".join(str(len(numbers)) for numbers in lists)
        raise ValueError(f"lists of {lengths} do not make pairs: give as many of both, or one")
    return [numbers * many if len(numbers) == 1 else numbers for numbers in lists]


def sample_numbers(option: str, text: str, total: int, also: Iterable[str] = ()) -> list[int]:
    """`"3,17"` to numbers of samples. Raises `ValueError` for those that are not there."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        words = f", or one of {', '.join(also)}" if also else ""
        raise ValueError(
            f"{option} takes numbers of samples separated by commas{words}, not {text!r}"
        ) from None
    for number in found:
        if not 0 <= number < total:
            raise ValueError(
                f"there is no sample {number} among the {total} of the data, which are numbered "
                f"from 0; --samples takes more"
            )
    return found


def drawn(total: int, count: int, seed: int) -> list[int]:
    """Numbers of `count` different samples of `total`, at random."""
    if count > total:
        raise ValueError(f"{count} samples cannot be drawn from {total}: take more --samples")
    order = np.random.default_rng([seed, total]).permutation(total)
    return [int(number) for number in order[:count]]


def partners(y: Tensor, numbers: Sequence[int], seed: int) -> list[int]:
    """For each of the samples `numbers` one of another class, as audits pair them."""
    every = pair_up(list(range(len(y))), y.tolist(), seed)
    found = [every[number] for number in numbers]
    if NO_SAMPLE in found:
        raise ValueError(
            "all samples are of one class, so that there are no pairs: take more --samples, or "
            "give --start and --toward"
        )
    return found


def _aim(clf: Classifier, x: Tensor, aim: str, indices: Sequence[int], seed: int) -> Tensor:
    """Images that are no samples, one for each of `indices`."""
    like = x[:1].expand(len(indices), *x.shape[1:])
    if aim == "mean":
        return mean_image(x).expand_as(like)
    if not clf.bounded:
        raise ValueError(f"--toward {aim} needs finite bounds on every input feature; use mean")
    if aim == "noise":
        return uniform_noise(clf, x.shape[1:], indices, seed=seed)
    return clf.clamp(((clf.lower + clf.upper) / 2).expand_as(like))


def wanted_logits(text: str) -> Tensor:
    """`"1,0.5,-2"`, or a .json or .csv file of one or several rows, to logits `(T, K)`, float64."""
    path = Path(text)
    kind = path.suffix.lower()
    try:
        if kind == ".json":
            rows = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(rows, list):
                raise TypeError("it holds no list")
            rows = rows if rows and isinstance(rows[0], list) else [rows]
        else:
            lines = path.read_text(encoding="utf-8").split("\n") if kind == ".csv" else [text]
            rows = [[float(part) for part in line.split(",")] for line in lines if line.strip()]
        found = torch.tensor(rows, dtype=torch.float64)
    except FileNotFoundError:
        raise ValueError(f"--logits: there is no file {path}") from None
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(
            "--logits takes numbers separated by commas, or a .json or .csv file with a row of as "
            f"many numbers for each inversion, not {text!r}: {error}"
        ) from None
    if found.ndim != 2 or not found.numel():
        raise ValueError(f"{text!r} holds no row of logits")
    return found
