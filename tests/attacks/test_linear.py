"""On linear classifiers the minimal perturbation is known in closed form."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from elbowroom import L2, Linf
from elbowroom.attacks import DDN, FGS, FGV, PGD, CarliniWagner, DeepFool
from elbowroom.goals import ClassifiedAs
from oracles.linear import distances, problem

TWO_CLASSES = {
    "fgv": FGV(),
    "pgd": PGD(eps=3.0, early_stop=False),
    "deepfool": DeepFool(),
    "ddn": DDN(),
    "ddn cross-entropy": DDN(loss="cross-entropy"),
    "carlini-wagner": CarliniWagner(steps=150, search_steps=4),
}
MINIMAL = {
    "deepfool": DeepFool(),
    "ddn": DDN(runner_ups=4),
    "carlini-wagner": CarliniWagner(steps=150, search_steps=4, runner_ups=4),
}
BATCHES, RANKS = [1, 3, 8], [1, 2, 3]


@pytest.mark.parametrize("name", TWO_CLASSES)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("batch", BATCHES)
def test_l2_attacks_on_two_classes(name, rank, batch):
    clf, x, y = problem(rank, batch, classes=2)
    expected = distances(clf, x, y).amin(dim=1)
    result = TWO_CLASSES[name](clf, x, y)
    assert result.success.all()
    assert torch.allclose(result.distance, expected, rtol=1e-3)
    assert (result.distance >= expected * (1 - 1e-12)).all()


@pytest.mark.parametrize("name", MINIMAL)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("batch", BATCHES)
def test_minimal_norm_attacks_on_five_classes(name, rank, batch):
    clf, x, y = problem(rank, batch, classes=5)
    expected = distances(clf, x, y).amin(dim=1)
    result = MINIMAL[name](clf, x, y)
    assert torch.allclose(result.distance, expected, rtol=1e-3)
    assert (clf.logits(result.adversarial).argmax(dim=1) != y).all()


@pytest.mark.parametrize("name", ["deepfool", "ddn", "carlini-wagner"])
def test_targeted_attacks_reach_their_class(name):
    attack = TWO_CLASSES[name]
    clf, x, y = problem(1, 8, classes=3)
    target = (y + 1) % 3
    result = attack(clf, x, y, goal=ClassifiedAs(target))
    assert result.success.all()
    assert (clf.logits(result.adversarial).argmax(dim=1) == target).all()
    # The nearest point of the target class is never nearer than its boundary with y.
    lower = distances(clf, x, y)[torch.arange(8), target]
    assert (result.distance >= lower * (1 - 1e-12)).all()


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("attack", [FGS(), FGV()], ids=["fgs", "fgv"])
def test_fast_gradient_stops_at_the_crossing_along_its_direction(attack, rank, batch):
    clf, x, y = problem(rank, batch, classes=5)
    points = x.clone().requires_grad_()
    logits = clf.network(points)
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), points)
    direction = gradient.sign() if isinstance(attack, FGS) else L2.steepest(gradient)
    slope = clf.network.linear(direction.flatten(1)) - clf.network.linear.bias
    gap = logits.gather(1, y[:, None]) - logits
    closing = slope - slope.gather(1, y[:, None])
    eps = torch.where(closing > 1e-12, gap / closing, torch.inf).amin(dim=1).detach()
    result = attack(clf, x, y)
    expected = (Linf if isinstance(attack, FGS) else L2).length(direction) * eps
    assert torch.allclose(result.distance, expected, rtol=1e-5)


def test_fgs_is_minimal_in_linf_on_two_classes():
    clf, x, y = problem(1, 8, classes=2)
    expected = distances(clf, x, y, Linf).amin(dim=1)
    assert torch.allclose(FGS()(clf, x, y).distance, expected, rtol=1e-4)
    pgd = PGD(norm=Linf, eps=2.0, early_stop=False)(clf, x, y)
    assert torch.allclose(pgd.distance, expected, rtol=1e-3)
    deepfool = DeepFool(norm=Linf)(clf, x, y)
    assert torch.allclose(deepfool.distance, expected, rtol=1e-3)


def test_float32_finds_the_same_distances():
    clf, x, y = problem(3, 8, classes=5, dtype=torch.float32)
    expected = distances(clf, x, y).amin(dim=1)
    clf.network.float()
    for attack in MINIMAL.values():
        assert torch.allclose(attack(clf, x, y).distance, expected, rtol=1e-3)
