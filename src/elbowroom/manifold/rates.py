"""Success rates as the papers count them: of the samples that are classified correctly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import binomtest
from torch import Tensor


@dataclass(frozen=True)
class Rate:
    """`hits` of `count`, with a confidence interval for the rate; NaN of nothing."""

    hits: int
    count: int
    value: float
    lower: float
    upper: float
    confidence: float


def rate(hit: Tensor, among: Tensor | None = None, *, confidence: float = 0.95) -> Rate:
    """The share of `hit` `(N,)` bool, of those rows that `among` `(N,)` has; by Wilson's score.

    Manifold paper, 3.1: attacks count on correctly classified samples alone.
    """
    counted = hit if among is None else hit[among]
    hits, count = int(counted.sum()), len(counted)
    if not count:
        return Rate(0, 0, math.nan, math.nan, math.nan, confidence)
    interval = binomtest(hits, count).proportion_ci(confidence, method="wilson")
    low, high = float(interval.low), float(interval.high)
    return Rate(hits, count, hits / count, low, high, confidence)
