"""Which samples belong to which split, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SEED = 0


def stratified(
    labels: np.ndarray, fractions: dict[str, float], groups: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Shuffled sample indices of each split; the same in every run.

    labels:    `(N,)`; every class is divided by `fractions` (which add up to 1), up to one group.
    fractions: share of each split, by its name.
    groups:    `(N,)`; samples of one group (copies, say) stay together. None: each on its own.
    """
    rng = np.random.default_rng(SEED)
    groups = np.arange(len(labels)) if groups is None else groups
    _, first, group_of, sizes = np.unique(
        groups, return_index=True, return_inverse=True, return_counts=True
    )
    split_of_group = np.empty(len(first), dtype=int)
    cuts = np.cumsum(list(fractions.values()))[:-1]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels[first] == label))
        # A group goes where its middle lies, so that large groups do not pile up on one side.
        middle = np.cumsum(sizes[members]) - sizes[members] / 2
        split_of_group[members] = np.searchsorted(cuts * sizes[members].sum(), middle)
    split_of = split_of_group[group_of]
    return {
        name: rng.permutation(np.flatnonzero(split_of == number))
        for number, name in enumerate(fractions)
    }


def interleaved(labels: Sequence[int] | np.ndarray) -> np.ndarray:
    """Indices that take one sample of each class in turn, each class in its given order.

    The first samples of a set that lies sorted by class are then balanced.
    """
    labels = np.asarray(labels)
    rank = np.empty(len(labels), dtype=int)
    for label in np.unique(labels):
        here = labels == label
        rank[here] = np.arange(here.sum())
    return np.lexsort((labels, rank))
