"""Polyhedra as explicit matrices: emptiness, corners, volumes, against known ones and sampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from elbowroom.regions.polyhedra import Piece, Polyhedron, PolyhedronUnion


def test_polyhedra_have_corners_volumes_and_points():
    box = Polyhedron.box([0, 0, 0], [1, 2, 3])
    assert box.volume == pytest.approx(6.0)
    assert len(box.vertices) == 8
    triangle = Polyhedron(np.array([[-1, 0], [0, -1], [3, 4]]), np.array([0, 0, 12]))
    assert triangle.volume == pytest.approx(6.0)
    assert triangle.inside.radius == pytest.approx(1.0)  # (3 + 4 - 5) / 2
    np.testing.assert_allclose(triangle.inside.centre, [1, 1])
    assert triangle.depth(np.array([1.0, 0.5])) == pytest.approx(0.5)
    corners = triangle.vertices
    turns = np.cross(*(np.pad(np.roll(corners, -k, axis=0) - corners, ((0, 0), (0, 1)))
                       for k in (1, 2)))[:, 2]  # fmt: skip
    assert (turns > 0).all()
    assert Polyhedron.box([2], [5]).volume == 3.0
    thin = Polyhedron.box([0, 0], [1, 1]) & Polyhedron(
        np.array([[1, 1], [-1, -1]]), np.array([1 + 1e-6, -1])
    )
    assert thin.volume == pytest.approx(1e-6, rel=1e-4)


@pytest.mark.parametrize(
    ("A", "c"),
    [
        ([[1, 1]], [0]),
        ([[1, 1], [-1, -1]], [0, 1]),
        ([[1, 1], [-1, -1], [1, 0]], [0, 1, 0]),
        ([[1, 1], [-1, 0], [0, 1]], [0, 1, 0]),
    ],
)
def test_unbounded_sets_ask_for_a_box(A, c):
    found = PolyhedronUnion.of(Polyhedron(A, c))
    with pytest.raises(ValueError, match="clip it to a box"):
        found.volume()
    box = Polyhedron.box([-1, -1], [1, 1])
    points = np.random.default_rng(0).uniform(-1, 1, (40_000, 2))
    assert found.clip(box).volume() / 4 == pytest.approx(found.contains(points).mean(), abs=0.01)


def test_unions_keep_empty_sets_out():
    nothing = Polyhedron(np.array([[1.0], [-1.0]]), np.array([0.0, -1.0]))
    assert len(PolyhedronUnion.of(nothing)) == 0
    both = PolyhedronUnion(1, [Piece(Polyhedron.box([k], [k + 1.0])) for k in (0, 3)])
    assert both.contains([[0.5], [2.0], [4.0], [1.0 + 1e-8]]).tolist() == [True, False, True, False]
    assert both.volume() == 2.0
    assert len(both.clip(Polyhedron.box([-1], [2]))) == 1
    # A point of a box's side is flat, not empty.
    assert len(both.clip(Polyhedron.box([1], [2])).flat) == 1


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 8))
def test_volumes_by_sampling(seed, rows):
    rng = np.random.default_rng(seed)
    cut = Polyhedron(rng.standard_normal((rows, 2)), rng.uniform(-0.2, 1.0, rows))
    union = PolyhedronUnion.of(cut).clip(Polyhedron.box([-1, -1], [1, 1]))
    points = rng.uniform(-1, 1, (20_000, 2))
    inside = (points @ cut.A.T <= cut.c).all(axis=1)
    assert union.volume() / 4 == pytest.approx(inside.mean(), abs=5 * 0.5 / 20_000**0.5)
    assert bool(inside.any()) <= bool(len(union))


@pytest.mark.parametrize(
    ("A", "c", "message"),
    [
        ([[1, 0]], [1, 2], r"got \(1, 2\) and \(2,\)"),
        ([1, 0], [1], "needs A of shape"),
        ([[1, float("nan")]], [1], "A has a value that is not finite in row 0"),
        ([[1, 0], [0, 1]], [1, float("inf")], "c has a value that is not finite in row 1"),
    ],
)
def test_polyhedra_refuse_bad_rows(A, c, message):
    with pytest.raises(ValueError, match=message):
        Polyhedron(A, c)
