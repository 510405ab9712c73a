"""The strong minimal-norm attacks of the field: closed forms, independence of samples, settings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from elbowroom import L1, Classifier, Linf
from elbowroom.attacks import FMN, Attack
from elbowroom.goals import ClassifiedAs, Misclassified
from nets import make
from oracles.linear import distances, problem

#: Attacks that end at the nearest boundary of a linear model, by the norms they work in.
MINIMAL: dict[str, Attack] = {
    "fmn l2": FMN(runner_ups=4),
}
OTHER_NORMS: dict[str, Attack] = {
    "fmn l1": FMN(norm=L1, runner_ups=4),
    "fmn linf": FMN(norm=Linf, runner_ups=4, steps=400),
}
#: Small settings of each attack, for checks that do not ask for strength.
QUICK: dict[str, Attack] = {
    "fmn l1": FMN(norm=L1, steps=25),
    "fmn l2": FMN(steps=25),
    "fmn linf": FMN(norm=Linf, steps=25),
}


def smooth_problem(dtype=torch.float64):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 10), nn.Tanh(), nn.Linear(10, 4)).to(dtype)
    x = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(6), dtype=dtype)
    clf = Classifier(model)
    return clf, x, clf.logits(x).argmax(dim=1)


@pytest.mark.parametrize("name", MINIMAL)
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 8])
def test_the_nearest_boundary_of_a_linear_model(name, rank, batch):
    for classes in (2, 5):
        clf, x, y = problem(rank, batch, classes)
        expected = distances(clf, x, y).amin(dim=1)
        result = MINIMAL[name](clf, x, y)
        assert result.success.all()
        assert torch.allclose(result.distance, expected, rtol=1e-3)
        assert (result.distance >= expected * (1 - 1e-12)).all()


@pytest.mark.parametrize("name", OTHER_NORMS)
def test_the_nearest_boundary_in_other_norms(name):
    attack = OTHER_NORMS[name]
    # Wide bounds: the closed form knows no box, and L1 moves single features far.
    clf, x, y = problem(2, 8, classes=5)
    clf = Classifier(clf.network, bounds=(-20.0, 20.0))
    expected = distances(clf, x, y, attack.norm).amin(dim=1)
    result = attack(clf, x, y)
    assert result.success.all()
    assert torch.allclose(result.distance, expected, rtol=1e-2)


@pytest.mark.parametrize("name", MINIMAL)
def test_single_precision_finds_the_same_distances(name):
    clf, x, y = problem(3, 8, classes=5, dtype=torch.float32)
    expected = distances(clf, x, y).amin(dim=1)
    clf.network.float()
    assert torch.allclose(MINIMAL[name](clf, x, y).distance, expected, rtol=1e-3)


@pytest.mark.parametrize("name", QUICK)
def test_a_sample_does_not_see_its_neighbours(name):
    clf, x, y = smooth_problem()
    together = QUICK[name](clf, x, y)
    assert together.success.any()
    order = torch.tensor([4, 2, 0])
    apart = QUICK[name](clf, x[order], y[order], indices=order.tolist())
    assert torch.equal(apart.success, together.success[order])
    assert torch.allclose(apart.distance, together.distance[order], rtol=1e-8)
    alone = QUICK[name](clf, x[5:6], y[5:6], indices=[5])
    assert torch.allclose(alone.distance, together.distance[5:6], rtol=1e-8)


@pytest.mark.parametrize("name", QUICK)
def test_a_target_class_is_reached(name):
    model, shape = make("mlp", seed=3)
    clf = Classifier(model)
    x = torch.rand(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    y = clf.logits(x).argmax(dim=1)
    anything = QUICK[name](clf, x, y)
    for shift in (1, 2):
        goal = ClassifiedAs((y + shift) % 3)
        result = QUICK[name](clf, x, y, goal=goal)
        decided = clf.logits(result.adversarial).argmax(dim=1)
        assert torch.equal(decided == goal.targets, result.success)
        assert result.success.any()
        assert (result.adversarial >= 0).all()
        assert (result.adversarial <= 1).all()
    assert anything.success.any()


@pytest.mark.parametrize("name", QUICK)
def test_smooth_networks_in_single_precision(name):
    clf, x, y = smooth_problem(torch.float32)
    result = QUICK[name](clf, x, y)
    assert result.adversarial.dtype == torch.float32
    assert torch.equal(Misclassified(y).met(clf.logits(result.adversarial)), result.success)
    assert result.success.any()


@pytest.mark.parametrize("name", QUICK)
def test_inputs_without_a_box(name):
    clf, x, _ = smooth_problem()
    free = Classifier(clf.network, bounds=(-torch.inf, torch.inf))
    result = QUICK[name](free, 3 * x - 1)
    assert result.adversarial.isfinite().all()
    assert result.success.any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FMN(gamma=1.0), "gamma must lie between 0 and 1"),
        (lambda: FMN(step_size=0.0), "step_size must be positive"),
        (lambda: FMN(steps=0), "steps must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
