"""The dense solver and its inner problem against SciPy and DAQP."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from elbowroom.regions.newton import FEW, non_negative_minimum, project_dense
from oracles.polytopes import by_daqp, by_slsqp, daqp

SOLVERS = [
    pytest.param(by_daqp, marks=pytest.mark.skipif(daqp is None, reason="needs daqp")),
    by_slsqp,
]


def _farthest(x, lower, upper):
    corner = torch.maximum((x - lower).abs(), (upper - x).abs())
    return corner.square().sum(dim=1) / 2 * (1 + 1e-9) + 1e-300


def _solve(x, A, b, lower, upper, **options):
    """One problem, as arrays."""
    x, A, b, lower, upper = (torch.from_numpy(v) for v in (x, A, b, lower, upper))
    ceiling = options.pop("ceiling", _farthest(x[None], lower, upper))
    mu = torch.zeros(1, len(b), dtype=torch.float64)
    return project_dense(x[None], A[None], b[None], lower, upper, mu, ceiling=ceiling, **options)


def _problem(seed, features, rows, oddity="none"):
    """x, A, b and a box; `oddity` names what makes the problem degenerate."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 1, features)
    A = rng.standard_normal((rows, features)) * 10 ** rng.uniform(-2, 2, (rows, 1))
    inside = rng.uniform(0, 1, features)  # feasible, unless said otherwise
    b = A @ inside + np.abs(A).sum(axis=1) * rng.uniform(0, 0.1, rows) * rng.integers(0, 2, rows)
    lower, upper = np.zeros(features), np.ones(features)
    if oddity == "duplicates":
        A, b = np.vstack([A, A, 3 * A[:1]]), np.concatenate([b, b, 3 * b[:1]])
    elif oddity == "zeros":
        A, b = np.vstack([A, np.zeros((2, features))]), np.concatenate([b, [0.0, 1.0]])
    elif oddity == "equalities":
        A, b = np.vstack([A, -A[:1]]), np.concatenate([b, -(A[:1] @ inside)])
        b[0] = A[0] @ inside
    elif oddity == "flat box":
        lower[0] = upper[0] = x[0] = inside[0]
        b = A @ inside + np.abs(A).sum(axis=1) * 0.01
    elif oddity == "faces":  # x and the feasible point on faces of the box
        x, inside = np.round(x), np.where(rng.random(features) < 0.5, np.round(inside), inside)
        b = A @ inside
    elif oddity == "infeasible":
        A, b = (
            np.vstack([A, -A[:1]]),
            np.concatenate([b, -b[:1] - 0.05 * np.abs(A[:1]).sum(axis=1)]),
        )
    elif oddity == "beyond the box":
        A, b = np.vstack([A, -np.ones(features)]), np.append(b, -1.01 * features)
    elif oddity == "impossible":
        A, b = np.vstack([A, np.zeros(features)]), np.append(b, -1e-3)
    return x, A, b, lower, upper


FEASIBLE = ["none", "duplicates", "zeros", "equalities", "flat box", "faces"]
INFEASIBLE = ["infeasible", "beyond the box", "impossible"]
SIZES = {"features": st.integers(1, 12), "rows": st.integers(1, 15)}


@pytest.mark.parametrize("solver", SOLVERS)
@given(seed=st.integers(0, 10**6), oddity=st.sampled_from(FEASIBLE), **SIZES)
def test_projections_equal_those_of_another_solver(solver, seed, oddity, features, rows):
    x, A, b, lower, upper = _problem(seed, features, rows, oddity)
    found = _solve(x, A, b, lower, upper)
    z, mu = found.z[0].numpy(), found.mu[0].numpy()
    other = solver(x, A, b, lower, upper)
    assert other is not None
    optimum = 0.5 * other[1] ** 2
    assert float(found.value) <= optimum + 1e-6
    assert (mu >= 0).all()
    assert ((z >= lower) & (z <= upper)).all()
    # The value is that of the dual at `mu`, and z is its point.
    assert np.allclose(z, np.clip(x - A.T @ mu, lower, upper), atol=1e-8)
    dual = 0.5 * np.sum((z - x) ** 2) + mu @ (A @ z - b)
    assert float(found.value) == pytest.approx(dual, rel=1e-6, abs=1e-7)
    if float(found.error) <= 1e-9:
        assert float(found.value) == pytest.approx(optimum, rel=1e-6, abs=1e-6)
        assert np.linalg.norm(z - other[0]) <= 1e-3 * (1 + other[1])


@given(seed=st.integers(0, 10**6), features=st.integers(2, 12), rows=st.integers(1, 15))
def test_ordinary_problems_end_exactly(seed, features, rows):
    x, A, b, lower, upper = _problem(seed, features, rows)
    found = _solve(x, A, b, lower, upper)
    assert float(found.error) <= 1e-8
    length = np.linalg.norm(A, axis=1)
    assert ((A @ found.z[0].numpy() - b) / length).max() <= 1e-8


@given(seed=st.integers(0, 10**6), oddity=st.sampled_from(INFEASIBLE), **SIZES)
def test_infeasible_problems_exceed_the_farthest_corner(seed, oddity, features, rows):
    x, A, b, lower, upper = _problem(seed, features, rows, oddity)
    found = _solve(x, A, b, lower, upper)
    farthest = _farthest(
        torch.from_numpy(x)[None], torch.from_numpy(lower), torch.from_numpy(upper)
    )
    assert float(found.value) > float(farthest)


def _with_many_rows(seed, features, rows, held):
    """A problem of so many rows; for all but the first `held` there is plenty of room."""
    rng = np.random.default_rng(seed)
    x, A, _, lower, upper = _problem(seed, features, rows)
    inside = rng.uniform(0.2, 0.8, features)
    length = np.linalg.norm(A, axis=1)
    A[:held] *= np.sign((A[:held] * (x - inside)).sum(axis=1))[:, None]  # x lies beyond those
    return x, A, A @ inside + np.where(np.arange(rows) < held, 0.0, length), lower, upper


@pytest.mark.parametrize("solver", SOLVERS)
@given(seed=st.integers(0, 10**6), held=st.integers(0, 60), rows=st.integers(FEW + 1, 60))
def test_steps_over_some_of_many_rows_end_at_the_same_optimum(solver, seed, held, rows):
    problem = _with_many_rows(seed, 40, rows, held)
    found = _solve(*problem)
    other = solver(*problem)
    assert other is not None
    assert float(found.error) <= 1e-8
    assert float(found.value) == pytest.approx(0.5 * other[1] ** 2, rel=1e-6, abs=1e-9)


def test_last_bits_do_not_depend_on_the_batch():
    problems = [_with_many_rows(seed, 40, 48, held) for seed, held in enumerate((3, 45, 8, 48, 0))]
    lower, upper = (torch.from_numpy(bound) for bound in problems[0][3:])
    x, A, b = (torch.from_numpy(np.stack(parts)) for parts in list(zip(*problems, strict=True))[:3])
    many = ((A @ x[..., None]).squeeze(2) > b).sum(dim=1) > FEW
    assert many.tolist() == [False, True, False, True, False]

    def solved(chosen):
        ceiling = _farthest(x[chosen], lower, upper)
        mu = torch.zeros(len(chosen), 48, dtype=torch.float64)
        return project_dense(x[chosen], A[chosen], b[chosen], lower, upper, mu, ceiling=ceiling)

    for mates in ([0, 2], [0, 1], [1, 0], [1, 3], [3, 4], [2, 4]):
        for place, number in enumerate(mates):
            assert torch.equal(solved(mates).z[place], solved([number, number]).z[0])


def test_a_ceiling_ends_the_search_above_it():
    x, A, b, lower, upper = _problem(3, 30, 20)
    full = _solve(x, A, b, lower, upper)
    ceiling = 0.3 * full.value
    early = _solve(x, A, b, lower, upper, ceiling=ceiling)
    assert float(ceiling) < float(early.value) <= float(full.value) * (1 + 1e-9)
    above = _solve(x, A, b, lower, upper, ceiling=1.1 * full.value)
    assert float(above.value) == pytest.approx(float(full.value), rel=1e-9)


def test_problems_of_a_batch_do_not_disturb_each_other():
    every = [_problem(seed, 10, 8, o) for seed, o in enumerate(["none", "infeasible", "faces"])]
    rows = max(len(b) for _, _, b, _, _ in every)
    lower, upper = torch.zeros(10, dtype=torch.float64), torch.ones(10, dtype=torch.float64)
    x = torch.from_numpy(np.stack([p[0] for p in every]))
    A, b = torch.zeros(3, rows, 10, dtype=torch.float64), torch.ones(3, rows, dtype=torch.float64)
    for i, (_, Ai, bi, _, _) in enumerate(every):
        A[i, : len(bi)], b[i, : len(bi)] = torch.from_numpy(Ai), torch.from_numpy(bi)
    ceiling = _farthest(x, lower, upper)
    together = project_dense(x, A, b, lower, upper, torch.zeros_like(b), ceiling=ceiling)
    for i, (_, Ai, bi, low, high) in enumerate(every):
        alone = _solve(x[i].numpy(), Ai, bi, low, high)
        if i == 1:
            assert float(together.value[i]) > float(ceiling[i])
            continue
        assert float(together.value[i]) == pytest.approx(float(alone.value), rel=1e-8)
        assert torch.allclose(together.z[i], alone.z[0], atol=1e-7)


def test_a_problem_without_rows_stays_where_it_is():
    x = np.array([0.2, 0.8])
    found = _solve(x, np.zeros((1, 2)), np.ones(1), np.zeros(2), np.ones(2))
    assert torch.equal(found.z[0], torch.from_numpy(x))
    assert float(found.value) == 0.0


@given(
    seed=st.integers(0, 10**6), count=st.integers(1, 25), rank=st.integers(1, 30),
    scale=st.sampled_from([1e-6, 1.0, 1e5]),
)  # fmt: skip
def test_the_non_negative_minimum_equals_lawson_and_hanson(seed, count, rank, scale):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((count, rank))
    H = root @ root.T + 1e-3 * np.eye(count)
    c = scale * rng.standard_normal(count)
    factor = np.linalg.cholesky(H)  # 1/2 v'Hv - c.v = 1/2 |L'v - L^-1 c|^2 + constant
    expected, _ = nnls(factor.T, np.linalg.solve(factor, c), maxiter=50 * count)
    positive = torch.from_numpy(rng.random((1, count)) < 0.5)
    found, ended = non_negative_minimum(
        torch.from_numpy(H)[None], torch.from_numpy(c)[None], positive
    )
    assert (found >= 0).all()
    if bool(ended):
        assert np.allclose(
            found[0].numpy(), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max()
        )


def test_pivoting_ends_from_any_guess_and_without_unknowns():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(200, 12, 30, generator=generator, dtype=torch.float64)
    H = root @ root.transpose(1, 2)
    c = torch.randn(200, 12, generator=generator, dtype=torch.float64)
    found, ended = non_negative_minimum(H, c, torch.rand(200, 12, generator=generator) < 0.5)
    assert ended.all()
    slack = (H @ found[..., None]).squeeze(2) - c
    assert (slack >= -1e-7).all()
    assert ((slack * found).sum(dim=1).abs() <= 1e-7).all()
    none, ended = non_negative_minimum(H[:, :0, :0], c[:, :0], c[:, :0] > 0)
    assert none.shape == (200, 0)
    assert ended.all()
    assert math.isclose(float(none.sum()), 0.0)
