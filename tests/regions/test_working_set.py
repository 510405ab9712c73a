"""Exact projections onto linear regions against DAQP on their explicit matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from elbowroom import Classifier
from elbowroom.goals import ClassifiedAs, Misclassified
from elbowroom.regions import Polytopes, WorkingSet, decision_towards
from oracles.polytopes import NAMES, by_daqp, classifier, daqp, explicit, shape_of

needs_daqp = pytest.mark.skipif(daqp is None, reason="needs daqp")


def _problem(name, count=12, dtype=torch.float64, seed=0, rival=1):
    """Samples, points of regions near and far from them, and decisions for another class.

    rival: rank, in the region, of the class decided for; the last is often infeasible.
    """
    clf, shape = classifier(name, seed, dtype), shape_of(name)
    generator = torch.Generator().manual_seed(seed + 1)
    x, noise = torch.rand(2, count, *shape, generator=generator, dtype=torch.float64)
    size = torch.tensor([0.03, 0.1, 0.3, 1.0], dtype=torch.float64).repeat(count)[:count]
    z = (x + size.view(-1, *[1] * len(shape)) * (2 * noise - 1)).clamp(0, 1).to(dtype)
    x = x.to(dtype)
    goal = Misclassified(clf.logits(x).argmax(dim=1))
    there = clf.logits(z).scatter(1, goal.labels[:, None], -torch.inf)
    classes = there.argsort(dim=1, descending=True)[:, rival - 1]
    return clf, x, z, decision_towards(goal, classes, there)


def _oracle(clf, x, z, decision):
    """`(N,)` distances; inf where there is no feasible point."""
    box = [v.double().expand(x.shape[1:]).flatten().numpy() for v in (clf.lower, clf.upper)]
    found = []
    for i in range(len(x)):
        A, b = (v.double().numpy() for v in explicit(clf, z[i : i + 1], decision[i]))
        there = by_daqp(x[i].double().flatten().numpy(), A, b, *box)
        found.append(math.inf if there is None else there[1])
    return torch.tensor(found, dtype=torch.float64)


def _lengths(found, x):
    return (found.z - x).double().flatten(1).norm(dim=1)


def _close(a, b, tolerance):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


@needs_daqp
@pytest.mark.parametrize("rival", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_distances_equal_those_of_another_solver(name, rival):
    clf, x, z, decision = _problem(name, count=8, rival=rival)
    expected = _oracle(clf, x, z, decision)
    polytopes = Polytopes.at(clf, z, decision)
    found = WorkingSet()(polytopes, x)
    feasible = expected.isfinite()
    assert feasible.any()
    assert torch.equal(found.infeasible, ~feasible)
    assert torch.equal(found.solved, feasible)
    assert torch.isinf(found.lower[~feasible]).all()
    assert _close(found.lower[feasible], expected[feasible], 1e-6)
    assert _close(_lengths(found, x)[feasible], expected[feasible], 1e-6)
    # The point satisfies everything to the tolerance, and lies in the box.
    excess = polytopes.excess(found.z)
    largest = torch.where(excess.isfinite(), excess.abs(), 0.0).amax(dim=1)
    assert (excess.amax(dim=1) <= 1e-9 * largest)[feasible].all()
    assert torch.equal(clf.clamp(found.z), found.z)
    assert torch.equal(found.iterates[-1], found.z)
    assert (found.iterates.diff(dim=0).abs() > 0).any()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_feasible_is_never_called_infeasible(name):
    # The point that the region was made of satisfies all constraints.
    clf, x, z, _ = _problem(name, count=40)
    goal = ClassifiedAs(clf.logits(z).argmax(dim=1))
    polytopes = Polytopes.at(clf, z, decision_towards(goal, goal.targets, clf.logits(z)))
    found = WorkingSet()(polytopes, x)
    assert not found.infeasible.any()
    assert found.solved.all()
    assert (found.lower <= (z - x).flatten(1).norm(dim=1) * (1 + 1e-9)).all()
    assert _close(_lengths(found, x), found.lower, 1e-6)


def test_a_class_that_is_never_decided_for_is_infeasible_everywhere():
    constant = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    constant[3].weight.data.zero_()
    constant[3].bias.data.copy_(torch.tensor([1.0, 0.0]))
    clf = Classifier(constant)
    x = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    goal = Misclassified(torch.zeros(3, dtype=torch.int64))
    cut = decision_towards(goal, torch.ones(3, dtype=torch.int64), clf.logits(x))
    found = WorkingSet()(Polytopes.at(clf, x, cut), x)
    assert found.infeasible.all()
    assert torch.isinf(found.lower).all()
    assert not found.solved.any()


@pytest.mark.parametrize("name", ["resnet", "pooled"])
def test_multipliers_reproduce_the_bound_and_the_point(name):
    clf, x, z, decision = _problem(name)
    polytopes = Polytopes.at(clf, z, decision)
    found = WorkingSet()(polytopes, x)
    mu = found.multipliers
    assert (mu >= 0).all()
    assert (mu[polytopes.offset == -torch.inf] == 0).all()
    point = clf.clamp(x - polytopes.pull(mu))
    excess = polytopes.excess(point)
    dual = (point - x).flatten(1).square().sum(dim=1) / 2
    dual = dual + (mu * torch.where(excess.isfinite(), excess, 0.0)).sum(dim=1)
    sure = found.solved
    assert sure.any()
    assert _close((2 * dual).clamp(min=0).sqrt()[sure], found.lower[sure], 1e-7)
    assert _close(point[sure], found.z[sure], 1e-7)


@pytest.mark.parametrize("name", ["dense", "pooled"])
def test_a_guess_saves_rounds_and_changes_nothing(name):
    clf, x, z, decision = _problem(name)
    polytopes = Polytopes.at(clf, z, decision)
    plain = WorkingSet(added=4)(polytopes, x)
    values, slots = plain.multipliers.topk(48, dim=1)
    guess = torch.where(values > 0, slots, -1)
    found = WorkingSet(added=4)(polytopes, x, guess=guess)
    assert len(found.iterates) < len(plain.iterates)
    generator = torch.Generator().manual_seed(0)
    poor = torch.randint(-1, polytopes.slots, (len(x), 10), generator=generator)
    for other in (found, WorkingSet(added=4)(polytopes, x, guess=poor)):
        assert torch.equal(other.solved, plain.solved)
        assert torch.equal(other.infeasible, plain.infeasible)
        assert _close(other.lower[plain.solved], plain.lower[plain.solved], 1e-7)


@pytest.mark.parametrize("name", ["resnet", "pooled"])
def test_a_ceiling_ends_what_cannot_beat_it(name):
    clf, x, z, decision = _problem(name)
    polytopes = Polytopes.at(clf, z, decision)
    full = WorkingSet()(polytopes, x)
    known = full.lower.isfinite()
    ceiling = torch.where(torch.arange(len(x)) % 2 == 0, 0.8, 1.2) * full.lower
    ceiling = torch.where(known, ceiling, torch.inf)
    found = WorkingSet()(polytopes, x, ceiling=ceiling)
    beaten = known & (ceiling < full.lower)
    assert not found.solved[beaten].any()
    assert (found.lower[beaten] > ceiling[beaten]).all()
    assert (found.lower <= full.lower * (1 + 1e-9)).all()
    assert torch.equal(found.solved[~beaten], full.solved[~beaten])
    assert _close(found.lower[known & ~beaten], full.lower[known & ~beaten], 1e-7)
    assert torch.equal(found.infeasible, full.infeasible)


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize("name", ["mlp", "pooled"])
def test_decisions_of_one_region_share_its_rows(name, block):
    clf, x, z, _ = _problem(name, count=6)
    labels = clf.logits(x).argmax(dim=1)
    others = [(labels + step) % 3 for step in (1, 2)]
    rows = torch.arange(6).repeat_interleave(2)
    classes = torch.stack(others, dim=1).flatten()
    cut = decision_towards(Misclassified(labels[rows]), classes, clf.logits(x))
    polytopes = Polytopes.at(clf, z[rows], cut, block=block)
    before = clf.cost.vjp
    alone = WorkingSet()(polytopes, x[rows])
    between = clf.cost.vjp
    shared = WorkingSet()(polytopes, x[rows], shared=2)
    after = clf.cost.vjp
    assert torch.equal(shared.solved, alone.solved)
    assert torch.equal(shared.infeasible, alone.infeasible)
    assert _close(shared.lower[alone.solved], alone.lower[alone.solved], 1e-7)
    assert _close(shared.z[alone.solved], alone.z[alone.solved], 1e-5)
    assert after - between < between - before


@pytest.mark.parametrize(
    ("name", "seed", "capacity", "added"),
    [("pooled", 3, 30, 6), ("pooled", 4, 20, 6), ("dense", 2, 14, 6), ("dense", 4, 8, 2)],
)
def test_problems_that_share_a_region_may_forget_different_rows(name, seed, capacity, added):
    # Full after some rounds, each problem drops other rows; none may miss what another knows.
    clf, x, z, _ = _problem(name, count=4, seed=seed)
    rows = torch.arange(4).repeat_interleave(2)
    labels = clf.logits(x).argmax(dim=1)[rows]
    classes = (labels + torch.tensor([1, 2]).repeat(4)) % 3
    cut = decision_towards(Misclassified(labels), classes, clf.logits(x))
    polytopes = Polytopes.at(clf, z[rows], cut)
    full = WorkingSet()(polytopes, x[rows])
    small = WorkingSet(added=added, capacity=capacity)(polytopes, x[rows], shared=2)
    assert (full.infeasible | ~small.infeasible).all()
    assert (small.lower <= full.lower * (1 + 1e-9)).all()
    assert _close(small.lower[small.solved], full.lower[small.solved], 1e-7)


def test_a_small_box_does_not_keep_problems_from_ending():
    # Distances are found to 1e-9; constraints at the optimum then hold less well than others.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU())
    model = nn.Sequential(*model, nn.Linear(40, 2)).double()
    for layer in (model[0], model[2], model[4]):
        layer.bias.data.mul_(1e-4)
    clf = Classifier(model, bounds=(0, 1e-4))
    generator = torch.Generator().manual_seed(1)
    x, z = 1e-4 * torch.rand(2, 40, 20, dtype=torch.float64, generator=generator)
    goal = ClassifiedAs(clf.logits(z).argmax(dim=1))
    polytopes = Polytopes.at(clf, z, decision_towards(goal, goal.targets, clf.logits(z)))
    found = WorkingSet()(polytopes, x)
    assert found.solved.all()
    assert len(found.iterates) < 15


@pytest.mark.parametrize("name", ["dense", "resnet", "pooled"])
@pytest.mark.parametrize("capacity", [1, 6, 20])
def test_with_little_room_it_is_right_or_says_that_it_is_not(name, capacity):
    clf, x, z, decision = _problem(name)
    polytopes = Polytopes.at(clf, z, decision)
    full = WorkingSet()(polytopes, x)
    small = WorkingSet(added=3, capacity=capacity, rounds=200)(polytopes, x)
    few = WorkingSet(rounds=2)(polytopes, x)
    assert not few.solved.all()
    for found in (small, few):
        assert (found.lower <= full.lower * (1 + 1e-9)).all()
        assert (full.solved | ~found.solved).all()
        assert _close(found.lower[found.solved], full.lower[found.solved], 1e-7)
        assert _close(found.z[found.solved], full.z[found.solved], 1e-5)
        assert (full.infeasible | ~found.infeasible).all()
        # Unsolved points violate something.
        excess = polytopes.excess(found.z).amax(dim=1)
        assert (excess[~found.solved] > 0).all()
    if capacity == 20:
        assert small.solved.any()


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_agrees_to_its_rounding(name):
    clf, x, z, decision = _problem(name)
    exact = WorkingSet()(Polytopes.at(clf, z, decision), x)
    clf32, x32, z32, decision32 = _problem(name, dtype=torch.float32)
    polytopes = Polytopes.at(clf32, z32, decision32)
    same = (torch.stack([
        (a == b).flatten(1).all(dim=1)
        for a, b in zip(polytopes.pattern.pieces.values(),
                        Polytopes.at(clf, z).pattern.pieces.values(), strict=True)
    ])).all(dim=0) & (decision32 == decision).flatten(1).all(dim=1)  # fmt: skip
    assert same.sum() >= len(x) - 1
    found = WorkingSet(tolerance=1e-6)(polytopes, x32)
    assert torch.equal(found.infeasible[same], exact.infeasible[same])
    both = same & exact.solved
    assert found.z.dtype == torch.float32
    assert found.solved[both].all()
    assert _close(found.lower[both], exact.lower[both], 1e-4)
    assert _close(_lengths(found, x32)[both], exact.lower[both], 1e-4)


def test_a_network_without_units_is_a_projection_onto_a_plane():
    torch.manual_seed(0)
    clf = Classifier(nn.Linear(5, 2).double(), bounds=(-10.0, 10.0))
    x = torch.randn(4, 5, dtype=torch.float64)
    logits = clf.logits(x)
    labels = logits.argmax(dim=1)
    polytopes = Polytopes.at(clf, x, decision_towards(Misclassified(labels), 1 - labels, logits))
    found = WorkingSet()(polytopes, x)
    normal = clf.network.weight.detach().diff(dim=0).norm()
    assert _close(found.lower, logits.diff(dim=1).abs().squeeze(1) / normal, 1e-9)
