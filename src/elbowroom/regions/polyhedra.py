"""Polyhedra `{x : A x <= c}` as explicit matrices, and unions of them; for small dimensions.

Invariance thesis, definition 3.1.2 and section 3.1. All numbers are float64 NumPy arrays.

Zero volume. The thesis discards empty polytopes only. Emptiness is decided here by the radius of
the largest ball inside (Chebyshev's linear program, rows of unit length): above `TOLERANCE` a set
is *solid*, below `-TOLERANCE` empty. In between it is *flat*: it has no volume, but may hold
points, as the preimage of a single point does. Closed linear regions share such facets; so that
each is kept once, the rows of a region that exclude its boundary are marked `strict`, and a flat
set is kept where those rows hold strictly somewhere on it. The sets themselves stay closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection, QhullError

Array = NDArray[np.float64]

TOLERANCE = 1e-8
ZERO = 1e-11  # a shorter row is a constant, a smaller constant is zero: what rounding leaves
# Far stricter than the solver's default of 1e-7, to tell flat sets from empty ones.
PRECISION = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
INFEASIBLE = 2  # status of scipy.optimize.linprog
LARGEST_RADIUS = 1.0  # of the ball in a set that holds balls of any size


@dataclass(frozen=True)
class Inside:
    """A point `centre` `(d,)` of a set, and the ball around it; radius 0 in flat sets."""

    centre: Array
    radius: float


@dataclass(frozen=True, eq=False)
class Polyhedron:
    """`{x : A x <= c}` for `A` `(m, d)` and `c` `(m,)`; no rows mean the whole space.

    strict: `(m,)` bool, see the module; none by default.

    Raises `ValueError` for shapes that do not fit and for values that are not finite.
    """

    A: Array
    c: Array
    strict: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        A, c = np.array(self.A, dtype=np.float64), np.array(self.c, dtype=np.float64)
        strict = np.array(self.strict, dtype=bool)
        strict = strict if strict.size or not len(c.shape) else np.zeros(c.shape, bool)
        if A.ndim != 2 or c.shape != A.shape[:1] or strict.shape != c.shape or A.shape[1] == 0:
            raise ValueError(
                f"a polyhedron A x <= c needs A of shape (m, d) and c of shape (m,), got "
                f"{A.shape} and {c.shape}"
            )
        for name, values in (("A", A), ("c", c)):
            if not np.isfinite(values).all():
                row = int(np.argwhere(~np.isfinite(values))[0][0])
                raise ValueError(
                    f"{name} has a value that is not finite in row {row}; leave out rows without "
                    "a limit"
                )
        for name, found in (("A", A), ("c", c), ("strict", strict)):
            object.__setattr__(self, name, found)

    @classmethod
    def whole(cls, dimension: int) -> Polyhedron:
        """All of `R^d`."""
        return cls(np.zeros((0, dimension)), np.zeros(0))

    @classmethod
    def box(cls, lower: ArrayLike, upper: ArrayLike) -> Polyhedron:
        """`lower <= x <= upper`, both `(d,)`."""
        low, high = np.array(lower, dtype=np.float64), np.array(upper, dtype=np.float64)
        if low.ndim != 1 or low.shape != high.shape or not (low <= high).all():
            raise ValueError(f"a box needs lower <= upper of shape (d,), got {low} and {high}")
        return cls(np.vstack([np.eye(len(low)), -np.eye(len(low))]), np.concatenate([high, -low]))

    @property
    def dimension(self) -> int:
        return int(self.A.shape[1])

    def __and__(self, other: Polyhedron) -> Polyhedron:
        """The intersection: first the rows of this one."""
        return Polyhedron(
            np.vstack([self.A, other.A]),
            np.concatenate([self.c, other.c]),
            np.concatenate([self.strict, other.strict]),
        )

    def preimage(self, V: Array, v: Array) -> Polyhedron:
        """`{x : A V x <= c - A v}`: the preimage under `x -> V x + v` (eq. 3.8)."""
        return Polyhedron(self.A @ V, self.c - self.A @ v, self.strict)

    def contains(self, x: ArrayLike, tolerance: float = 1e-9) -> NDArray[np.bool_]:
        """Which of the points `x` `(N, d)` lie in the closed set, or nearer than `tolerance`
        to each of its hyperplanes."""
        lengths = np.linalg.norm(self.A, axis=1)
        lengths[lengths <= ZERO] = 1.0
        excess = _points(x, self.dimension) @ self.A.T - self.c
        inside: NDArray[np.bool_] = (excess <= tolerance * lengths).all(axis=1)
        return inside

    def depth(self, x: Array) -> float:
        """How far the point `x` `(d,)` is from the nearest hyperplane; negative outside."""
        A, c, _, possible = self._unit_rows
        return float((c - A @ x).min(initial=np.inf)) if possible else -np.inf

    @cached_property
    def inside(self) -> Inside | None:
        """A point of the set, None if it is empty."""
        A, c, strict, possible = self._unit_rows
        if not possible:
            return None
        ball = _largest_ball(A, c, np.ones(len(c)))
        if ball is None or ball.radius < -TOLERANCE:
            return None
        if ball.radius > TOLERANCE:
            return ball
        if strict.any():
            ball = _largest_ball(A, c, strict.astype(float))
            if ball is None or ball.radius <= TOLERANCE:
                return None
        return Inside(ball.centre, 0.0)

    @cached_property
    def _unit_rows(self) -> tuple[Array, Array, NDArray[np.bool_], bool]:
        """Rows of unit length without constant ones, and whether the constant ones hold."""
        lengths = np.linalg.norm(self.A, axis=1)
        keep = lengths > ZERO
        least = np.where(self.strict, ZERO, -ZERO)
        possible = bool((self.c >= least)[~keep].all())
        lengths, strict = lengths[keep], self.strict[keep]
        return self.A[keep] / lengths[:, None], self.c[keep] / lengths, strict, possible

    @cached_property
    def vertices(self) -> Array:
        """Corners `(n, d)` of a solid set; in the plane in order, counter-clockwise.

        Raises `ValueError` for unbounded, flat and empty sets.
        """
        if self.inside is None or self.inside.radius == 0:
            raise ValueError("a set without volume has no corners to draw; leave it out")
        A, c, _, _ = self._unit_rows
        if self.dimension == 1:
            ends = [(A[:, 0] < 0, np.max), (A[:, 0] > 0, np.min)]
            if not all(side.any() for side, _ in ends):
                raise _unbounded()
            return np.array([[tightest((c * A[:, 0])[side])] for side, tightest in ends])
        try:
            with np.errstate(divide="ignore"):  # corners at infinity
                found = HalfspaceIntersection(np.column_stack([A, -c]), self.inside.centre)
        except (QhullError, ValueError) as error:  # too few rows, or rows that span too little
            raise _unbounded() from error
        # A set is bounded where the origin lies inside of the hull of its dual.
        if not (found.dual_equations[:, -1] < 0).all():
            raise _unbounded()
        corners = found.intersections
        corners = corners[ConvexHull(corners).vertices]
        return np.asarray(corners, dtype=np.float64)

    @property
    def volume(self) -> float:
        """Length, area, volume, ...; 0 for flat and empty sets. `ValueError` for unbounded ones."""
        if self.inside is None or self.inside.radius == 0:
            return 0.0
        if self.dimension == 1:
            return float(np.ptp(self.vertices))
        return float(ConvexHull(self.vertices).volume)


@dataclass(frozen=True, eq=False)
class Piece:
    """A polyhedron of a union, not empty, and the linear region it lies in.

    pattern: the piece of every unit, in the order of the graph, as in `graph.Pattern`.
    """

    polyhedron: Polyhedron
    pattern: tuple[int, ...] = ()

    @property
    def radius(self) -> float:
        """Of the largest ball inside, at most 1; 0 for flat pieces."""
        assert self.polyhedron.inside is not None
        return self.polyhedron.inside.radius


@dataclass(frozen=True, eq=False)
class PolyhedronUnion:
    """Polyhedra whose interiors do not meet, none of them empty."""

    dimension: int
    pieces: Sequence[Piece]

    @classmethod
    def of(cls, polyhedron: Polyhedron) -> PolyhedronUnion:
        """The polyhedron alone, or nothing if it is empty."""
        pieces = [Piece(polyhedron)] if polyhedron.inside is not None else []
        return cls(polyhedron.dimension, pieces)

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def solid(self) -> list[Piece]:
        """The pieces with volume."""
        return [piece for piece in self.pieces if piece.radius > 0]

    @property
    def flat(self) -> list[Piece]:
        """The pieces without volume: they count for `contains` alone."""
        return [piece for piece in self.pieces if piece.radius == 0]

    def contains(self, x: ArrayLike, tolerance: float = 1e-9) -> NDArray[np.bool_]:
        """Which of the points `x` `(N, d)` (or `(N, *shape)`) lie in the union."""
        points = _points(x, self.dimension)
        found = np.zeros(len(points), dtype=bool)
        for piece in self.pieces:
            found |= piece.polyhedron.contains(points, tolerance)
        return found

    def clip(self, within: Polyhedron) -> PolyhedronUnion:
        """The part of the union in the polyhedron `within`, such as a box."""
        cut = [Piece(piece.polyhedron & within, piece.pattern) for piece in self.pieces]
        return PolyhedronUnion(self.dimension, [p for p in cut if p.polyhedron.inside is not None])

    def volume(self) -> float:
        """The sum over the pieces; raises `ValueError` where one is unbounded (see `clip`)."""
        return sum((piece.polyhedron.volume for piece in self.pieces), 0.0)

    def vertices(self) -> list[Array]:
        """Corners `(n, d)` of every solid piece; raises `ValueError` where one is unbounded."""
        return [piece.polyhedron.vertices for piece in self.solid]


def _largest_ball(A: Array, c: Array, grow: Array) -> Inside | None:
    """Maximise `r` in `A x + r grow <= c`, `r <= 1`; None if infeasible."""
    dimension = A.shape[1]
    if len(c) == 0:
        return Inside(np.zeros(dimension), LARGEST_RADIUS)
    cost = np.zeros(dimension + 1)
    cost[-1] = -1.0
    bounds: list[Any] = [(None, None)] * dimension + [(None, LARGEST_RADIUS)]
    found = linprog(
        cost, A_ub=np.column_stack([A, grow]), b_ub=c, bounds=bounds, method="highs",
        options=PRECISION,
    )  # fmt: skip
    if found.status == INFEASIBLE:
        return None
    if found.x is None:
        raise FloatingPointError(
            f"a linear program of {len(c)} rows was not solved ({found.message}); rescale the "
            "network or its inputs"
        )
    return Inside(found.x[:-1], float(found.x[-1]))


def _points(x: ArrayLike, dimension: int) -> Array:
    points = np.asarray(x, dtype=np.float64)
    flat = points.reshape(len(points), -1) if points.ndim > 1 else points
    if flat.ndim != 2 or flat.shape[1] != dimension:
        raise ValueError(f"points must have shape (N, {dimension}), got {points.shape}")
    return flat


def _unbounded() -> ValueError:
    return ValueError("the set is unbounded: clip it to a box first")
