from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import nets
from elbowroom import L2, Classifier
from elbowroom.attacks import DDN
from elbowroom.goals import ClassifiedAs, Misclassified, SameLogits
from elbowroom.graph.evaluate import evaluate
from elbowroom.regions import ExactDistance
from elbowroom.regions.balls import least_in_balls
from elbowroom.regions.reorder import pool_first
from oracles import linear
from oracles.regions import brute_force


class Pooled(nn.Module):
    """A one-dimensional convolution, leaky ReLU, overlapping max pooling and a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.block, self.head = nn.Conv1d(1, 1, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.leaky_relu(self.conv(x), 0.2), 2, stride=1).flatten(1)
        return self.head(x + F.relu(self.block(x)))


class Padded(nn.Module):
    """Max pooling in two dimensions with padding, straight after a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.max_pool2d(self.conv(x), 2, stride=2, padding=1).relu().mean((2, 3)))


class Bent(nn.Module):
    """Activations that are not monotone, or have three pieces."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = (nn.Linear(3, 3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.hardtanh(2 * self.second(self.first(x).abs())))


TINY = {
    "mlp": (
        lambda: nn.Sequential(
            nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)
        ),
        (2,),
    ),
    "pooled": (Pooled, (1, 6)),
    "padded": (Padded, (1, 3, 3)),
    "bent": (Bent, (3,)),
    "prelu": (
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.PReLU(4, init=-0.3), nn.Linear(4, 2), nn.ReLU6(), nn.Linear(2, 4)
        ),
        (3,),
    ),
}


def problem(name: str, seed: int) -> tuple[Classifier, Tensor, Tensor]:
    """A tiny random network with weights that bend it a lot, and one sample with its decision."""
    factory, shape = TINY[name]
    torch.manual_seed(seed)
    model = factory().double()
    for parameter in model.parameters():
        parameter.data *= 2
    clf = Classifier(model, bounds=(-1.0, 1.0))
    x = 2 * torch.rand(1, *shape, dtype=torch.float64) - 1
    return clf, x, clf.logits(x).argmax(dim=1)


def check(clf: Classifier, x: Tensor, goal: Misclassified | ClassifiedAs) -> None:
    truth = brute_force(clf, x, goal)
    result = ExactDistance(batch=4)(clf, x, goal=goal)
    lower, upper = float(result.lower), float(result.upper)
    assert bool(result.finished)
    assert lower <= truth * (1 + 1e-9)
    assert truth * (1 - 1e-9) <= upper
    assert upper == pytest.approx(truth, rel=1e-6) == lower
    if truth < torch.inf:
        assert bool(goal.met(clf.logits(result.point)))
        assert float(L2.length(result.point - x)) == pytest.approx(upper, rel=1e-12)


@pytest.mark.parametrize("name", TINY)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=3)
def test_equals_brute_force_over_all_patterns(name, seed):
    clf, x, y = problem(name, seed)
    check(clf, x, Misclassified(y))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=5)
def test_a_target_equals_brute_force(seed):
    clf, x, y = problem("prelu", seed)
    check(clf, x, ClassifiedAs((y + 1) % 4))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=5)
def test_samples_in_a_corner_of_the_box_equal_brute_force(seed):
    clf, x, _ = problem("mlp", seed)
    x = torch.where(x > 0, 1.0, -1.0).double()
    check(clf, x, Misclassified(clf.logits(x).argmax(dim=1)))


def test_the_least_value_in_a_ball_and_a_box():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 20, 2, dtype=torch.float64, generator=generator)
    centre = torch.rand(3, 2, dtype=torch.float64, generator=generator)
    radius = torch.tensor([0.0, 0.3, 5.0]).double()
    lower, upper = torch.zeros(2).double(), torch.ones(2).double()
    found = least_in_balls(rows, centre, radius, lower, upper)
    # The minimum lies on the sphere, on an edge of the box, or where both meet.
    angle = torch.linspace(0, 2 * torch.pi, 100_001, dtype=torch.float64)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    for ball in range(3):
        points = centre[ball] + radius[ball] * circle
        edge = torch.linspace(0, 1, 10_001, dtype=torch.float64)
        edges = [torch.stack([edge, torch.full_like(edge, v)], dim=1) for v in (0.0, 1.0)]
        points = torch.cat([points, *edges, *(e.flip(1) for e in edges)])
        inside = ((points >= 0) & (points <= 1)).all(dim=1)
        inside &= (points - centre[ball]).norm(dim=1) <= radius[ball] * (1 + 1e-9)
        truth = (rows[ball] @ points[inside].T).amin(dim=1)
        assert (found[ball] <= truth + 1e-9).all()
        torch.testing.assert_close(found[ball], truth, rtol=0, atol=1e-3)


class Stacked(nn.Module):
    """Activations before max pooling: two that can move behind it, and one that cannot."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.conv, self.prelu = nn.Conv2d(1, 2, 2), nn.PReLU(2, init=slope)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardtanh(self.prelu(self.conv(x)))
        return F.max_pool2d(x, 2, stride=1).flatten(1) + 0.1


@pytest.mark.parametrize(("slope", "moved"), [(0.3, True), (-0.3, False)])
def test_pooling_moves_before_activations_that_rise(slope, moved):
    torch.manual_seed(0)
    graph = Classifier(Stacked(slope).double()).graph((1, 4, 4))
    reordered = pool_first(graph)
    x = torch.rand(20, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(evaluate(reordered, x)[-1], evaluate(graph, x)[-1])
    kinds = [type(node.op).__name__ for node in reordered.nodes]
    assert (kinds.index("MaxPool") < kinds.index("PiecewiseAffine")) == moved
    for node, values in zip(reordered.nodes, evaluate(reordered, x), strict=True):
        assert values.shape[1:] == node.shape


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_linear_classifier_has_its_closed_form(rank):
    clf, x, y = linear.problem(rank, batch=4, classes=4)
    result = ExactDistance()(clf, x, y)
    torch.testing.assert_close(
        result.upper, linear.distances(clf, x, y).amin(dim=1), rtol=1e-7, atol=0
    )
    torch.testing.assert_close(result.lower, result.upper, rtol=1e-7, atol=0)
    assert result.finished.all()


def test_the_box_counts():
    model = nn.Linear(2, 2).double()
    model.weight.data = torch.tensor([[0.0, 0.0], [3.0, 4.0]]).double()
    model.bias.data = torch.tensor([5.0, 0.0]).double()
    result = ExactDistance()(Classifier(model), torch.tensor([[0.9, 0.0]]).double())
    # The way along (3, 4) leaves the box; the nearest point in it is (1, 0.5).
    assert float(result.lower) == pytest.approx((0.1**2 + 0.5**2) ** 0.5, rel=1e-7)
    assert float(result.upper) == pytest.approx((0.1**2 + 0.5**2) ** 0.5, rel=1e-7)


def test_bounds_hold_when_stopped_early():
    for seed in range(3):
        clf, x, y = problem("bent", seed)
        truth = brute_force(clf, x, Misclassified(y))
        for regions in (1, 3, 6):
            result = ExactDistance(regions=regions, batch=1)(clf, x, y)
            assert float(result.lower) <= truth * (1 + 1e-9)
            assert float(result.upper) >= truth * (1 - 1e-9)
            assert int(result.regions) <= regions + 5


def test_misclassified_samples_get_zero():
    clf, x, y = problem("mlp", 0)
    result = ExactDistance()(clf, x, 1 - y)
    assert (float(result.lower), float(result.upper), bool(result.finished)) == (0.0, 0.0, True)
    assert torch.equal(result.point, x)


def test_a_goal_out_of_reach_is_proved_so():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    model[2].bias.data = torch.tensor([100.0, 0.0]).double()
    result = ExactDistance()(Classifier(model), torch.rand(1, 2).double())
    assert (float(result.lower), float(result.upper)) == (torch.inf, torch.inf)
    assert bool(result.finished)


@pytest.mark.parametrize("name", ["mlp", "1d"])
def test_no_attack_is_nearer_than_the_lower_bound(name):
    model, shape = nets.make(name, seed=3)
    clf = Classifier(model)
    x = torch.rand(2, *shape, dtype=torch.float64)
    attacked = DDN(runner_ups=2)(clf, x)
    result = ExactDistance(regions=30)(clf, x, start=attacked.adversarial)
    assert (result.lower <= attacked.distance).all()
    assert (result.upper <= attacked.distance * (1 + 1e-12)).all()
    assert (result.lower <= result.upper).all()
    assert result.cost.forward > 0


def test_float32_networks_are_measured_in_float64():
    clf, x, y = problem("mlp", 5)
    single = Classifier(clf.network.float(), bounds=(-1.0, 1.0))
    result = ExactDistance()(single, x.float(), y)
    assert result.point.dtype == torch.float64
    double = Classifier(clf.network.double(), bounds=(-1.0, 1.0))
    again = ExactDistance()(double, x.float().double(), y)
    torch.testing.assert_close(result.upper, again.upper, rtol=1e-12, atol=0)


def test_refusals():
    clf, x, y = problem("mlp", 0)
    with pytest.raises(ValueError, match="finite bounds"):
        ExactDistance()(Classifier(clf.network, bounds=(-torch.inf, 1.0)), x, y)
    with pytest.raises(ValueError, match="start has shape"):
        ExactDistance()(clf, x, y, start=x[0])
    goal = SameLogits(clf.logits(x) + 1, torch.zeros(1).double())
    with pytest.raises(ValueError, match="SameLogits"):
        ExactDistance()(clf, x, goal=goal)
    with pytest.raises(ValueError, match="not piecewise affine"):
        ExactDistance()(
            nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), torch.rand(1, 2)
        )


def test_a_large_network_is_refused_at_once():
    clf = Classifier(nn.Sequential(nn.Linear(3, 3000), nn.ReLU(), nn.Linear(3000, 2)))
    with pytest.raises(ValueError, match="3,000 units that branch"):
        ExactDistance()(clf, torch.rand(1, 3))


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_a_limit_that_would_never_be_reached_is_refused(seconds):
    with pytest.raises(ValueError, match="seconds must be"):
        ExactDistance(seconds=seconds)
