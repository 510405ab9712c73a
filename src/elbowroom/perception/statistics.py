"""Distances that can be compared: across data sets, and with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom
from torch import Tensor

from elbowroom.norms import L2, Norm


def rescale_by_dimension(features_from: int, features_to: int, norm: Norm = L2) -> float:
    """What to multiply distances between inputs of `features_from` values by, to compare them
    with distances between inputs of `features_to` values.

    `(features_to / features_from)^(1/p)`, which leaves the average change of a value as it is:
    for L2 the root of the mean squared change; 1 for Linf. From CIFAR-10 to images of 3x224x224 it
    is 7 (Invariance thesis, 4.3.2).
    """
    if features_from < 1 or features_to < 1:
        raise ValueError(f"inputs have at least one value, not {features_from} or {features_to}")
    return float((features_to / features_from) ** (1 / norm.p))


def rescale_by_typical(distances_from: Tensor, distances_to: Tensor) -> float:
    """The same factor from typical distances: the ratio of the means of two samples.

    The Invariance thesis (4.3.2) takes the distances between images of different classes of the
    two data sets, `class_distances(...).inter`: 136.7 / 19.0 = 7.2 for Restricted ImageNet and
    CIFAR-10.
    """
    means = [float(values.double().mean()) for values in (distances_from, distances_to)]
    if not all(0 < mean < math.inf for mean in means):
        raise ValueError(f"mean distances must be positive and finite, not {means}")
    return means[1] / means[0]


@dataclass(frozen=True)
class MedianInterval:
    """A median, and an interval that holds the population's median.

    lower, upper: order statistics of the sample; -inf and inf where it is too small for a bound.
    confidence:   the least probability with which such an interval holds the median, whatever the
                  distribution; at least what was asked for.
    """

    median: float
    lower: float
    upper: float
    confidence: float


def median_interval(values: Tensor | Sequence[float], confidence: float = 0.8) -> MedianInterval:
    """The median of `values` `(N,)` with a confidence interval free of assumptions.

    The interval from the k-th smallest to the k-th largest value misses the median only where
    fewer than k values lie on one side of it, so with probability 2 P(B < k) at most, B binomial
    with N trials of 1/2; k is the largest that fits. Infinite values count as larger than all
    others: failed attacks may stay in. The median of an even number is the mean of the middle
    two. 80 % is what the Invariance thesis draws (4.3.2, Fig. 4.23).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    plain = values.detach().cpu().double().numpy() if isinstance(values, Tensor) else values
    ordered = np.sort(np.asarray(plain, dtype=np.float64))
    if ordered.ndim != 1 or len(ordered) == 0:
        raise ValueError(f"values must be a list of at least one number, got {ordered.shape}")
    if np.isnan(ordered).any() or ordered[0] == -math.inf:
        raise ValueError("values must not be NaN or -inf; say inf for a failure")
    count = len(ordered)
    middle = float((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)
    # Coverage of the interval that starts at the k-th smallest value; k = 0 is the whole line.
    coverage = 1 - 2 * binom.cdf(np.arange(-1, count // 2), count, 0.5)
    k = int(np.flatnonzero(coverage >= confidence)[-1])
    if k == 0:
        return MedianInterval(middle, -math.inf, math.inf, 1.0)
    return MedianInterval(
        middle, float(ordered[k - 1]), float(ordered[count - k]), float(coverage[k])
    )
