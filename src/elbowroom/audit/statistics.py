"""Statistics of distances in which failures count as infinite, and of radii."""

from __future__ import annotations

import math

import numpy as np

from elbowroom.audit.tables import Bools, Floats

CURVE_POINTS = 101
CERTIFIED_POINTS = 21


def median(values: Floats) -> float | None:
    """The median, counting failures as infinite; None if it is not a number (JSON has no inf)."""
    if len(values) == 0:
        return None
    # The upper of the two middle values: a median of finite and infinite ones stays defined.
    value = (
        float(np.sort(values)[len(values) // 2])
        if np.isinf(values).any()
        else float(np.median(values))
    )
    return value if math.isfinite(value) else None


def mean(values: Floats | Bools) -> float | None:
    return float(values.mean()) if len(values) else None


def eps_grid(right: Bools, distance: Floats, radius: Floats) -> Floats:
    """`(E,)`, from 0 to just beyond the largest distance found.

    An even grid, and a finer one over the certified radii, which can be far smaller.
    """
    finite = distance[right & np.isfinite(distance)]
    end = float(finite.max()) * 1.05 if len(finite) and finite.max() > 0 else 1.0
    certified = radius[np.isfinite(radius)]  # a constant model is certified everywhere
    fine = np.linspace(0, float(certified.max(initial=0.0)), CERTIFIED_POINTS)
    return np.unique(np.concatenate([np.linspace(0, end, CURVE_POINTS), fine]))


def robust_accuracy(
    right: Bools, distance: Floats, radius: Floats, eps: Floats
) -> tuple[Floats, Floats]:
    """`(E,)` each: shares of the samples `(N,)` certified at `eps`, and left by the attacks."""
    certified = right & (radius >= eps[:, None])
    attacked = right & (distance > eps[:, None])
    return certified.mean(axis=1), attacked.mean(axis=1)


def spread_out(usable: Bools, distance: Floats, count: int) -> list[int]:
    """`count` usable rows at even ranks of their distance, fewer where there are fewer."""
    rows = np.flatnonzero(usable)
    ordered = rows[np.argsort(distance[rows], kind="stable")]
    picks = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [int(row) for row in ordered[picks]] if len(ordered) else []
