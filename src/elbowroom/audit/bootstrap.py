"""Intervals for means over samples, which hold for few and for skewed samples too.

A classifier's distances over its samples are skewed, with many zeros where it is wrong. The plain
percentile bootstrap covers the mean of such samples too rarely (88 % instead of 95 % of the time
with 20 samples of an exponential distribution). So means are *studentised*: every resample is
measured in its own standard error (Efron and Tibshirani 1993, section 12.5), and the interval is
symmetric (Hall 1988). The largest such ratio over several means makes intervals that hold for all
of them at once, and tests that are corrected for their number (max-T: Westfall and Young 1993;
Romano and Wolf 2005), whatever the correlation of the means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

BLOCK = 1000  # resamples drawn together: bounds the memory
POWER = 0.8  # of the number of samples that would do


def fewest(level: float) -> int:
    """The fewest samples that can order two things at `level`.

    Where neither is larger, N independent differences all have the same sign with a chance of
    `2^(1 - N)`: with fewer samples, even agreement of all of them is no evidence at that level.
    """
    return math.ceil(1 - math.log2(1 - level))


@dataclass(frozen=True)
class Means:
    """The means of P variables over the same N samples, and how they vary over resamples.

    mean, error: `(P,)`: of the samples, and its standard error; 0 where all samples agree.
    ratio:       `(B, P)`: of each resample, how far its mean is from `mean`, in standard errors of
                 that resample; inf where it has none.
    """

    mean: Floats
    error: Floats
    ratio: Floats
    samples: int

    @classmethod
    def of(cls, values: Floats, resamples: int, seed: int) -> Means:
        """values: `(P, N)`, finite. The same resamples for all variables: they are paired."""
        count = values.shape[1]
        mean = values.mean(axis=1)
        same = values.max(axis=1) == values.min(axis=1)
        centred = np.where(same[:, None], 0.0, values - mean[:, None])
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
        ratios = []
        for start in range(0, resamples, BLOCK):
            size = min(BLOCK, resamples - start)
            weight = _weights(rng, size, count)
            moved = weight @ centred.T
            spread = np.maximum(weight @ np.square(centred).T - np.square(moved), 0.0)
            error = _standard_error(spread, count)
            never = np.where(moved == 0, 0.0, np.inf)
            ratios.append(np.divide(np.abs(moved), error, out=never, where=error > 0))
        error = _standard_error(np.square(centred).mean(axis=1), count)
        return cls(mean, error, np.concatenate(ratios), count)

    def widths(self, level: float) -> Floats:
        """`(P,)`: half of the width of each mean's own interval; inf where it cannot be told."""
        return self._width(np.quantile(self.ratio, level, axis=0, method="higher"), level)

    def simultaneous_widths(self, level: float) -> Floats:
        """`(P,)`: the same of intervals that all hold together with probability `level`."""
        return self._width(self._largest_ratio(level), level)

    def enough(self, level: float) -> Floats:
        """`(P,)`: about how many samples would tell each mean from zero, at `level` together.

        With a chance of `POWER`, if mean and spread are those of the samples; inf for means of
        zero, and where nothing can be told.
        """
        wanted = self._largest_ratio(level) + float(stats.norm.ppf(POWER))
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = self.samples * np.square(wanted * self.error / self.mean)
        return np.where(self.mean == 0, np.inf, needed)

    def _largest_ratio(self, level: float) -> float:
        return float(np.quantile(self.ratio.max(axis=1), level, method="higher"))

    def _width(self, ratio: float | Floats, level: float) -> Floats:
        if self.samples < fewest(level):
            return np.full(len(self.mean), np.inf)
        wide = np.broadcast_to(np.asarray(ratio, np.float64), self.error.shape)
        return np.multiply(wide, self.error, out=np.zeros_like(self.error), where=self.error > 0)


def _weights(rng: np.random.Generator, size: int, count: int) -> Floats:
    """`(size, count)`: the share of each sample in resamples of as many, drawn with replacement."""
    drawn = rng.integers(count, size=(size, count)) + count * np.arange(size)[:, None]
    return np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count) / count


def _standard_error(variance: Floats, count: int) -> Floats:
    """Of the mean of `count` values whose mean squared deviation is `variance`."""
    error: Floats = np.sqrt(variance / max(count - 1, 1))
    return error
