"""What every attack owes its caller, and what each of them is for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from elbowroom import L2, Classifier, Linf
from elbowroom.attacks import (
    APGD,
    ATTACKS,
    DDN,
    FAB,
    FGS,
    FGV,
    FMN,
    LBFGS,
    PGD,
    Attack,
    BoundaryWalk,
    CarliniWagner,
    Closest,
    DeepFool,
    HotCold,
    IterativePerturbation,
    LinearRegion,
)
from elbowroom.attacks.line_search import nearest_crossing, shorten
from elbowroom.attacks.pgd import uniform_in_distance
from elbowroom.goals import ClassifiedAs, Misclassified, SameLogits
from elbowroom.sampling import SampleRng
from nets import make

EVERY: list[Attack] = [
    FGS(), FGV(), PGD(eps=2.0, steps=10), PGD(norm=Linf, eps=0.4, steps=10), DeepFool(steps=10),
    DDN(steps=20), CarliniWagner(steps=80, search_steps=3),
    FMN(steps=20), APGD(eps=2.0, steps=10), FAB(steps=10),
    BoundaryWalk(steps=20, restarts=2), IterativePerturbation(), HotCold(runner_ups=2),
    LBFGS(steps=10, search_steps=5), LinearRegion(starts=2, regions=2),
    LinearRegion(norm=Linf, starts=1, regions=1), Closest(budget=500),
    Closest(norm=Linf, budget=200),
]  # fmt: skip


def _problem():
    model, shape = make("mlp", seed=3)
    clf = Classifier(model)
    x = torch.rand(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return clf, x, clf.logits(x).argmax(dim=1)


@pytest.mark.parametrize("attack", EVERY, ids=lambda a: f"{type(a).__name__}-{a.norm}")
def test_results_hold_when_checked_by_hand(attack):
    clf, x, y = _problem()
    result = attack(clf, x, y)
    decided = clf.logits(result.adversarial).argmax(dim=1)
    assert torch.equal(result.success, decided != y)
    assert result.success.any()
    length = attack.norm.length(result.adversarial - x)
    assert torch.allclose(result.distance[result.success], length[result.success])
    assert torch.isinf(result.distance[~result.success]).all()
    assert (result.adversarial >= 0).all()
    assert (result.adversarial <= 1).all()
    assert result.cost.forward > 0
    assert result.cost.seconds > 0


@pytest.mark.parametrize("attack", EVERY, ids=lambda a: f"{type(a).__name__}-{a.norm}")
def test_samples_that_meet_the_goal_already_have_distance_zero(attack):
    clf, x, y = _problem()
    wrong = (y + 1) % 3
    result = attack(clf, x, wrong)
    assert (result.distance == 0).all()
    assert torch.equal(result.adversarial, x)


@pytest.mark.parametrize("attack", EVERY, ids=lambda a: f"{type(a).__name__}-{a.norm}")
def test_an_unreachable_goal_fails_honestly(attack):
    constant = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    constant[1].weight.data.zero_()
    constant[1].bias.data.copy_(torch.tensor([1.0, 0.0]))
    x = torch.rand(3, 4)
    result = attack(Classifier(constant), x, torch.zeros(3, dtype=torch.int64))
    assert not result.success.any()
    assert torch.isinf(result.distance).all()
    assert result.adversarial.isfinite().all()


def test_the_line_search_only_shortens():
    clf, x, y = _problem()
    long = PGD(eps=3.0, steps=10, line_search_steps=0)(clf, x, y)
    goal = Misclassified(y)
    short = shorten(clf, x, long.adversarial, goal, steps=30)
    met = goal.met(clf.logits(short))
    assert torch.equal(met, long.success)
    assert (L2.length(short - x)[met] <= L2.length(long.adversarial - x)[met] + 1e-12).all()
    # Just inside of the point found, the goal is not met any more.
    inside = x + (short - x) * (1 - 1e-6)
    assert not goal.met(clf.logits(inside))[met].any()


def test_the_nearest_crossing_is_found_where_the_line_leaves_the_class_again():
    class Band(nn.Module):
        def forward(self, x):
            return torch.cat([torch.zeros_like(x), 0.45 - (x - 0.3).abs()], dim=1)

    clf = Classifier(Band(), bounds=(-20.0, 20.0))
    x = torch.tensor([[-0.9]])
    y = clf.logits(x).argmax(dim=1)
    found = nearest_crossing(clf, x, torch.ones(1, 1), torch.tensor([12.8]), Misclassified(y))
    # The other class holds for -0.15 < x < 0.75: farther along, the old one is back.
    assert clf.logits(found).argmax(dim=1) != y
    assert float(found) == pytest.approx(-0.15, abs=1e-4)


def test_pgd_stays_in_its_ball_and_restarts_help():
    clf, x, y = _problem()
    for norm, eps in ((L2, 0.7), (Linf, 0.1)):
        once = PGD(norm=norm, eps=eps, steps=3, line_search_steps=0)(clf, x, y)
        often = PGD(norm=norm, eps=eps, steps=3, restarts=10, line_search_steps=0)(clf, x, y)
        assert (norm.length(often.adversarial - x) <= eps * (1 + 1e-9)).all()
        assert (often.success >= once.success).all()
        assert often.cost.forward > once.cost.forward


def test_a_radius_search_finds_nearer_examples():
    clf, x, y = _problem()
    wide = PGD(eps=3.0, steps=15)(clf, x, y)
    searched = PGD(eps=3.0, steps=15, radius_steps=6)(clf, x, y)
    assert searched.success.all()
    assert (searched.distance <= wide.distance + 1e-12).all()
    assert float(searched.distance.mean()) < 0.9 * float(wide.distance.mean())


def test_starts_are_uniform_in_distance():
    x = torch.zeros(2000, 3)
    radius = torch.full((2000,), 2.0)
    for norm in (L2, Linf):
        lengths = norm.length(uniform_in_distance(x, norm, radius, SampleRng(0, range(2000))))
        assert float(lengths.max()) <= 2.0 + 1e-6
        quarters = torch.histc(lengths.float(), bins=4, min=0, max=2)
        assert (quarters / 2000 - 0.25).abs().max() < 0.04


def test_running_towards_several_classes_never_hurts():
    clf, x, y = _problem()
    one = DDN(steps=30, runner_ups=1)(clf, x, y).distance
    two = DDN(steps=30, runner_ups=2)(clf, x, y).distance
    assert (two <= one + 1e-12).all()


def test_randomness_is_seeded():
    clf, x, y = _problem()
    first, again, other = (PGD(eps=0.5, steps=2, seed=s)(clf, x, y).adversarial for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_wrong_settings_are_refused():
    clf, x, y = _problem()
    for make_attack, message in (
        (lambda: PGD(eps=0.0), "eps must be positive"),
        (lambda: DDN(norm=Linf), "works in L2"),
        (lambda: CarliniWagner(norm=Linf), "works in L2"),
    ):
        with pytest.raises(ValueError, match=message):
            make_attack()
    with pytest.raises(ValueError, match="2 indices for 6 samples"):
        FGS()(clf, x, y, indices=[1, 2])
    with pytest.raises(ValueError, match="has its own target"):
        DDN(runner_ups=2)(clf, x, y, goal=ClassifiedAs((y + 1) % 3))
    same = SameLogits(clf.logits(x), torch.full((6,), 1e-3, dtype=torch.float64))
    with pytest.raises(ValueError, match="cannot aim at SameLogits"):
        DeepFool()(clf, x, y, goal=same)


def test_every_attack_is_registered_under_a_name():
    assert {type(attack) for attack in EVERY} == set(ATTACKS.values())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DDN(steps=0), "steps must be an integer of at least 1, not 0"),
        (lambda: DeepFool(steps=-5), "steps must be"),
        (lambda: CarliniWagner(steps="abc"), "not 'abc'"),
        (lambda: DDN(gamma=-1.0), "gamma must lie between 0 and 1"),
        (lambda: PGD(eps=float("inf")), "positive and finite"),
        (lambda: PGD(eps=1.0, restarts=0), "restarts must be"),
        (lambda: FGS(seed=-1), "seed must be an integer of at least 0"),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_radius_that_is_too_small_grows():
    clf, x, y = _problem()
    tiny = PGD(eps=1e-3, steps=15, radius_steps=14)(clf, x, y)
    assert tiny.success.all()


def test_a_model_without_gradients_is_named():
    class Detached(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :3].detach()

    with pytest.raises(ValueError, match="carry no gradient"):
        FGV()(Classifier(Detached()), torch.rand(2, 1, 2, 2))


def test_restarts_of_one_sample_do_not_shift_the_randomness_of_another():
    clf, x, y = _problem()
    reach = DDN()(clf, x, y).distance
    # Some samples succeed within this radius at once, others never do.
    attack = PGD(eps=float(reach.median()) * 1.05, steps=5, restarts=4, radius_steps=2)
    together = attack(clf, x, y)
    for i in range(len(x)):
        alone = attack(clf, x[i : i + 1], y[i : i + 1], indices=[i])
        assert torch.allclose(alone.distance, together.distance[i : i + 1], rtol=1e-8)
        assert torch.allclose(alone.adversarial, together.adversarial[i : i + 1], atol=1e-8)
