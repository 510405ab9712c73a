"""NSPGD: closed forms on linear models, and what must hold on every network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize
from torch import nn

from elbowroom import L2, Classifier, Linf
from elbowroom.invariance.confidence import confidence, log_odds
from elbowroom.invariance.nspgd import NSPGD
from nets import make
from oracles.linear import problem


class Length:
    """The L2 distance, as a perceptual distance."""

    name = "length"

    def __call__(self, x, y):
        return L2.length(x - y)


def network(name: str, dtype=torch.float64, count: int = 6):
    """A network with some contrast, and pairs of inputs with features at the box's bounds."""
    model, shape = make(name, seed=1)
    with torch.no_grad():
        head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
        head.weight *= 5
    generator = torch.Generator().manual_seed(0)
    images = 1.6 * torch.rand(2, count, *shape, generator=generator, dtype=torch.float64) - 0.3
    start, toward = images.clamp(0, 1).to(dtype)
    return Classifier(model, dtype=dtype), start, toward


# -- the gradient ---------------------------------------------------------------------------------


def test_log_odds_have_the_gradient_direction_of_the_confidence():
    logits = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(7) % 5
    odds = log_odds(classes)
    p = confidence(logits, classes)
    torch.testing.assert_close(odds(logits), (p / (1 - p)).log())
    one, other = (
        torch.func.grad(lambda z: odds(z).sum()),
        torch.func.grad(lambda z: confidence(z, classes).sum()),
    )
    torch.testing.assert_close(other(logits), (p * (1 - p))[:, None] * one(logits))


def test_log_odds_keep_their_gradient_where_float32_softmax_saturates():
    logits = torch.tensor([[60.0, 1.0, 0.5], [-200.0, 30.0, 31.0]])
    classes = torch.tensor([0, 0])
    gradient = torch.func.grad(lambda z: log_odds(classes)(z).sum())(logits)
    exact = torch.func.grad(lambda z: log_odds(classes)(z).sum())(logits.double())
    torch.testing.assert_close(gradient.double(), exact, rtol=1e-5, atol=0)
    assert gradient.sum(dim=1).abs().max() < 1e-6
    assert (gradient[:, 0] == 1).all()
    plain = torch.func.grad(lambda z: z.softmax(dim=1)[:, 0].sum())(logits)
    assert plain[0, 0] == 0
    assert (plain[1] == 0).all()
    logarithm = torch.func.grad(lambda z: z.log_softmax(dim=1)[:, 0].sum())(logits)
    assert logarithm[0, 0] == 0


# -- linear models --------------------------------------------------------------------------------


def linear_pairs(classes: int, rank: int = 2):
    clf, start, y = problem(rank, 8, classes=classes)
    toward = start.flip(0) * 0.8
    return clf, start, toward, y


def normal(clf, y):
    """Of two classes, the direction in which the confidence in `y` grows."""
    weight = clf.network.linear.weight.detach()
    return weight[y] - weight[1 - y]


@pytest.mark.parametrize("box", ["project", "clamp"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_on_two_classes_the_walk_ends_at_the_projection_onto_the_hyperplane(rank, box):
    clf, start, toward, y = linear_pairs(2, rank)
    w = normal(clf, y)
    gap = ((toward - start).flatten(1) * w).sum(dim=1) / w.square().sum(dim=1)
    nearest = toward - (gap[:, None] * w).view_as(toward)
    result = NSPGD(two_sided=True, box=box, path_every=1)(clf, start=start, toward=toward)
    torch.testing.assert_close(result.example, nearest)
    torch.testing.assert_close(result.distance, gap.abs() * w.norm(dim=1))
    for point in result.path:
        torch.testing.assert_close(confidence(clf.logits(point), y), result.confidence_start)
    walked = (L2.length(nearest - start) / 0.01).ceil().long()
    assert ((result.steps - walked).abs() <= 1).all()


def test_one_sided_follows_a_rising_confidence_all_the_way():
    clf, start, toward, y = linear_pairs(2)
    w = normal(clf, y)
    # Every other target lies on the side where the confidence is higher.
    toward[::2] = (1.5 * start - 0.5 * toward)[::2]
    slope = ((toward - start).flatten(1) * w).sum(dim=1)
    result = NSPGD(path_every=7)(clf, start=start, toward=toward)
    rising = slope > 0
    assert rising.any()
    assert (~rising).any()
    assert (result.distance[rising] < 1e-12).all()
    path = torch.stack([confidence(clf.logits(point), y) for point in result.path])
    assert (path.diff(dim=0) > -1e-12).all()
    missed = (slope.abs() / w.norm(dim=1))[~rising]
    torch.testing.assert_close(result.distance[~rising], missed)


@pytest.mark.parametrize("sides", [True, False])
def test_in_an_active_box_the_walk_ends_at_the_nearest_allowed_point(sides):
    clf, start, toward, y = linear_pairs(2)
    clf = Classifier(clf.network, bounds=(-0.75, 0.75))
    start, toward = start.clamp(-0.75, 0.75), toward.clamp(-0.75, 0.75)
    y = clf.logits(start).argmax(dim=1)
    w = normal(clf, y)
    result = NSPGD(two_sided=sides, path_every=1)(clf, start=start, toward=toward)
    for n in range(len(start)):
        s, t, row = (v.flatten().numpy() for v in (start[n], toward[n], w[n]))
        oracle = minimize(
            lambda z, t=t: 0.5 * np.sum((z - t) ** 2), s, jac=lambda z, t=t: z - t,
            bounds=[(-0.75, 0.75)] * len(s), method="SLSQP",
            constraints=LinearConstraint(row, row @ s, row @ s if sides else np.inf),
            options={"ftol": 1e-14, "maxiter": 500},
        )  # fmt: skip
        assert result.distance[n] == pytest.approx(np.linalg.norm(oracle.x - t), abs=1e-6)
    for point in result.path:
        assert (point.abs() <= 0.75).all()
        assert (confidence(clf.logits(point), y) >= result.confidence_start - 1e-12).all()


def one_step_errors(box: str, step: float, bound: float):
    clf, start, toward, _ = linear_pairs(4)
    clf = Classifier(clf.network, bounds=(-bound, bound))
    start, toward = start.clamp(-bound, bound), toward.clamp(-bound, bound)
    walk = NSPGD(two_sided=True, box=box, step=step, steps=1, confidence_drop=0.9)
    found = walk(clf, start=start, toward=toward)
    assert (found.steps == 1).all()
    return (found.confidence - found.confidence_start).abs()


@pytest.mark.parametrize(("box", "bound"), [("project", 6.0), ("clamp", 6.0), ("project", 0.75)])
def test_a_step_keeps_the_confidence_to_second_order(box, bound):
    large, small = (one_step_errors(box, step, bound) for step in (4e-3, 4e-4))
    assert large.max() > 1e-8
    assert torch.allclose(large / small, torch.full_like(large, 100.0), rtol=0.1)


def test_clamping_spoils_the_projection_where_features_are_at_their_bounds():
    large, small = (one_step_errors("clamp", step, 0.75) for step in (4e-3, 4e-4))
    ratio = large / small
    first_order = (ratio - 10).abs() < 2
    assert first_order.sum() >= 4
    assert ((ratio - 100).abs() < 10)[~first_order].all()


def test_without_a_gradient_the_walk_goes_straight_to_the_end_and_not_beyond():
    clf, start, toward, _ = linear_pairs(3)
    with torch.no_grad():
        clf.network.linear.weight.zero_()
    result = NSPGD(step=0.3, path_every=1)(clf, start=start, toward=toward)
    assert (result.distance < 1e-13).all()
    length = L2.length(toward - start)
    assert torch.equal(result.steps, (length / 0.3).ceil().long())
    after = L2.length(result.path.flatten(0, 1) - toward.repeat(len(result.path), 1, 1))
    expected = (length - 0.3 * torch.arange(len(result.path)).double()[:, None]).clamp(min=0)
    torch.testing.assert_close(after.view_as(expected), expected)


def test_a_pair_that_is_equal_already_takes_no_step():
    clf, start, _, _ = linear_pairs(3)
    result = NSPGD(path_every=1)(clf, start=start, toward=start)
    assert torch.equal(result.example, start)
    assert (result.steps == 0).all()
    assert len(result.path) == 1


# -- networks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", ["project", "clamp"])
@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_what_holds_on_every_network(name, box, dtype):
    clf, start, toward = network(name, dtype)
    attack = NSPGD(step=0.05, steps=120, box=box, path_every=1, confidence_drop=0.02)
    result = attack(clf, start=start, toward=toward)
    y = clf.logits(start).argmax(dim=1)
    torch.testing.assert_close(result.confidence_start, confidence(clf.logits(start), y))
    torch.testing.assert_close(result.confidence, confidence(clf.logits(result.example), y))
    assert result.example.dtype == dtype
    assert torch.equal(result.path[0], start)
    assert torch.equal(result.path[-1], result.example)
    tolerance = 10 * torch.finfo(dtype).eps
    for before, after in zip(result.path[:-1], result.path[1:], strict=True):
        assert ((after >= 0) & (after <= 1)).all()
        assert (L2.length(after - before) <= 0.05 * (1 + 1e3 * tolerance)).all()
        assert (L2.length(after - toward) <= L2.length(before - toward) + tolerance).all()
        found = confidence(clf.logits(after), y)
        assert (found >= result.confidence_start - 0.02).all()
    move = result.example.double() - toward.double()
    torch.testing.assert_close(result.distance, L2.length(move))
    torch.testing.assert_close(result.distance_linf, Linf.length(move))
    assert (result.distance < L2.length(start - toward)).any()
    assert result.cost.backward > 0


def test_every_sample_stops_on_its_own():
    clf, start, toward = network("resnet")
    attack = NSPGD(step=0.05, steps=120, confidence_drop=0.02, path_every=10)
    together = attack(clf, start=start, toward=toward)
    assert len(together.steps.unique()) > 2
    for n in range(len(start)):
        alone = attack(clf, start=start[n : n + 1], toward=toward[n : n + 1])
        assert alone.steps[0] == together.steps[n]
        torch.testing.assert_close(alone.example[0], together.example[n], rtol=0, atol=1e-8)
        torch.testing.assert_close(alone.path[1, 0], together.path[1, n], rtol=0, atol=1e-8)


def test_success_is_the_perceptual_distance_below_its_threshold():
    clf, start, toward = network("mlp")
    plain = NSPGD(step=0.05, steps=60)
    without = plain(clf, start=start, toward=toward)
    assert without.success is None
    assert without.perceptual is None
    middle = float(without.distance.median()) + 1e-9
    result = NSPGD(step=0.05, steps=60, perceptual=Length(), threshold=middle)(
        clf, start=start, toward=toward
    )
    assert torch.equal(result.perceptual, result.distance)
    assert torch.equal(result.success, result.distance < middle)
    assert result.success.any()
    assert not result.success.all()


def test_a_walk_can_begin_elsewhere_unless_the_confidence_there_is_too_low():
    clf, start, toward, y = linear_pairs(2)
    w = normal(clf, y)
    unit = (w / w.norm(dim=1, keepdim=True)).view_as(start)
    begin = torch.where(torch.arange(8)[:, None, None] % 2 == 0, start + 0.5 * unit, start - unit)
    result = NSPGD(two_sided=True, path_every=1)(clf, start=start, toward=toward, begin=begin)
    low = confidence(clf.logits(begin), y) < result.confidence_start - 0.05
    assert not low[::2].any()
    assert low.any()
    assert torch.equal(result.path[0], torch.where(low[:, None, None], start, begin))
    there = confidence(clf.logits(result.path[0]), y)
    torch.testing.assert_close(result.confidence, there)
    torch.testing.assert_close(result.confidence[low], result.confidence_start[low])


# -- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": -0.1}, "step must be positive"),
        ({"step": math.nan}, "step must be a number"),
        ({"steps": -3}, "steps must be an integer"),
        ({"confidence_drop": 1.0}, "confidence_drop must lie"),
        ({"threshold": 0.0}, "threshold must be positive"),
        ({"path_every": 0}, "path_every must be"),
        ({"box": "ignore"}, "box must be"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        NSPGD(**options)


def test_inputs_are_checked():
    clf, start, toward = network("mlp")
    with pytest.raises(ValueError, match="start and toward must have one shape"):
        NSPGD()(clf, start=start, toward=toward[:2])
    with pytest.raises(ValueError, match="start and begin must have one shape"):
        NSPGD()(clf, start=start, toward=toward, begin=toward[:2])
    with pytest.raises(ValueError, match="5 indices for 6 samples"):
        NSPGD()(clf, start=start, toward=toward, indices=range(5))
    with pytest.raises(ValueError, match="outside the input bounds"):
        NSPGD()(clf, start=start, toward=toward + 1)

    def one_number(x, y):
        return torch.zeros(())

    one_number.name = "nothing"
    with pytest.raises(ValueError, match=r"nothing must return shape \(6,\)"):
        NSPGD(steps=1, perceptual=one_number)(clf, start=start, toward=toward)
