"""The shortest move onto an affine subspace in a box, against an independent solver."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from elbowroom.invariance.affine_projection import shortest_move

EXACT = {"tolerance": 1e-13, "stiffness": 1e10}


def _problem(seed: int, count: int, features: int):
    """Rows, a right side that some move in the box has, and the box."""
    generator = torch.Generator().manual_seed(seed)
    J = torch.randn(3, count, features, generator=generator, dtype=torch.float64)
    inside, low, high = torch.rand(3, 3, features, generator=generator, dtype=torch.float64)
    lower, upper = -0.1 - low, 0.1 + high
    v = lower + inside * (upper - lower)
    return J, torch.einsum("nkd,nd->nk", J, v), lower, upper


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 4), features=st.integers(4, 12))
def test_it_meets_the_equations_and_no_move_that_does_is_shorter(seed, count, features):
    J, r, lower, upper = _problem(seed, count, features)
    v, multipliers = shortest_move(J, r, lower, upper, **EXACT)
    assert torch.allclose(torch.einsum("nkd,nd->nk", J, v), r, atol=1e-8)
    assert (v >= lower).all()
    assert (v <= upper).all()
    # Optimality: it is the projection of a combination of the rows (a convex problem).
    free = torch.einsum("nk,nkd->nd", multipliers, J)
    assert torch.allclose(v, free.clamp(lower, upper), atol=1e-12)


def test_against_bounded_least_squares():
    J, r, lower, upper = _problem(0, 3, 10)
    v, _ = shortest_move(J, r, lower, upper, **EXACT)
    for n in range(len(J)):
        weight = 1e5  # the equations as a penalty
        A = np.vstack([np.eye(10), weight * J[n].numpy()])
        b = np.r_[np.zeros(10), weight * r[n].numpy()]
        found = lsq_linear(A, b, (lower[n].numpy(), upper[n].numpy()), tol=1e-14)
        assert np.allclose(v[n].numpy(), found.x, atol=1e-5)


def test_without_a_box_it_is_the_pseudo_inverse():
    J, r, lower, _ = _problem(1, 3, 8)
    free = torch.full_like(lower, torch.inf)
    v, _ = shortest_move(J, r, -free, free, **EXACT)
    assert torch.allclose(v[..., None], torch.linalg.pinv(J) @ r[..., None], atol=1e-9)


def test_equations_that_cannot_be_met_are_met_as_well_as_can_be():
    J = torch.ones(1, 1, 2, dtype=torch.float64)
    box = torch.ones(1, 2, dtype=torch.float64)
    v, _ = shortest_move(J, torch.full((1, 1), 9.0, dtype=torch.float64), -box, box, **EXACT)
    assert torch.allclose(v, box)
    contradiction = torch.cat([J, J], dim=1)
    r = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    v, _ = shortest_move(contradiction, r, -box, box, **EXACT)
    assert torch.allclose(v, torch.full_like(v, 0.25), atol=1e-6)


def test_rows_of_zeros_and_equal_rows_do_no_harm():
    J, r, lower, upper = _problem(2, 2, 6)
    alone, _ = shortest_move(J, r, lower, upper, **EXACT)
    more = torch.cat([J, J[:, :1], torch.zeros_like(J[:, :1])], dim=1)
    sides = torch.cat([r, r[:, :1], torch.zeros_like(r[:, :1])], dim=1)
    v, _ = shortest_move(more, sides, lower, upper, **EXACT)
    assert torch.allclose(v, alone, atol=1e-7)


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_a_guess_changes_nothing_but_the_way(size):
    J, r, lower, upper = _problem(3, 3, 9)
    v, multipliers = shortest_move(J, r, lower, upper, **EXACT)
    again, _ = shortest_move(J, r, lower, upper, guess=size * multipliers, **EXACT)
    assert torch.allclose(v, again, atol=1e-9)
