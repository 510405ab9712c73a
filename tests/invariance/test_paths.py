"""Paths, chains, interpolated and unreachable logits: closed forms on linear networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import lsq_linear
from torch import nn

from elbowroom import L2, Classifier
from elbowroom.invariance import (
    AdamOnLogits,
    arc_length,
    chain,
    check_path,
    constant_images,
    interpolate_logits,
    mean_image,
    reach,
    resample,
    sparsify,
    uniform_noise,
)
from elbowroom.invariance.base import Found, Inversion
from nets import make
from oracles.linear import problem


@dataclass(frozen=True, kw_only=True)
class Projected(Inversion):
    """The closed form on a linear network in a box too wide to matter."""

    with_path: bool = False

    def descend(self, problem):
        zero = torch.zeros_like(problem.toward)
        at_zero = problem.clf.logits(zero)
        basis = torch.eye(zero[0].numel(), dtype=zero.dtype).view(-1, *zero.shape[1:])
        weight = (problem.clf.logits(basis) - at_zero[:1]).T
        gap = problem.goal.logits - problem.clf.logits(problem.toward)
        move = gap @ torch.linalg.pinv(weight).T
        example = problem.toward + move.view_as(zero)
        if not self.with_path:
            return Found(example)
        middle = (problem.start + example) / 2
        return Found(example, torch.stack([problem.start, middle, example]))


def _nearest(clf, toward, wanted):
    weight = clf.network.linear.weight.detach()
    return L2.length((wanted - clf.logits(toward)) @ torch.linalg.pinv(weight).T)


# -- points at equal arc lengths ------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(2, 9))
def test_resampled_points_are_at_equal_arc_lengths_of_the_path(seed, points, count):
    generator = torch.Generator().manual_seed(seed)
    path = torch.randn(points, 3, 2, 2, generator=generator, dtype=torch.float64)
    if points > 2:
        path[-1, 0] = path[-2, 0]  # a walk that has ended stays where it is
    new = resample(path, count)
    assert new.shape == (count, 3, 2, 2)
    assert torch.equal(new[0], path[0])
    torch.testing.assert_close(new[-1], path[-1])
    length = arc_length(path)
    for sample in range(3):
        total = float(length[-1, sample])
        flat = path[:, sample].flatten(1).numpy()
        keep = np.concatenate([[True], np.diff(length[:, sample].numpy()) > 0])
        at = np.linspace(0, total, count)
        for feature in range(4):
            expected = np.interp(at, length[keep, sample].numpy(), flat[keep, feature])
            np.testing.assert_allclose(
                new[:, sample].flatten(1)[:, feature].numpy(), expected, atol=1e-9
            )
    sparse = sparsify(path, count)
    assert torch.equal(sparse[0], path[0])
    torch.testing.assert_close(sparse[-1], path[-1])
    for sample in range(3):
        for number in range(count):
            distance = L2.length(path[:, sample] - sparse[number, sample])
            position = length[int(distance.argmin()), sample]
            wanted = length[-1, sample] * number / (count - 1)
            best = (length[:, sample] - wanted).abs().min()
            assert (position - wanted).abs() <= best + 1e-9


def test_arc_length_of_a_polyline():
    path = torch.tensor([[[0.0, 0.0]], [[3.0, 4.0]], [[3.0, 4.0]], [[3.0, 5.0]]])
    assert arc_length(path).tolist() == [[0.0], [5.0], [5.0], [6.0]]


# -- what the network makes of a path -------------------------------------------------------------


def test_on_a_linear_network_the_squared_error_between_points_is_a_parabola():
    clf, x, _ = problem(2, batch=3, classes=4)
    path = torch.stack([x, 0.5 * x, -x])
    wanted = clf.logits(0.1 * x)
    found = check_path(clf, path, wanted, toward=-x, between=3)
    error = torch.stack([(clf.logits(s * x) - wanted).square().mean(dim=1) for s in (1, 0.5, -1)])
    torch.testing.assert_close(found.feature_mse, error)
    torch.testing.assert_close(found.largest, error.amax(dim=0))
    assert torch.equal(found.largest_between, found.largest)  # of a parabola, at an end
    torch.testing.assert_close(found.arc_length, L2.length(x) * torch.tensor([[0], [0.5], [2]]))
    torch.testing.assert_close(found.distance, L2.length(x) * torch.tensor([[2], [1.5], [0]]))
    logits = torch.stack([clf.logits(point) for point in path])
    assert torch.equal(found.decision, logits.argmax(dim=2))
    first = logits[0].argmax(dim=1)
    softmax = logits.softmax(dim=2)[:, torch.arange(3), first]
    torch.testing.assert_close(found.confidence, softmax)
    assert found.cost.forward == 3 * (1 + 3 + 2 * 3 + 3)


class _Tent(nn.Module):
    """Logits `(|x - 1/2|, 0)`."""

    def forward(self, x):
        return torch.cat([(x - 0.5).abs(), 0 * x], dim=1)


def test_points_between_show_what_the_points_hide():
    clf = Classifier(_Tent(), dtype=torch.float64)
    path = torch.tensor([[[0.0]], [[1.0]]], dtype=torch.float64)
    found = check_path(clf, path, between=3)
    assert found.largest.item() == 0
    assert found.largest_between.item() == pytest.approx(0.125)  # (1/2)^2 / 2, in the middle
    assert check_path(clf, path, between=0).largest_between.item() == 0
    assert check_path(clf, path, between=2).largest_between.item() == pytest.approx(1 / 18)


def test_up_to_a_shift_and_at_a_layer():
    model, shape = make("mlp", seed=1)
    clf = Classifier(model)
    generator = torch.Generator().manual_seed(0)
    path = torch.rand(4, 2, *shape, generator=generator, dtype=torch.float64)
    logits = clf.logits(path[0])
    up = check_path(clf, path, logits + 3.0, up_to_shift=True)
    plain = check_path(clf, path, logits)
    shifted = check_path(clf, path, logits + 3.0)
    assert up.feature_mse[0].max() < 1e-24
    assert (shifted.feature_mse[0] - 9).abs().max() < 1e-9
    gap = torch.stack([clf.logits(x) - logits for x in path])
    variance = gap.var(dim=2)  # over K - 1
    torch.testing.assert_close(up.feature_mse, variance)
    torch.testing.assert_close(plain.feature_mse, gap.square().mean(dim=2))
    # As an inversion measures it:
    inversion = AdamOnLogits(up_to_shift=True, steps=1)
    result = inversion(clf, target=logits, toward=path[1])
    again = check_path(clf, result.example[None], logits, up_to_shift=True)
    torch.testing.assert_close(again.feature_mse[0], result.feature_mse)
    hidden = check_path(clf, path, layer="1")
    first = model[:2]
    expected = torch.stack([(first(x) - first(path[0])).square().mean(dim=1) for x in path])
    torch.testing.assert_close(hidden.feature_mse, expected.detach())


# -- chains ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_path", [False, True])
def test_every_leg_of_a_chain_keeps_the_features_of_the_first_image(with_path):
    clf, x, _ = problem(2, batch=8, classes=3)
    images = 0.5 * x.view(4, 2, *x.shape[1:])
    found = chain(Projected(tolerance=1e-16, with_path=with_path), clf, images)
    wanted = clf.logits(images[0])
    assert len(found.legs) == 3
    for number, leg in enumerate(found.legs):
        torch.testing.assert_close(clf.logits(leg.example), wanted)
        torch.testing.assert_close(leg.distance, _nearest(clf, images[number + 1], wanted))
        assert torch.equal(found.path[found.ends[number]], leg.example)
        assert leg.cost.forward > 0
        if with_path:  # sets out from where the last leg ended
            begin = images[0] if number == 0 else found.legs[number - 1].example
            assert torch.equal(leg.path[0], begin)
    assert torch.equal(found.path[0], images[0])
    assert found.ends == ((3, 6, 9) if with_path else (1, 2, 3))
    assert len(found.path) == found.ends[-1] + 1
    # In a linear network straight lines between such points keep the features too.
    assert check_path(clf, found.path, wanted).largest_between.max() < 1e-20


def test_a_leg_without_success_stays_where_it_is():
    model, shape = make("resnet", seed=1)
    clf = Classifier(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, *shape, generator=generator, dtype=torch.float64)
    found = chain(AdamOnLogits(steps=1, tolerance=1e-25), clf, images)
    for leg in found.legs:
        assert torch.equal(leg.example, images[0])
        assert leg.success.all()


def test_a_chain_at_a_layer():
    model, shape = make("mlp", seed=1)
    clf = Classifier(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, *shape, generator=generator, dtype=torch.float64)
    before = clf.cost.forward
    found = chain(AdamOnLogits(tolerance=1e-4, layer="1"), clf, images)
    assert clf.cost.forward - before >= sum(leg.cost.forward for leg in found.legs)
    check = check_path(clf, found.path[list(found.ends)], model[:2](images[0]).detach(), layer="1")
    assert (check.feature_mse <= 1e-4).all()
    assert (found.legs[0].distance < L2.length(images[0] - images[1])).all()


# -- logits that no image gave --------------------------------------------------------------------


def test_interpolated_logits():
    clf, x, _ = problem(2, batch=6, classes=3)
    a, b, toward = 0.5 * x.view(3, 2, *x.shape[1:])
    found = interpolate_logits(Projected(), clf, a, b, toward, steps=5)
    assert found.weights.tolist() == [0, 0.25, 0.5, 0.75, 1]
    for weight, target, result in zip(found.weights, found.targets, found.results, strict=True):
        wanted = (1 - weight) * clf.logits(a) + weight * clf.logits(b)
        torch.testing.assert_close(target, wanted)
        assert result.success.all()
        torch.testing.assert_close(result.distance, _nearest(clf, toward, wanted))


def test_logits_out_of_reach_are_approached_plainly_and_up_to_a_shift():
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(6, 3).double()
    layer.weight.data = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    clf = Classifier(layer)
    toward = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    weight, bias = (p.detach().numpy() for p in layer.parameters())
    centring = np.eye(3) - 1 / 3
    targets = torch.tensor([[0.0, 0.0, 0.0], [50.0, 50.0, 50.0], [50.0, 0.0, -50.0]]).double()
    found = reach(AdamOnLogits(steps=400, tolerance=1e-10), clf, toward, targets)
    for number, target in enumerate(targets.numpy()):
        plain = lsq_linear(weight, target - bias, bounds=(0, 1), tol=1e-13)
        shifted = lsq_linear(
            centring @ weight, centring @ (target - bias), bounds=(0, 1), tol=1e-13
        )
        # Mean squares, of three logits, and of the two coordinates that a shift leaves.
        for approach, least in ((found.plain, 2 * plain.cost / 3), (found.shifted, shifted.cost)):
            mse = approach.feature_mse[number].numpy()
            np.testing.assert_allclose(mse, least, rtol=1e-2, atol=2e-10)
            assert (approach.within[number].numpy() == (least < 1e-10)).all()
        # Every shift of a target is the same target.
    assert not found.plain.within[1].any()
    assert found.shifted.within[1].all()
    assert (found.shifted.softmax_gap[1] < 1e-4).all()
    assert torch.equal(found.plain.moved, torch.stack([L2.length(z - toward) for z in
                                                       found.plain.example]))  # fmt: skip
    gap = clf.logits(found.plain.example[2]).softmax(dim=1) - targets[2].softmax(dim=0)
    torch.testing.assert_close(found.plain.softmax_gap[2], gap.abs().amax(dim=1))
    assert found.plain.cost.backward > 0


# -- images to come close to ----------------------------------------------------------------------


def test_mean_images():
    x = torch.tensor([[[0.0, 1.0]], [[1.0, 1.0]], [[0.5, 0.0]]])
    y = torch.tensor([3, 3, 1])
    torch.testing.assert_close(mean_image(x), torch.tensor([[0.5, 2 / 3]]))
    assert torch.equal(mean_image(x, y, 3), torch.tensor([[0.5, 1.0]]))
    with pytest.raises(ValueError, match="label 2"):
        mean_image(x, y, 2)
    with pytest.raises(ValueError, match="or neither"):
        mean_image(x, y)
    with pytest.raises(ValueError, match="labels for 3"):
        mean_image(x, y[:2], 3)


def test_noise_and_colours_fill_the_box_and_belong_to_their_numbers():
    lower, upper = torch.tensor([[-1.0], [0.0]]), torch.tensor([[1.0], [3.0]])
    clf = Classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(8, 2)),
        bounds=(lower.expand(2, 4), upper.expand(2, 4)),
    )
    for draw in (uniform_noise, constant_images):
        x = draw(clf, (2, 4), range(2000))
        clf.validate(x)
        assert torch.equal(draw(clf, (2, 4), [7, 3]), x[[7, 3]])
        assert not torch.equal(draw(clf, (2, 4), [7], seed=1), x[[7]])
        for channel in range(2):
            values = (x[:, channel, 0] - lower[channel]) / (upper - lower)[channel]
            np.testing.assert_allclose(values.quantile(torch.tensor([0.25, 0.75])), [0.25, 0.75],
                                       atol=0.04)  # fmt: skip
    assert (x == x[:, :, :1]).all()
    assert constant_images(clf.__class__(nn.Linear(5, 2)), (5,), [0, 1]).std(dim=1).max() == 0


# -- what is refused ------------------------------------------------------------------------------


def test_errors_name_what_is_wrong():
    clf, x, _ = problem(2, batch=2, classes=3)
    path = torch.stack([x, x])
    with pytest.raises(ValueError, match=r"\(P, N, \*shape\)"):
        arc_length(x[0])
    with pytest.raises(ValueError, match="count"):
        resample(path, 1)
    with pytest.raises(ValueError, match="between"):
        check_path(clf, path, between=-1)
    with pytest.raises(ValueError, match="target"):
        check_path(clf, path, torch.zeros(5))
    with pytest.raises(ValueError, match="toward"):
        check_path(clf, path, toward=x[:1])
    with pytest.raises(ValueError, match="L > 1"):
        chain(Projected(), clf, path[:1])
    with pytest.raises(ValueError, match="indices"):
        chain(Projected(), clf, path, indices=[1])
    with pytest.raises(ValueError, match="steps"):
        interpolate_logits(Projected(), clf, x, x, x, steps=1)
    with pytest.raises(ValueError, match="one shape"):
        interpolate_logits(Projected(), clf, x, x[:1], x)
    with pytest.raises(ValueError, match="targets"):
        reach(Projected(), clf, x, torch.zeros(3))
    with pytest.raises(ValueError, match="infinite"):
        uniform_noise(Classifier(nn.Linear(2, 2), bounds=(0.0, math.inf)), (2,), [0])
    apart = Classifier(nn.Linear(2, 2), bounds=(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0])))
    with pytest.raises(ValueError, match="in common"):
        constant_images(apart, (2,), [0])
