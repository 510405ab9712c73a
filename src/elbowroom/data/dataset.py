"""Labelled samples with everything needed to measure a classifier on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Bounds = tuple[float, float] | tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    name:    as `load` knows it, or a display name.
    split:   "train", "test", ...
    x:       samples `(N, *shape)` float32, inside `bounds`.
    y:       labels `(N,)` int64, each in `0 .. len(classes) - 1`.
    classes: what a person calls the labels.
    bounds:  smallest and largest input value: two scalars, or two tensors of the shape of a
             sample with one value per feature.
    source:  where the data come from and under which licence, in one line.

    Raises `ValueError` naming what does not fit.
    """

    name: str
    split: str
    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    bounds: Bounds
    source: str

    def __post_init__(self) -> None:
        here = f"{self.name} ({self.split})"
        if self.x.dtype != torch.float32 or self.y.dtype != torch.int64:
            raise ValueError(
                f"{here}: x must be float32 and y int64, not {self.x.dtype} and {self.y.dtype}"
            )
        if self.x.ndim < 2 or self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"{here}: x must have shape (N, *shape) and y (N,), "
                f"not {tuple(self.x.shape)} and {tuple(self.y.shape)}"
            )
        self._check_bounds(here)
        if len(self) == 0:
            return
        lowest, highest = int(self.y.min()), int(self.y.max())
        if lowest < 0 or highest >= len(self.classes):
            raise ValueError(
                f"{here}: labels run from {lowest} to {highest}, "
                f"but there are {len(self.classes)} classes"
            )

    def _check_bounds(self, here: str) -> None:
        lower, upper = (torch.as_tensor(bound, dtype=torch.float32) for bound in self.bounds)
        for bound in (lower, upper):
            if bound.ndim and bound.shape != self.x.shape[1:]:
                raise ValueError(
                    f"{here}: bounds must be scalars or have the shape of a sample "
                    f"{self.shape}, not {tuple(bound.shape)}"
                )
        if not bool((lower <= upper).all()):
            raise ValueError(f"{here}: the lower bound must not exceed the upper one")
        if not bool(((self.x >= lower) & (self.x <= upper)).all()):
            raise ValueError(
                f"{here}: x must be finite and inside the bounds; it runs from "
                f"{self.x.min().item():g} to {self.x.max().item():g}, "
                f"the bounds from {lower.min().item():g} to {upper.max().item():g}"
            )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.x.shape[1:])

    def take(self, which: int | Sequence[int] | Tensor) -> Dataset:
        """The first `which` samples, or those with the indices `which`, in that order.

        Raises `ValueError` when there are not so many samples.
        """
        if isinstance(which, int):
            if not 0 <= which <= len(self):
                raise ValueError(
                    f"{self.name} ({self.split}) has {len(self)} samples, {which} were asked for"
                )
            return replace(self, x=self.x[:which], y=self.y[:which])
        indices = torch.as_tensor(which, dtype=torch.int64)
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < len(self):
            raise ValueError(
                f"{self.name} ({self.split}) has {len(self)} samples, indices from "
                f"{int(indices.min())} to {int(indices.max())} were asked for"
            )
        return replace(self, x=self.x[indices], y=self.y[indices])


def unknown_split(name: str, split: str, known: Sequence[str]) -> ValueError:
    """The error for a split that does not exist; for loaders to raise."""
    return ValueError(f"{name} has no split {split!r}; it has {', '.join(known)}")
