"""PGD on logits: closed forms on linear networks, and what every run must do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from torch import nn

from elbowroom import L2, Classifier, Linf
from elbowroom.goals import SameLogits
from elbowroom.invariance import INVERSIONS, PGDOnLogits
from elbowroom.invariance.balls import Balls, nearest_in_ball_and_box
from elbowroom.invariance.base import Problem
from elbowroom.regions.newton import project_dense
from elbowroom.sampling import SampleRng
from nets import make
from oracles.linear import problem

# Much less thorough than the default. A false failure near the least radius costs accuracy.
QUICK = PGDOnLogits(patience=5, least_gain=0.05, restarts=1, first_step=2.0)
CARELESS = 0.02


def _linear_in_unit_box(features: int, classes: int, batch: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(features, classes).double()
    layer.weight.data = torch.randn(classes, features, generator=generator, dtype=torch.float64)
    start, toward = torch.rand(2, batch, features, generator=generator, dtype=torch.float64)
    return Classifier(layer), start, toward.round()  # at a corner, where the box matters


def _problem(clf, start, toward, tolerance, *, seed=0):
    goal = SameLogits(clf.logits(start), torch.full((len(start),), tolerance, dtype=start.dtype))
    return Problem(clf, start, toward, goal, SampleRng(seed, range(len(start))), True)


def _nearest_in_box(clf, start, toward):
    """Distances of the nearest points with the logits of `start`, by a quadratic program."""
    weight = clf.network.weight.detach()
    rows = torch.cat([weight, -weight]).expand(len(start), -1, -1)
    bounds = torch.cat([start @ weight.T, -start @ weight.T], dim=1) + 1e-12
    found = project_dense(
        toward, rows, bounds, torch.zeros(start.shape[1]).double(),
        torch.ones(start.shape[1]).double(), torch.zeros_like(bounds),
        ceiling=torch.full_like(bounds[:, 0], torch.inf),
    )  # fmt: skip
    assert (found.error < 1e-6).all()
    return L2.length(found.z - toward)


# -- the projection -------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.05, 0.4, 1.0, 5.0]))
def test_the_projection_is_that_of_dykstra(seed, radius):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(4, 5, generator=generator, dtype=torch.float64)
    centre[0] = centre[0].round()
    point = centre + 3 * torch.randn(4, 5, generator=generator, dtype=torch.float64)
    lower, upper = torch.zeros(5).double(), torch.ones(5).double()
    radii = torch.full((4,), radius, dtype=torch.float64)
    found = nearest_in_ball_and_box(point, centre, radii, lower, upper)
    assert (L2.length(found - centre) <= radius * (1 + 1e-12)).all()
    x, p, q = point.clone(), torch.zeros_like(point), torch.zeros_like(point)
    for _ in range(600):
        y = centre + L2.project(x + p - centre, radii)
        p = x + p - y
        x = (y + q).clamp(0, 1)
        q = y + q - x
    # Dykstra's own error falls slowly where the sets touch at a shallow angle.
    assert (L2.length(found - point) <= L2.length(x - point) + 1e-9).all()
    assert torch.allclose(found, x, atol=2e-3)


def test_the_projection_without_bounds_is_that_onto_the_ball():
    generator = torch.Generator().manual_seed(0)
    centre, point = torch.randn(2, 6, 2, 3, generator=generator, dtype=torch.float64)
    radii = torch.linspace(0, 4, 6, dtype=torch.float64)
    wide = torch.full((2, 3), torch.inf, dtype=torch.float64)
    found = nearest_in_ball_and_box(point, centre, radii, -wide, wide)
    torch.testing.assert_close(found, centre + L2.project(point - centre, radii))


# -- linear networks ------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3])
def test_on_a_linear_network_distances_are_as_accurate_as_promised(rank):
    clf, start, _ = problem(rank, batch=2, classes=3)
    toward = start.flip(0) * 0.5
    result = QUICK(clf, start=start, toward=toward)
    inverse = torch.linalg.pinv(clf.network.linear.weight.detach())
    gap = clf.logits(start) - clf.logits(toward)
    nearest = torch.linalg.vector_norm(gap @ inverse.T, dim=1)
    # A point within the tolerance can be nearer by what the inverse makes of it.
    slack = torch.linalg.matrix_norm(inverse, 2) * math.sqrt(3 * 5e-8)
    assert result.success.all()
    assert (result.distance >= nearest - slack).all()
    assert (result.distance <= nearest + CARELESS).all()
    assert torch.allclose(result.distance_linf, Linf.length(result.example - toward))
    coarse = replace(QUICK, accuracy=0.2)(clf, start=start, toward=toward)
    assert (coarse.distance <= nearest + 0.2 + CARELESS).all()
    assert coarse.cost.backward < result.cost.backward


def test_in_a_box_too():
    clf, start, toward = _linear_in_unit_box(12, 3, 3)
    nearest = _nearest_in_box(clf, start, toward)
    free = torch.linalg.vector_norm(
        (clf.logits(start) - clf.logits(toward)) @ torch.linalg.pinv(clf.network.weight.detach()).T,
        dim=1,
    )
    assert (nearest > free + 0.05).any()  # so that the box is in the way
    result = QUICK(clf, start=start, toward=toward)
    assert result.success.all()
    assert (result.example >= 0).all()
    assert (result.example <= 1).all()
    assert (result.distance >= nearest - 1e-3).all()
    assert (result.distance <= nearest + CARELESS).all()


def test_wanted_logits_without_a_start():
    clf, start, toward = _linear_in_unit_box(12, 3, 3)
    nearest = _nearest_in_box(clf, start, toward)
    result = replace(QUICK, accuracy=0.1)(clf, target=clf.logits(start), toward=toward)
    assert result.success.all()
    assert (result.distance <= nearest + 0.1 + CARELESS).all()


def _unreachable(batch: int = 2):
    """Logits that the box does not hold, and the least feature MSE in it."""
    clf, _, toward = _linear_in_unit_box(8, 3, batch)
    weight, bias = (p.detach().numpy() for p in clf.network.parameters())
    target = torch.tensor([30.0, -20.0, 40.0], dtype=torch.float64)
    best = lsq_linear(weight, target.numpy() - bias, bounds=(0, 1), tol=1e-12)
    return clf, toward, target, 2 * best.cost / 3


def test_logits_out_of_reach_are_failures_that_come_as_near_as_they_can():
    clf, toward, target, least = _unreachable()
    result = QUICK(clf, target=target, toward=toward)
    assert not result.success.any()
    assert torch.isinf(result.distance).all()
    assert torch.isfinite(result.moved).all()
    np.testing.assert_allclose(result.feature_mse, least, rtol=1e-3)
    assert (result.feature_mse >= least * (1 - 1e-9)).all()


# -- the search for the radius --------------------------------------------------------------------


def test_the_radius_is_bisected_between_failures_and_what_was_found():
    clf, start, toward = _linear_in_unit_box(12, 3, 3)
    best, rounds = QUICK.search(_problem(clf, start, toward, 5e-8))
    high = L2.length(start - toward)
    low = torch.zeros_like(high)
    for this in rounds:
        searched = this.radius.isfinite()
        assert torch.equal(searched, high - low > 0.01)
        middle = torch.where(searched, (low + high) / 2, torch.nan)
        torch.testing.assert_close(this.radius, middle, equal_nan=True)
        assert (this.distance[searched] <= middle[searched] * (1 + 1e-12)).all()
        assert torch.equal(this.runs > 0, searched)
        assert (this.feature_mse[this.solved] <= 5e-8).all()
        assert (this.feature_mse[searched & ~this.solved] > 4.9e-8).all()
        high = torch.where(this.solved, this.distance, high)
        low = torch.where(searched & ~this.solved, this.radius, low)
    assert (high - low <= 0.01).all()
    torch.testing.assert_close(best.distance, high)


def test_a_solution_inside_of_the_ball_lowers_the_radius_to_its_distance():
    clf, start, toward = _linear_in_unit_box(12, 3, 1)
    # A lax tolerance: runs stop well inside of the ball, as the random starts are.
    _, rounds = QUICK.search(_problem(clf, start, toward, 0.5))
    first, second = rounds[:2]
    assert first.solved.all()
    assert (second.radius < first.radius / 2 * (1 - 1e-9)).all()


def test_next_runs_only_where_the_last_one_came_near():
    clf, toward, target, least = _unreachable(batch=1)
    for factor, runs in ((10.0, 3), (1000.0, 1)):
        method = PGDOnLogits(tolerance=least / factor, restarts=3, patience=3, accuracy=0.05)
        goal = SameLogits(target[None], torch.full((1,), least / factor))
        corner = 1 - toward
        begun = Problem(clf, corner, toward, goal, SampleRng(0, [0]), False)
        _, rounds = method.search(begun)
        assert rounds[-1].runs.tolist() == [runs]
        # All rounds fail, so that the radius approaches the distance of the farthest corner.
        whole = math.sqrt(toward.shape[1])
        expected = [whole * (1 - 0.5**n) for n in range(1, len(rounds) + 1)]
        np.testing.assert_allclose([float(this.radius) for this in rounds], expected)
        assert whole * 0.5 ** len(rounds) <= 0.05 < whole * 0.5 ** (len(rounds) - 1)


def test_a_pair_that_agrees_already_costs_next_to_nothing():
    clf, start, _ = _linear_in_unit_box(12, 3, 3)
    result = PGDOnLogits()(clf, start=start, toward=start)
    assert (result.distance == 0).all()
    assert result.cost.backward == 0


# -- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_steps_are_the_longest_that_meet_the_armijo_condition(name):
    model, shape = make(name, seed=1)
    clf = Classifier(model)
    generator = torch.Generator().manual_seed(0)
    start, toward, z = torch.rand(3, 7, *shape, generator=generator, dtype=torch.float64)
    begun = _problem(clf, start, toward, 1e-8)
    radius = L2.length(start - toward) / 2
    balls = Balls(begun, radius, size=4)
    rows = torch.arange(7)
    z = balls.random_points(z - 0.5, torch.rand(7, generator=generator, dtype=torch.float64))
    first, shortest = torch.full((7,), 100.0).double(), 1e-3 * radius

    def loss(x):
        return (model(x) - model(start)).square().mean(dim=1)

    for _ in range(5):
        with torch.enable_grad():
            x = z.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss(x).sum(), x)
        before = loss(z).detach()
        length = gradient.flatten(1).norm(dim=1)
        direction = gradient / length.view(7, 1, 1, 1)
        torch.testing.assert_close(balls.measure(rows, z), (before, direction, length))

        def reached(step, z=z, gradient=gradient, before=before):
            move = (step / gradient.flatten(1).norm(dim=1)).view(7, 1, 1, 1) * gradient
            point = nearest_in_ball_and_box(
                z - move, toward, radius, clf.lower.expand(shape), clf.upper.expand(shape)
            )
            slope = (gradient * (point - z)).flatten(1).sum(dim=1)
            return point, loss(point).detach() - before - 0.5 * slope

        moved, step = balls.backtrack(
            rows, z, before, direction, length, first, shortest, alpha=0.5, beta=0.5
        )
        point, excess = reached(step)
        torch.testing.assert_close(moved, point)
        assert ((excess < 0) | (step <= shortest)).all()
        assert (step > shortest).any()
        assert (step > shortest / 2).all()
        assert torch.equal(torch.log2(100 / step), torch.log2(100 / step).round())
        assert (reached(2 * step)[1] >= 0).all()  # no longer one would have done
        assert (L2.length(moved - toward) <= radius * (1 + 1e-9)).all()
        z = moved


def test_random_starts_are_uniform_in_the_ball():
    clf, start, toward = _linear_in_unit_box(2, 2, 1)
    wide = Classifier(clf.network, bounds=(-50.0, 50.0))
    count = 4000
    many = [x.expand(count, -1).contiguous() for x in (start, toward)]
    balls = Balls(_problem(wide, *many, 1e-8), torch.full((count,), 3.0).double(), size=count)
    rng = SampleRng(0, range(count))
    points = balls.random_points(rng.normal(many[0]), rng.uniform(balls.radius)) - toward
    assert (L2.length(points) <= 3.0).all()
    # In a disc, the share of points within half the radius is a quarter.
    assert abs(float((L2.length(points) < 1.5).double().mean()) - 0.25) < 0.03
    assert points.mean(dim=0).abs().max() < 0.1


class _Flat(nn.Module):
    """Logits that no input changes, with a gradient of zero."""

    def forward(self, x):
        return torch.cat([0 * x, 1 + 0 * x], dim=1)


def test_a_run_ends_when_the_loss_has_not_fallen_for_so_many_steps():
    toward = torch.full((1, 1), 0.25, dtype=torch.float64)
    method = PGDOnLogits(patience=7, accuracy=0.1, restarts=5)
    result = method(
        Classifier(_Flat(), dtype=torch.float64),
        target=torch.tensor([1.0, 0.0], dtype=torch.float64),
        toward=toward,
    )
    # 0.75 is the farthest corner: radii 0.375, 0.5625, 0.65625; one run each, far from the goal.
    assert result.cost.backward == 3 * (7 + 1)
    assert not result.success.any()


def test_no_run_takes_more_steps_than_allowed():
    model, shape = make("mlp", seed=1)
    clf = Classifier(model)
    generator = torch.Generator().manual_seed(0)
    start, toward = torch.rand(2, 1, *shape, generator=generator, dtype=torch.float64)
    method = PGDOnLogits(tolerance=1e-20, steps=6, restarts=1, accuracy=0.5)
    _, rounds = method.search(_problem(clf, start, toward, 1e-20))
    result = method(clf, start=start, toward=toward)
    assert not any(this.solved.any() for this in rounds)
    assert result.cost.backward == len(rounds) * (6 + 1)


def test_the_longest_step_follows_the_mean_of_those_taken(monkeypatch):
    clf, start, toward = _linear_in_unit_box(12, 3, 1)
    firsts, sizes = [], []
    original = Balls.backtrack

    def recorded(self, rows, z, loss, direction, length, first, shortest, **constants):
        found = original(self, rows, z, loss, direction, length, first, shortest, **constants)
        firsts.append(float(first[0]))
        sizes.append(float(found[1][0]))
        return found

    monkeypatch.setattr(Balls, "backtrack", recorded)
    method = PGDOnLogits(tolerance=1e-24, steps=10, adapt_every=4, accuracy=5.0, restarts=1)
    begun = _problem(clf, start, toward, 1e-24)
    method._run(Balls(begun, L2.length(start - toward), 1), toward.clone(), torch.zeros(1).double())
    assert firsts[:4] == [100.0] * 4
    assert firsts[4:8] == pytest.approx([256 * sum(sizes[:4]) / 4] * 4)
    assert firsts[8:] == pytest.approx([256 * sum(sizes[4:8]) / 4] * 2)


# -- batches --------------------------------------------------------------------------------------


def test_results_do_not_depend_on_the_other_samples():
    model, shape = make("resnet", seed=1)
    clf = Classifier(model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    start, toward = torch.rand(2, 5, *shape, generator=generator)
    method = replace(QUICK, accuracy=0.05)
    whole = method(clf, start=start[:4], toward=toward[:4])
    # The same number of samples, in another order and with another companion: bit for bit.
    rows = [2, 4, 0, 1]
    other = method(clf, start=start[rows], toward=toward[rows], indices=rows)
    assert torch.equal(whole.example[[2, 0, 1]], other.example[[0, 2, 3]])
    alone = method(clf, start=start[1:2], toward=toward[1:2], indices=[1])
    torch.testing.assert_close(alone.distance, whole.distance[1:2], rtol=1e-2, atol=0)


def test_linear_results_do_not_depend_on_the_batch_size():
    clf, start, toward = _linear_in_unit_box(12, 3, 4)
    results = [
        replace(QUICK, accuracy=0.3, batch_size=size)(clf, start=start, toward=toward)
        for size in (1, 3, 32)
    ]
    for other in results[1:]:
        torch.testing.assert_close(other.distance, results[0].distance, rtol=1e-6, atol=0)


def test_another_seed_is_another_search():
    clf, start, toward = _linear_in_unit_box(12, 3, 2)
    one, same, other = (
        replace(QUICK, seed=seed, accuracy=0.2)(clf, start=start, toward=toward)
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.example, same.example)
    assert not torch.equal(one.example, other.example)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 0.0), ("accuracy", math.inf), ("patience", 0), ("adapt_every", 2.0),
        ("batch_size", 0), ("alpha", 1.0), ("beta", 0.0), ("shortest_step", 0.0),
        ("first_step", -1.0), ("retry_within", 0.5), ("restarts", 0), ("steps", 0),
        ("adapt_factor", math.nan),
    ],
)  # fmt: skip
def test_hyperparameters_are_checked(name, value):
    with pytest.raises(ValueError, match=name):
        PGDOnLogits(**{name: value})


def test_logits_without_a_start_need_bounds():
    clf, start, _ = problem(1, batch=2, classes=3)
    free = Classifier(clf.network, bounds=(-math.inf, math.inf))
    with pytest.raises(ValueError, match="finite bounds"):
        PGDOnLogits()(free, target=clf.logits(start), toward=start)
    result = replace(QUICK, accuracy=0.2)(
        free, start=start, toward=0.5 * start
    )  # with one, a box is not needed
    assert result.success.all()


def test_it_is_in_the_registry():
    assert INVERSIONS["pgd"] is PGDOnLogits
