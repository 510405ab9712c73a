"""Statistics of distances in which failures count as infinite."""

from __future__ import annotations

import math

import numpy as np

from elbowroom.audit.tables import Bools, Floats


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


def spread_out(usable: Bools, distance: Floats, count: int) -> list[int]:
    """`count` usable rows at even ranks of their distance, fewer where there are fewer."""
    rows = np.flatnonzero(usable)
    ordered = rows[np.argsort(distance[rows], kind="stable")]
    picks = np.linspace(0, len(ordered) - 1, min(count, len(ordered))).round().astype(int)
    return [int(row) for row in ordered[picks]] if len(ordered) else []
