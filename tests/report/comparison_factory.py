"""Comparisons of classifiers as measuring would make them, from drawn numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from elbowroom import L2
from elbowroom.audit.comparison import Comparison, Measured, compare_measured
from elbowroom.results import Cost


def make_measured(
    samples: int, scale: float, seed: int, *, wrong: int = 2, failed: int = 0, box: float = 9.0
) -> Measured:
    """The last `wrong` samples are misclassified, on the first `failed` ones the attack failed."""
    rng = np.random.default_rng(seed)
    right = np.arange(samples) < samples - wrong
    distance = np.where(right, scale * rng.uniform(0.5, 1.5, samples), 0.0)
    return Measured(
        right=right,
        radius=0.2 * distance * rng.uniform(0.5, 1.0, samples),
        distance=np.where(np.arange(samples) < failed, np.inf, distance),
        farthest=np.full(samples, box),
        uncertified=None,
        cost=Cost(forward=samples, seconds=1.0),
    )


def make_comparison(names: Sequence[str] = ("plain", "robust", "rival"), samples: int = 40,
                    **options: int | float) -> Comparison:  # fmt: skip
    """Of classifiers each of which is about as far from its boundary as the number of its name."""
    scales = [1.0, 6.0, 6.05, 1.2, 3.0, 3.1]
    return comparison_of(
        {
            name: make_measured(samples, scales[k % len(scales)], k, **options)
            for k, name in enumerate(names)
        }
    )


def comparison_of(measured: dict[str, Measured], **options) -> Comparison:
    usual = {"norm": L2, "attack": "an attack", "certificate": "a certificate",
             "resamples": 1000, "level": 0.95, "seed": 0}  # fmt: skip
    return compare_measured(measured, **{**usual, **options})
