"""The published solver against the exact one, and the linear programs against a full one."""

from __future__ import annotations

import pytest
import torch

from elbowroom import L1, L2, Linf
from elbowroom.goals import Misclassified
from elbowroom.regions import Accelerated, LinearPrograms, Polytopes, WorkingSet, decision_towards
from elbowroom.sampling import SampleRng
from oracles.polytopes import NAMES, by_program, classifier, explicit, shape_of


def _problem(name, count=6, seed=0, reach=0.1, rival=1):
    clf, shape = classifier(name, seed), shape_of(name)
    generator = torch.Generator().manual_seed(seed + 1)
    x, noise = torch.rand(2, count, *shape, generator=generator, dtype=torch.float64)
    z = (x + reach * (2 * noise - 1)).clamp(0, 1)
    goal = Misclassified(clf.logits(x).argmax(dim=1))
    there = clf.logits(z).scatter(1, goal.labels[:, None], -torch.inf)
    classes = there.argsort(dim=1, descending=True)[:, rival - 1]
    return clf, x, Polytopes.at(clf, z, decision_towards(goal, classes, there)), z


@pytest.mark.parametrize("name", NAMES)
def test_many_steps_come_to_the_exact_answer(name):
    clf, x, polytopes, _ = _problem(name)
    exact = WorkingSet()(polytopes, x)
    feasible = exact.solved
    assert feasible.any()
    lower = torch.zeros(len(x), dtype=torch.float64)
    rng = SampleRng(0, range(len(x)))
    for steps in (10, 60):
        found = Accelerated(steps=steps)(polytopes, x, rng)
        assert (found.lower <= exact.lower * (1 + 1e-9)).all()
        # More steps never lose anything; what has converged can gain nothing.
        assert (found.lower >= lower * (1 - 1e-9)).all()
        assert (found.lower > lower).any()
        lower = found.lower
        assert torch.equal(clf.clamp(found.z), found.z)
    # The published factor makes small problems ill-conditioned; without it, 300 steps do.
    found = Accelerated(steps=300, decision_factor=1.0)(polytopes, x, rng)
    assert (found.lower <= exact.lower * (1 + 1e-9)).all()
    assert torch.allclose(found.lower[feasible], exact.lower[feasible], rtol=1e-2)
    lengths = (found.z - x).flatten(1).norm(dim=1)
    assert torch.allclose(lengths[feasible], exact.lower[feasible], rtol=5e-2)


def test_a_layer_sampled_in_zero_rows_only_still_counts():
    # One sampled row of a layer is an empty slot as often as not.
    _, x, polytopes, _ = _problem("pooled", count=1)
    exact = WorkingSet()(polytopes, x)
    for seed in range(6):
        solver = Accelerated(steps=250, decision_factor=1.0, sampled_rows=1)
        found = solver(polytopes, x, SampleRng(seed, [0]))
        assert torch.allclose(found.lower, exact.lower, rtol=1e-2)


def test_multipliers_are_a_first_guess_and_a_ceiling_ends_problems():
    clf, x, polytopes, _ = _problem("mlp")
    exact = WorkingSet()(polytopes, x)
    rng = SampleRng(0, range(len(x)))
    known = exact.solved
    warm = Accelerated(steps=1)(polytopes, x, rng, multipliers=exact.multipliers)
    assert torch.allclose(warm.lower[known], exact.lower[known], rtol=1e-6)
    before = clf.cost.jvp
    Accelerated(steps=100)(polytopes, x, rng)
    between = clf.cost.jvp
    early = Accelerated(steps=100)(polytopes, x, rng, ceiling=0.5 * exact.lower.clamp(max=10.0))
    assert (early.lower <= exact.lower * (1 + 1e-9)).all()
    assert (early.lower > 0.5 * exact.lower.clamp(max=10.0)).sum() >= len(x) // 2
    assert clf.cost.jvp - between < between - before


@pytest.mark.parametrize("name", ["mlp", "pooled"])
def test_results_belong_to_the_sample(name):
    _, x, polytopes, _ = _problem(name)
    solver = Accelerated(steps=50)
    together = solver(polytopes, x, SampleRng(3, range(len(x))))
    rows = torch.tensor([4, 1])
    some = solver(polytopes.take(rows), x[rows], SampleRng(3, rows.tolist()))
    assert torch.allclose(some.lower, together.lower[rows], rtol=1e-8)
    assert torch.allclose(some.z, together.z[rows], atol=1e-8)


@pytest.mark.parametrize("norm", [L1, Linf], ids=str)
@pytest.mark.parametrize(("name", "reach"), [(n, r) for n in NAMES for r in (0.1, 1.0)])
def test_linear_programs_equal_the_full_program(name, reach, norm):
    clf, x, polytopes, z = _problem(name, count=3, reach=reach, rival=2 if reach == 1.0 else 1)
    found = LinearPrograms(norm=norm)(polytopes, x)
    box = [v.expand(x.shape[1:]).flatten().numpy() for v in (clf.lower, clf.upper)]
    for i in range(len(x)):
        A, b = (v.numpy() for v in explicit(clf, z[i : i + 1], polytopes.decision[i]))
        optimum = by_program(x[i].flatten().numpy(), A, b, *box, norm.p)
        assert bool(found.infeasible[i]) == (optimum == float("inf"))
        assert bool(found.solved[i]) == (optimum < float("inf"))
        assert float(found.lower[i]) == pytest.approx(optimum, rel=1e-5, abs=1e-7)
        if bool(found.solved[i]):
            length = float(norm.length(found.z[i : i + 1] - x[i : i + 1]))
            assert length == pytest.approx(optimum, rel=1e-5, abs=1e-7)
    assert torch.equal(clf.clamp(found.z), found.z)


def test_linear_programs_refuse_l2():
    with pytest.raises(ValueError, match="WorkingSet"):
        LinearPrograms(norm=L2)
