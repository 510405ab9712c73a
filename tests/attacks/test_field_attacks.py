"""The strong minimal-norm attacks of the field: closed forms, independence of samples, settings."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from elbowroom import L1, L2, Classifier, Linf
from elbowroom.attacks import (
    APGD,
    FAB,
    FGS,
    FMN,
    LBFGS,
    PGD,
    Attack,
    BoundaryWalk,
    HotCold,
    IterativePerturbation,
    Transfer,
)
from elbowroom.goals import ClassifiedAs, Misclassified, SameLogits
from nets import make
from oracles.linear import distances, problem

# Attacks that end at the nearest boundary of a linear model, by the norms they work in.
MINIMAL: dict[str, Attack] = {
    "fmn l2": FMN(runner_ups=4),
    "boundary walk": BoundaryWalk(steps=150, start=FMN(runner_ups=4)),
    "iterative": IterativePerturbation(rule="value", norm=L2),
    "l-bfgs": LBFGS(search_steps=14),
    "fab": FAB(steps=40),
    "fab targeted": FAB(steps=40, runner_ups=4),
    "apgd targeted": APGD(
        eps=1.0, loss="dlr-targeted", steps=40, early_stop=False, radius_steps=10
    ),
    "apgd ce": APGD(eps=3.0, steps=60, early_stop=False, radius_steps=4),
}
# Numbers of classes, where not every one will do: what a loss needs, or where it leads.
CLASSES = {
    "apgd targeted": [5],
    "apgd ce": [2],
    "iterative": [2],
    "l-bfgs": [2],
    "l-bfgs margin": [2],
}
OTHER_NORMS: dict[str, Attack] = {
    "fmn l1": FMN(norm=L1, runner_ups=4),
    "boundary walk l1": BoundaryWalk(norm=L1),
    "boundary walk linf": BoundaryWalk(norm=Linf, start=FMN(norm=Linf, runner_ups=4)),
    "fab l1": FAB(norm=L1, steps=40),
    "fab linf": FAB(norm=Linf, steps=40, runner_ups=4),
    "fmn linf": FMN(norm=Linf, runner_ups=4, steps=400),
    "apgd linf": APGD(norm=Linf, eps=1.0, loss="dlr-targeted", early_stop=False, radius_steps=4),
}
# Small settings of each attack, for checks that do not ask for strength.
QUICK: dict[str, Attack] = {
    "fmn l1": FMN(norm=L1, steps=25),
    "fmn l2": FMN(steps=25),
    "fmn linf": FMN(norm=Linf, steps=25),
    "boundary walk l1": BoundaryWalk(norm=L1, steps=20),
    "boundary walk l2": BoundaryWalk(steps=20),
    "boundary walk linf": BoundaryWalk(norm=Linf, steps=20),
    "iterative": IterativePerturbation(steps=40),
    "iterative value": IterativePerturbation(rule="value", norm=L2, steps=80),
    "hot/cold": HotCold(),
    "l-bfgs": LBFGS(steps=8, search_steps=6),
    "l-bfgs cross-entropy": LBFGS(steps=8, search_steps=6, loss="cross-entropy"),
    "fab l2": FAB(steps=15, restarts=2),
    "fab l1": FAB(norm=L1, steps=15),
    "fab linf": FAB(norm=Linf, steps=15, candidates=1),
    "apgd ce": APGD(eps=1.5, steps=20, restarts=2, radius_steps=2),
    "apgd dlr": APGD(norm=Linf, eps=0.5, steps=20, loss="dlr", batch_size=4),
    "pgd": PGD(eps=1.5, steps=10, restarts=3, radius_steps=2, batch_size=5),
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
    for classes in CLASSES.get(name, [2, 5]):
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
    classes = CLASSES.get(name, [5])[0]
    clf, x, y = problem(3, 8, classes, dtype=torch.float32)
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


@pytest.mark.parametrize("early_stop", [True, False])
@pytest.mark.parametrize(
    "attack",
    [PGD(eps=1.0, steps=6), PGD(norm=Linf, eps=0.2, steps=4), APGD(eps=0.9, steps=8)],
    ids=["pgd l2", "pgd linf", "apgd"],
)
def test_restarts_do_not_depend_on_how_they_are_packed(attack, early_stop):
    clf, x, y = smooth_problem()
    reach = attack.norm.length(FMN(norm=attack.norm)(clf, x, y).adversarial - x)
    attack = replace(
        attack, eps=float(reach.median()) * 1.1, restarts=9, early_stop=early_stop,
        radius_steps=1,
    )  # fmt: skip
    results = [replace(attack, batch_size=size)(clf, x, y) for size in (None, 1, 4, 25, 1000)]
    assert results[0].success.any()
    for result in results[1:]:
        assert torch.equal(result.success, results[0].success)
        assert torch.allclose(result.adversarial, results[0].adversarial, atol=1e-9)


def test_many_restarts_run_in_full_batches():
    clf, x, y = smooth_problem()
    sizes = set()
    original = clf._forward
    clf._forward = lambda points: sizes.add(len(points)) or original(points)  # type: ignore[method-assign]
    attack = PGD.published_lra(1e-3, restarts=100, batch_size=50)
    result = replace(attack, steps=1)(clf, x, y)
    assert not result.success.any()
    assert sizes == {7, 50, 1}  # checks of all 7 samples, runs, and the check of independence


def test_successful_samples_get_no_further_restarts():
    clf, x, y = smooth_problem()
    far = PGD(eps=1e-4, steps=3, restarts=200, batch_size=20)(clf, x, y)
    near = PGD(eps=3.0, steps=3, restarts=200, batch_size=20)(clf, x, y)
    assert near.success.all()
    assert near.cost.backward < far.cost.backward / 10


def test_settings_of_the_papers():
    lra = PGD.published_lra(1.5, restarts=10_000, batch_size=512)
    assert (lra.norm, lra.eps, lra.steps, lra.step_size) == (L2, 1.5, 40, None)
    assert (lra.restarts, lra.rule, lra.early_stop, lra.batch_size) == (10_000, None, True, 512)
    linf, l2 = PGD.published_manifold(), PGD.published_manifold(L2)
    assert (linf.norm, linf.eps, l2.norm, l2.eps) == (Linf, 0.3, L2, 1.5)
    assert (l2.steps, l2.step_size, l2.restarts, l2.rule) == (40, 0.005, 5, "adam")


def test_dlr_does_not_feel_the_scale_of_the_logits():
    clf, x, y = smooth_problem()
    scaled = nn.Sequential(clf.network, nn.Linear(4, 4, bias=False).double())
    scaled[1].weight.data.copy_(1e4 * torch.eye(4))
    for loss in ("dlr", "dlr-targeted"):
        attack = APGD(eps=1.0, loss=loss, steps=15)
        plain, steep = attack(clf, x, y), attack(Classifier(scaled), x, y)
        assert torch.allclose(plain.distance, steep.distance, rtol=1e-6)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FMN(gamma=1.0), "gamma must lie between 0 and 1"),
        (lambda: FMN(step_size=0.0), "step_size must be positive"),
        (lambda: FMN(steps=0), "steps must be"),
        (lambda: APGD(eps=1.0, loss="margin"), "loss must be"),
        (lambda: APGD(eps=1.0, targets=0), "targets must be"),
        (lambda: APGD(eps=1.0, norm=L1), "APGD works in L2 and Linf"),
        (lambda: BoundaryWalk(overshoot=1.0), "overshoot must lie"),
        (lambda: BoundaryWalk(restarts=0), "restarts must be"),
        (lambda: IterativePerturbation(rule="both"), "rule must be"),
        (lambda: IterativePerturbation(growth=0.9), "growth must be"),
        (lambda: IterativePerturbation(step_size=-1.0), "step_size must be"),
        (lambda: HotCold(runner_ups=0), "runner_ups must be"),
        (lambda: HotCold(max_length=0.0), "max_length must be"),
        (lambda: LBFGS(norm=Linf), "works in L2"),
        (lambda: LBFGS(memory=0), "memory must be"),
        (lambda: LBFGS(loss="hinge"), "loss must be"),
        (lambda: LBFGS(first_constant=0.0), "first_constant must be"),
        (lambda: FAB(backward=1.5), "backward must lie"),
        (lambda: FAB(alpha_max=-0.1), "alpha_max must lie"),
        (lambda: FAB(candidates=0), "candidates must be"),
        (lambda: PGD(eps=1.0, batch_size=0), "batch_size must be"),
        (lambda: PGD(eps=1.0, step_size=-1.0), "step_size must be"),
        (lambda: PGD(eps=1.0, rule="newton"), "rule must be"),
    ],
)
def test_settings_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_dlr_names_the_classes_it_needs():
    clf, x, y = problem(1, 2, classes=2)
    with pytest.raises(ValueError, match="needs 3 classes"):
        APGD(eps=1.0, loss="dlr")(clf, x, y)


def test_a_boundary_walk_starts_from_the_points_it_is_given():
    clf, x, y = smooth_problem()
    pool = torch.rand(40, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(8))
    goal = ClassifiedAs(torch.where(y == 0, 3, 0))
    decided = clf.logits(pool).argmax(dim=1)
    assert set(goal.targets.tolist()) <= set(decided.tolist())
    walk = BoundaryWalk(pool=pool, steps=60, restarts=2)
    result = walk(clf, x, y, goal=goal)
    assert result.success.all()
    for i in range(len(x)):
        straight = L2.length(pool[decided == goal.targets[i]] - x[i]).min()
        assert result.distance[i] <= straight


def test_a_boundary_walk_does_not_depend_on_the_gradient_at_the_sample():
    class Plateau(nn.Module):
        """No gradient within 0.6 of the origin; the boundary is the sphere of radius 0.8."""

        def forward(self, x):
            z = (x.square().sum(dim=1, keepdim=True).clamp(min=1e-12).sqrt() - 0.6).clamp(min=0)
            return torch.cat([torch.full_like(z, 0.2) + 0 * x[:, :1], z], dim=1)

    clf = Classifier(Plateau().double(), bounds=(-1.0, 1.0), dtype=torch.float64)
    x = 0.2 * torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    result = BoundaryWalk(steps=100)(clf, x)
    assert result.success.all()
    assert torch.allclose(result.distance, 0.8 - L2.length(x), rtol=1e-2)


def test_hot_cold_follows_its_vector_to_the_boundary():
    clf, x, y = problem(1, 8, classes=4)
    logits = clf.logits(x)
    hot = logits.scatter(1, y[:, None], -torch.inf).argmax(dim=1)
    weight = clf.network.linear.weight.detach()
    rows = torch.arange(8)
    # Eq. 2.9 by hand, with the sign that cools the cold class.
    omega = torch.zeros_like(logits)
    omega[rows, hot] = logits[rows, hot].abs()
    omega[rows, y] = -logits[rows, y].abs()
    direction = L2.steepest(omega @ weight)
    moved = HotCold()(clf, x, y)
    assert moved.success.any()
    for i in moved.success.nonzero().flatten():
        step = moved.adversarial[i] - x[i]
        assert torch.allclose(step / step.norm(), direction[i], atol=1e-6)
        gaps = (weight[y[i]] - weight) @ direction[i]
        cross = (logits[i, y[i]] - logits[i]) / -gaps
        first = cross[(gaps < 0) & (rows[:4] != y[i])].min()
        assert moved.distance[i] == pytest.approx(float(first), rel=1e-5)


def test_attacks_on_classes_refuse_other_goals():
    clf, x, y = smooth_problem()
    goal = SameLogits(clf.logits(x), torch.full((7,), 1e-3, dtype=torch.float64))
    for attack in (FAB(steps=1), HotCold()):
        with pytest.raises(ValueError, match="cannot aim at SameLogits"):
            attack(clf, x, y, goal=goal)


def test_the_path_of_repeated_perturbations_goes_back_and_forth():
    clf, x, y = smooth_problem()
    images = list(IterativePerturbation().path(clf, x, count=4))
    assert len(images) == 5
    assert torch.equal(images[0], x)
    decisions = torch.stack([clf.logits(image).argmax(dim=1) for image in images])
    moved = torch.stack([L2.length(b - a) for a, b in pairwise(images)])
    assert torch.equal(decisions[0], y)
    # Every image is an adversarial perturbation of the one before, if it differs from it at all.
    assert torch.equal(decisions[1:] != decisions[:-1], moved > 0)
    # The first step reaches a boundary, the others only cross it (Bounds thesis, section 2.7).
    crossed = (moved > 0).all(dim=0)
    assert crossed.any()
    assert (moved[1:, crossed] < 0.5 * moved[0, crossed]).all()
    first = FGS()(clf, x).adversarial
    assert torch.equal(images[1], torch.where((moved[0] > 0)[:, None, None, None], first, x))


def test_growing_steps_cover_any_distance():
    clf, x, y = problem(1, 6, classes=2)
    tiny = IterativePerturbation(rule="value", norm=L2, step_size=1e-4, growth=1.5, steps=60)
    fixed = IterativePerturbation(rule="value", norm=L2, step_size=1e-4, growth=1.0, steps=60)
    assert tiny(clf, x, y).success.all()
    assert not fixed(clf, x, y).success.all()


def test_transfer_moves_from_the_surrogate_to_the_target():
    clf, x, y = smooth_problem()
    same = Transfer(attack=FMN(steps=30), surrogate=clf)(clf, x, y)
    direct = FMN(steps=30)(clf, x, y)
    assert torch.equal(same.success, direct.success)
    assert torch.allclose(same.distance, direct.distance, rtol=1e-4)
    torch.manual_seed(11)
    other = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).double())
    attack = PGD(eps=4.0, early_stop=False, line_search_steps=0)
    moved = Transfer(attack=attack, surrogate=other, stretch=2.0)(clf, x, y)
    decided = clf.logits(moved.adversarial).argmax(dim=1)
    assert torch.equal(decided != y, moved.success)
    # No gradient of the target was asked for: all backward passes are the surrogate's.
    made = attack(other, x, goal=Misclassified(y))
    assert moved.cost.backward == made.cost.backward
    assert moved.cost.forward > made.cost.forward
    with pytest.raises(ValueError, match="the transfer in L2"):
        Transfer(attack=PGD(norm=Linf, eps=0.1), surrogate=other)
    with pytest.raises(ValueError, match="stretch must be"):
        Transfer(attack=FMN(), surrogate=other, stretch=0.5)
    randomised = Transfer(attack=PGD(eps=0.5, steps=3), surrogate=other)
    alone = randomised(clf, x[3:4], y[3:4], indices=[3])
    together = randomised(clf, x, y)
    assert torch.allclose(alone.adversarial, together.adversarial[3:4])
