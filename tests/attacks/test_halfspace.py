"""Nearest points of a plane in a box, against SciPy's solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog, minimize

from elbowroom import L1, L2, Linf
from elbowroom.attacks.halfspace import onto_plane

LOWER, UPPER = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)


def brute_force(p, w, gap, norm):
    """The least distance, by a general solver; None where the plane misses the box."""
    d = len(p)
    if norm == L2:
        solved = minimize(
            lambda z: ((z - p) ** 2).sum(), p, jac=lambda z: 2 * (z - p), bounds=[(0, 1)] * d,
            constraints={"type": "eq", "fun": lambda z: gap + w @ (z - p), "jac": lambda z: w},
            method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        reached = solved.success and abs(gap + w @ (solved.x - p)) < 1e-8
        return np.sqrt(solved.fun) if reached else None
    extra = d if norm == L1 else 1
    slack = np.eye(d) if norm == L1 else np.ones((d, 1))
    solved = linprog(
        np.r_[np.zeros(d), np.ones(extra)],
        A_ub=np.block([[np.eye(d), -slack], [-np.eye(d), -slack]]), b_ub=np.r_[p, -p],
        A_eq=np.r_[w, np.zeros(extra)][None], b_eq=[w @ p - gap],
        bounds=[(0, 1)] * d + [(0, None)] * extra,
    )  # fmt: skip
    return solved.fun if solved.status == 0 else None


@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=str)
def test_the_nearest_point_agrees_with_a_general_solver(norm):
    generator = torch.Generator().manual_seed(0)
    point = torch.rand(30, 6, dtype=torch.float64, generator=generator)
    normal = torch.randn(30, 6, dtype=torch.float64, generator=generator)
    gap = 1.5 * torch.randn(30, dtype=torch.float64, generator=generator)
    normal[1, :4] = 0
    found = onto_plane(point, gap, normal, LOWER, UPPER, norm)
    assert ((found >= 0) & (found <= 1)).all()
    residual = gap + ((found - point) * normal).sum(dim=1)
    missed = 0
    for i in range(30):
        expected = brute_force(point[i].numpy(), normal[i].numpy(), gap[i].item(), norm)
        if expected is None:  # the corner nearest to the plane
            best = torch.where(gap[i] * normal[i] > 0, 0.0, 1.0)
            moving = normal[i] != 0
            assert torch.equal(found[i][moving], best.double()[moving])
            missed += 1
            continue
        assert abs(residual[i]) < 1e-12
        assert norm.length((found - point)[i : i + 1]).item() == pytest.approx(expected, abs=1e-7)
    assert 0 < missed < 20


@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=str)
def test_without_a_box_it_is_the_dual_norm(norm):
    point = torch.randn(5, 2, 3)
    normal = 1e-25 * torch.randn(5, 2, 3)
    gap = 1e-25 * torch.randn(5)
    infinite = torch.tensor(torch.inf)
    found = onto_plane(point, gap, normal, -infinite, infinite, norm)
    expected = gap.abs().double() / norm.dual.length(normal)
    assert torch.allclose(norm.length(found - point), expected, rtol=1e-4)


def test_a_plane_without_a_normal_moves_nothing():
    point = torch.rand(2, 3)
    for norm in (L1, L2, Linf):
        found = onto_plane(point, torch.ones(2), torch.zeros(2, 3), LOWER, UPPER, norm)
        assert torch.equal(found, point)
