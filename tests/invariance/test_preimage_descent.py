"""Preimage descent: the same features exactly, as close as a brute-force search finds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from elbowroom import L2, Classifier
from elbowroom.invariance import AdamOnLogits, ExactInversion, PreimageDescent
from elbowroom.regions.newton import project_dense
from nets import PIECEWISE_AFFINE, make
from oracles.linear import problem as linear_problem

EXACT = 1e-20


def _pairs(name: str, count: int = 4, seed: int = 0):
    model, shape = make(name, seed)
    generator = torch.Generator().manual_seed(seed)
    start, toward = torch.rand(2, count, *shape, generator=generator, dtype=torch.float64)
    return Classifier(model), start, toward


@pytest.mark.parametrize("name", sorted(PIECEWISE_AFFINE))
def test_the_logits_are_those_of_the_start_to_rounding(name):
    clf, start, toward = _pairs(name)
    result = PreimageDescent(tolerance=EXACT, steps=20, restarts=1)(clf, start=start, toward=toward)
    error = (clf.logits(result.example) - clf.logits(start)).square().mean(dim=1)
    assert result.success.all()
    assert (error <= EXACT).all()
    assert (result.example >= 0).all()
    assert (result.example <= 1).all()
    assert torch.allclose(result.distance, L2.length(result.example - toward))
    assert (result.distance < L2.length(start - toward)).all()


def test_max_pooling_leaky_units_and_batch_norm():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.1),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).double()
    net[1].running_mean.uniform_(-0.2, 0.2)
    net[1].running_var.uniform_(0.5, 2.0)
    start, toward = torch.rand(2, 4, 1, 8, 8, dtype=torch.float64)
    result = PreimageDescent(tolerance=EXACT)(Classifier(net), start=start, toward=toward)
    assert result.success.all()
    assert (result.distance < 0.5 * L2.length(start - toward)).all()


def test_without_activations_and_box_it_is_the_projection():
    clf, start, _ = linear_problem(rank=2, batch=6, classes=3)
    toward = start.flip(0) * 0.5
    result = PreimageDescent(tolerance=EXACT)(clf, start=start, toward=toward)
    weight = clf.network.linear.weight.detach()
    gap = clf.logits(start) - clf.logits(toward)
    nearest = torch.linalg.vector_norm(gap @ torch.linalg.pinv(weight).T, dim=1)
    assert result.success.all()
    assert torch.allclose(result.distance, nearest, rtol=1e-6)


def test_in_a_box_it_is_the_projection_of_an_independent_solver():
    clf, _, _ = linear_problem(rank=1, batch=1, classes=2)
    clf = Classifier(clf.network, bounds=(0.0, 1.0))
    start, toward = torch.rand(2, 8, 6, dtype=torch.float64)
    result = PreimageDescent(tolerance=EXACT)(clf, start=start, toward=toward)
    weight = clf.network.linear.weight.detach()
    rows = torch.cat([weight, -weight]).expand(8, -1, -1)
    wanted = start @ weight.T
    box = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    found = project_dense(
        toward, rows, torch.cat([wanted, -wanted], dim=1), *box, torch.zeros(8, 4).double(),
        ceiling=torch.full((8,), 1e3, dtype=torch.float64), iterations=200,
    )  # fmt: skip
    assert result.success.all()
    assert torch.allclose(result.distance, L2.length(found.z - toward), rtol=1e-5)


def _small(features: int, seed: int) -> Classifier:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(features, 10), nn.ReLU(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 2)
    ).double()
    for parameter in net.parameters():
        parameter.data *= 1.6
    return Classifier(net)


@pytest.mark.parametrize("features", [3, 6])
def test_no_point_is_nearer_than_the_exact_distance_and_most_are_within_a_hundredth(features):
    clf = _small(features, seed=features)
    start, toward = torch.rand(2, 10, features, dtype=torch.float64)
    result = PreimageDescent(tolerance=EXACT)(clf, start=start, toward=toward)
    exact = ExactInversion()(clf, start=start, toward=toward, known=result.example)
    assert exact.finished.all()
    assert (result.distance >= exact.lower * (1 - 1e-6)).all()
    assert (result.distance <= 1.01 * exact.upper + 1e-9).all()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_grid_finds_nothing_nearer_than_the_exact_distance(seed):
    """On a 2-D network the preimage is made of points: every crossing of two level sets."""
    clf = _small(2, seed)
    start, toward = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(seed)).double()
    exact = ExactInversion()(clf, start=start, toward=toward)
    assert exact.finished.all()
    wanted = clf.logits(start)
    assert torch.allclose(clf.logits(exact.point), wanted, atol=1e-7)
    # Newton's method from a grid: whatever it reaches is not nearer.
    axis = torch.linspace(0, 1, 21, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    for n in range(len(start)):
        y = grid.clone()
        for _ in range(8):
            values, J = clf.jacobian_rows(y, torch.arange(2).expand(len(y), -1))
            step = torch.linalg.pinv(J.flatten(2)) @ (wanted[n] - values)[..., None]
            y = y + step.squeeze(2)
        there = (clf.logits(y) - wanted[n]).abs().amax(dim=1) < 1e-9
        there &= ((y >= 0) & (y <= 1)).all(dim=1)
        reached = torch.linalg.vector_norm(y - toward[n], dim=1)[there]
        assert (reached >= exact.lower[n] - 1e-7).all()


def test_exact_inversion_knows_the_nearest_of_start_and_what_was_found():
    clf = Classifier(_small(4, seed=1).network, dtype=torch.float32)
    start, toward = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1))
    near = PreimageDescent()(clf, start=start, toward=toward)
    # Nothing is searched: what is known is the answer.
    search = ExactInversion(seconds=1e-9)
    found = search(clf, start=start, toward=toward, known=near.example)
    assert torch.allclose(found.upper, near.distance, rtol=1e-3)
    nothing = search(clf, start=start, toward=toward, known=toward)
    assert (nothing.upper <= L2.length(start - toward) * (1 + 1e-6)).all()


def test_exact_inversion_proves_that_nothing_has_these_logits():
    clf = _small(3, seed=0)
    toward = torch.rand(2, 3, dtype=torch.float64)
    target = torch.tensor([1e3, -1e3], dtype=torch.float64)
    exact = ExactInversion()(clf, toward=toward, target=target)
    assert exact.finished.all()
    assert exact.upper.isinf().all()


def test_every_point_of_a_path_has_the_same_logits_and_none_is_farther_than_the_one_before():
    clf, start, toward = _pairs("resnet")
    method = PreimageDescent(tolerance=EXACT, path=True, path_steps=15, steps=20, restarts=1)
    result = method(clf, start=start, toward=toward)
    assert result.path is not None
    assert result.path.shape == (16, *start.shape)
    assert torch.equal(result.path[0], start)
    before = torch.full((len(start),), torch.inf, dtype=torch.float64)
    for point in result.path:
        error = (clf.logits(point) - clf.logits(start)).square().mean(dim=1)
        assert (error <= EXACT).all()
        assert (point >= 0).all()
        assert (point <= 1).all()
        distance = L2.length(point - toward)
        assert (distance <= before).all()
        before = distance
    assert (before < L2.length(start - toward)).all()
    assert (result.distance <= before).all()
    # No leaps, which the features would not follow.
    for one, other in pairwise(result.path):
        assert (L2.length(one - other) <= 3 / 15 * L2.length(start - toward)).all()


@pytest.mark.parametrize("layer", ["1", "3"])
def test_any_layer_can_be_held(layer):
    model, shape = make("mlp")
    clf = Classifier(model)
    start, toward = torch.rand(2, 3, *shape, dtype=torch.float64)
    result = PreimageDescent(layer=layer, tolerance=EXACT, steps=20, restarts=1)(
        clf, start=start, toward=toward
    )
    part = model[: int(layer) + 1]
    assert result.success.all()
    assert torch.allclose(part(result.example), part(start), atol=1e-9)
    # What holds a layer holds all that follow, and costs some distance.
    assert torch.allclose(clf.logits(result.example), clf.logits(start), atol=1e-9)
    logits_only = PreimageDescent(tolerance=EXACT, steps=20, restarts=1)(
        clf, start=start, toward=toward
    )
    assert (logits_only.distance < result.distance).all()


def test_up_to_a_shift_the_softmax_is_kept_and_the_distance_is_less():
    clf, start, toward = _pairs("mlp")
    method = PreimageDescent(tolerance=EXACT, steps=40, restarts=1)
    plain = method(clf, start=start, toward=toward)
    shifted = replace(method, up_to_shift=True)(clf, start=start, toward=toward)
    same = clf.logits(shifted.example).softmax(dim=1), clf.logits(start).softmax(dim=1)
    assert torch.allclose(*same, atol=1e-9)
    assert shifted.success.all()
    assert shifted.distance.mean() < plain.distance.mean()


def test_a_target_is_reached_without_a_start_or_reported_as_missed():
    clf, start, toward = _pairs("mlp")
    wanted = clf.logits(start)
    method = PreimageDescent(tolerance=EXACT, steps=20, restarts=1)
    found = method(clf, toward=toward, target=wanted)
    assert found.success.all()
    far = method(clf, toward=toward, target=wanted[0] + 1e4)
    assert not far.success.any()
    assert far.distance.isinf().all()
    assert (far.feature_mse > EXACT).all()
    assert torch.allclose(far.moved, L2.length(far.example - toward))
    # It goes as far as it can: nearer to the target than where it began.
    began = (clf.logits(toward) - wanted[0] - 1e4).square().mean(dim=1)
    assert (far.feature_mse < began).all()


def test_smooth_networks_are_solved_or_said_to_be_missed():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 3)).double()
    start, toward = torch.rand(2, 6, 8, dtype=torch.float64)
    clf = Classifier(net)
    result = PreimageDescent(tolerance=EXACT)(clf, start=start, toward=toward)
    error = (clf.logits(result.example) - clf.logits(start)).square().mean(dim=1)
    assert torch.equal(result.success, error <= EXACT)
    assert int(result.success.sum()) >= 5


def test_results_do_not_depend_on_the_batch():
    clf, start, toward = _pairs("mlp", count=5)
    method = PreimageDescent(tolerance=EXACT, steps=15, restarts=1, block=3)
    whole = method(clf, start=start, toward=toward, indices=range(5))
    parts = [
        method(clf, start=start[rows], toward=toward[rows], indices=rows)
        for rows in ([4, 0], [2], [3, 1])
    ]
    found = torch.cat([part.distance for part in parts])
    assert torch.allclose(found, whole.distance[[4, 0, 2, 3, 1]], rtol=1e-8)


def test_searches_of_few_features_do_not_depend_on_the_batch_bit_for_bit():
    clf = _small(4, seed=1)
    start, toward = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(1)).double()
    method = PreimageDescent(tolerance=EXACT, scattered=9)
    # Logits are given: those of a start are computed in one batch, and may differ in the last bit.
    wanted = clf.logits(start)
    whole = method(clf, target=wanted, toward=toward, indices=range(5))
    for rows in ([4, 0], [2], [3, 1]):
        part = method(clf, target=wanted[rows], toward=toward[rows], indices=rows)
        assert torch.equal(part.example, whole.example[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", [{}, {"layer": "2"}, {"up_to_shift": True}])
def test_final_regions_are_solved_for_any_features_and_precision(dtype, options):
    clf = _small(4, seed=3)
    clf = Classifier(clf.network, dtype=dtype)
    start, toward = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(3)).to(dtype)
    method = PreimageDescent(steps=10, restarts=1, scattered=0, **options)
    solved = method(clf, start=start, toward=toward)
    plain = replace(method, final_regions=0)(clf, start=start, toward=toward)
    assert solved.cost.jvp > 0
    assert plain.cost.jvp == 0
    assert solved.success.all()
    assert (solved.distance <= plain.distance * (1 + 1e-6)).all()


def test_what_is_found_stays_found_in_another_batch():
    """In float32, the tolerance is a few units in the last place of such logits."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 5))
    net[2].weight.data *= 30
    start, toward = torch.rand(2, 40, 20)
    clf = Classifier(net)
    assert clf.logits(start).abs().amax() > 4
    method = PreimageDescent(steps=20, final_regions=0)
    result = method(clf, start=start, toward=toward)
    assert (result.distance < 0.999 * L2.length(start - toward)).all()


def test_padding_is_not_charged():
    clf = _small(4, seed=1)
    start, toward = torch.rand(2, 1, 4, generator=torch.Generator().manual_seed(1)).double()
    method = PreimageDescent(
        steps=1, restarts=1, scattered=0, final_regions=0, walk_steps=0, block=1
    )
    # Two approaches of one step and up to 12 Newton steps, twice over where the first ones fail.
    assert method(clf, start=start, toward=toward).cost.forward < 300


def test_scattered_points_and_final_regions_only_help():
    clf = _small(4, seed=2)
    start, toward = torch.rand(2, 12, 4, generator=torch.Generator().manual_seed(0)).double()
    bare = PreimageDescent(tolerance=EXACT, restarts=1, scattered=0, final_regions=0)
    plain = bare(clf, start=start, toward=toward)
    regions = replace(bare, final_regions=10)(clf, start=start, toward=toward)
    scattered = replace(bare, scattered=32)(clf, start=start, toward=toward)
    assert regions.success.all()
    assert scattered.success.all()
    assert (regions.distance <= plain.distance * (1 + 1e-9)).all()
    assert regions.distance.sum() < plain.distance.sum()
    # The random draws of the walk at the end are the same, but not where it begins.
    assert scattered.distance.median() <= plain.distance.median() * (1 + 1e-9)
    assert scattered.distance.sum() < plain.distance.sum()


def test_without_a_box_random_points_are_near_the_input_and_there_are_no_final_regions():
    clf = Classifier(_small(4, seed=1).network, bounds=(-torch.inf, torch.inf))
    start, toward = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1)).double()
    result = PreimageDescent(tolerance=EXACT, scattered=8)(clf, start=start, toward=toward)
    assert result.success.all()
    assert (result.distance < L2.length(start - toward)).all()


class Fixed(nn.Module):
    """Works in float64 only: its weights are no parameters, so that they cannot be converted."""

    def __init__(self, broken: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = torch.randn(20, 8, dtype=torch.float64, generator=generator)
        self.last = torch.randn(8, 3, dtype=torch.float64, generator=generator)
        self.broken = broken

    def forward(self, x):
        if x.dtype == torch.float32 and self.broken == "infinite":
            return torch.full((len(x), 3), torch.inf) + x.sum(dim=1, keepdim=True)
        first, last = self.first, self.last
        if self.broken == "infinite":
            first, last = first.to(x), last.to(x)
        return torch.relu(x @ first) @ last


@pytest.mark.parametrize("broken", ["raises", "infinite"])
def test_a_network_that_is_of_no_use_in_float32(broken):
    clf = Classifier(Fixed(broken), dtype=torch.float64)
    x = torch.rand(4, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start, toward = x.split(2)
    found = PreimageDescent(tolerance=1e-20, block=2)(clf, start=start, toward=toward)
    assert found.nearer.all()
    assert (clf.logits(found.example) - clf.logits(start)).square().mean(dim=1).max() <= 1e-20


def test_in_float32_the_logits_agree_to_a_billionth():
    model, shape = make("resnet")
    clf = Classifier(model.float())
    start, toward = torch.rand(2, 4, *shape)
    result = PreimageDescent(tolerance=1e-9, steps=20, restarts=1)(clf, start=start, toward=toward)
    assert result.success.all()
    assert result.example.dtype == torch.float32
    assert (result.feature_mse <= 1e-9).all()


def test_an_adam_start_is_never_worse_than_adam():
    clf, start, toward = _pairs("mlp")
    adam = AdamOnLogits()(clf, start=start, toward=toward)
    result = PreimageDescent(begin=("adam",), steps=10)(clf, start=start, toward=toward)
    assert result.distance.median() <= adam.distance.median()


def test_unsuitable_requests_are_refused():
    clf, start, toward = _pairs("mlp")
    with pytest.raises(ValueError, match="either start or target"):
        PreimageDescent()(clf, toward=toward)
    with pytest.raises(ValueError, match="either start or target"):
        PreimageDescent()(clf, toward=toward, start=start, target=torch.zeros(3).double())
    with pytest.raises(ValueError, match=r"target has shape \(2,\), but the network has 3"):
        PreimageDescent()(clf, toward=toward, target=torch.zeros(2).double())
    with pytest.raises(ValueError, match="NaN or infinite"):
        PreimageDescent()(clf, toward=toward, target=torch.full((3,), torch.nan).double())
    with pytest.raises(ValueError, match="outside the input bounds"):
        PreimageDescent()(clf, toward=toward + 1, start=start)
    with pytest.raises(ValueError, match="there is no layer 'fc'"):
        PreimageDescent(layer="fc")(clf, toward=toward, start=start)
    with pytest.raises(ValueError, match="path begins at start"):
        PreimageDescent(path=True)(clf, toward=toward, target=torch.zeros(3).double())
    with pytest.raises(ValueError, match="begin must be some of"):
        PreimageDescent(begin=("nowhere",))
    with pytest.raises(ValueError, match="memory must lie"):
        PreimageDescent(memory=1.0)
