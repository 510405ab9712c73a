"""Norms against their definitions, goals against arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from elbowroom import L1, L2, Linf, Norm
from elbowroom.goals import ClassifiedAs, Misclassified, SameConfidence, SameLogits
from elbowroom.sampling import SampleRng

NORMS = [L1, L2, Linf]
vectors = st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@given(vectors, vectors)
def test_duality_and_steepest_direction(norm, u, v):
    u, v = torch.tensor([u], dtype=torch.float64), torch.tensor([v], dtype=torch.float64)
    inner = float((u * v).sum())
    assert abs(inner) <= float(norm.length(u) * norm.dual.length(v)) * (1 + 1e-9) + 1e-12
    steepest = norm.steepest(u)
    assert float(norm.length(steepest)) <= 1 + 1e-9
    assert float((u * steepest).sum()) == pytest.approx(float(norm.dual.length(u)), rel=1e-6)


@pytest.mark.parametrize("norm", NORMS, ids=str)
@given(vectors, st.floats(0.01, 60))
def test_projection_is_the_nearest_point_of_the_ball(norm, v, radius):
    v = torch.tensor([v], dtype=torch.float64)
    limit = torch.tensor([radius], dtype=torch.float64)
    projected = norm.project(v, limit)
    assert float(norm.length(projected)) <= radius * (1 + 1e-9)
    # Nearest: every other point of the ball lies behind the tangent plane at the projection.
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = torch.randn(1, 6, generator=generator, dtype=torch.float64)
        other = other / norm.length(other) * limit
        assert float(((v - projected) * (other - projected)).sum()) <= 1e-6 * (1 + radius**2)


def test_projection_onto_l1_against_a_solver():
    v = torch.tensor([[3.0, -1.0, 0.5, 2.0]]).double()
    solved = minimize(
        lambda z: ((z - v[0].numpy()) ** 2).sum(),
        [0.0] * 4,
        constraints={"type": "ineq", "fun": lambda z: 2.0 - abs(z).sum()},
        tol=1e-12,
    ).x
    projected = L1.project(v, torch.tensor([2.0]).double())[0]
    assert torch.allclose(projected, torch.tensor(solved), atol=1e-4)


def test_steepest_survives_tiny_gradients():
    tiny = torch.full((1, 4), 1e-30)
    assert float(L2.length(L2.steepest(tiny))) == pytest.approx(1.0)
    assert torch.equal(L2.steepest(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_names():
    assert Norm.parse("linf") is Linf
    assert str(L1) == "L1"
    with pytest.raises(ValueError, match="choose L1, L2 or Linf"):
        Norm.parse("l7")
    with pytest.raises(ValueError, match="not p=3"):
        Norm(3.0)


LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 1.0, 0.5], [math.nan, 0.0, 1.0]])


def test_misclassified():
    goal = Misclassified(torch.tensor([0, 2, 1, 1]))
    assert goal.met(LOGITS).tolist() == [False, True, True, False]
    assert goal.margin(LOGITS)[:3].tolist() == [1.0, -2.0, 0.0]


def test_classified_as():
    goal = ClassifiedAs(torch.tensor([0, 0, 0, 2]))
    assert goal.met(LOGITS).tolist() == [True, False, True, False]
    assert goal.margin(LOGITS)[:3].tolist() == [-1.0, 3.0, 0.0]
    assert goal.take(torch.tensor([1, 1])).targets.tolist() == [0, 0]


def test_same_logits_and_same_confidence():
    wanted = torch.tensor([[2.0, 1.0, 0.3]])
    assert SameLogits(wanted, torch.tensor([0.031])).met(LOGITS[:1]).all()
    assert not SameLogits(wanted, torch.tensor([0.029])).met(LOGITS[:1]).any()
    shifted = SameConfidence((LOGITS[:1] + 5.0).softmax(dim=1), torch.tensor([1e-6]))
    assert shifted.met(LOGITS[:1]).all()
    assert not shifted.met(LOGITS[1:2]).any()


@pytest.mark.parametrize("kind", [Misclassified, ClassifiedAs])
def test_losses_fall_towards_the_goal(kind):
    goal = kind(torch.tensor([1]))
    point = torch.tensor([[0.3, 0.9, -0.2]], requires_grad=True)
    for function in (goal.loss, goal.margin):
        (slope,) = torch.autograd.grad(function(point).sum(), point)
        assert function(point - 0.1 * slope) < function(point)


def test_randomness_belongs_to_the_sample():
    like = torch.zeros(3, 2, 2)
    whole = SampleRng(seed=5, indices=[10, 11, 12]).normal(like)
    single = SampleRng(seed=5, indices=[11]).normal(like[:1])
    other_seed = SampleRng(seed=6, indices=[11]).normal(like[:1])
    assert torch.equal(whole[1:2], single)
    assert not torch.equal(single, other_seed)
    assert not torch.equal(whole[0], whole[1])
