"""The attacks that search linear regions: exact where that is known, honest where it is not."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from elbowroom import L1, L2, Classifier, Linf
from elbowroom.attacks import Closest, LinearRegion, NearestPoints, Towards
from elbowroom.attacks.line_search import shorten
from elbowroom.goals import ClassifiedAs, Misclassified, SameLogits
from elbowroom.graph import UnsupportedOperationError
from elbowroom.regions import Accelerated, LinearPrograms, Polytopes, WorkingSet, decision_towards
from oracles.linear import LinearModel
from oracles.polytopes import Aligned, classifier, shape_of

ATTACKS = [LinearRegion(starts=3, regions=4), Closest(budget=500)]
by_attack = pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)


def _points(count, shape, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, *shape, generator=generator, dtype=torch.float64).to(dtype)


def _linear(count=6, classes=4):
    """A linear classifier in a box that matters."""
    clf = Classifier(LinearModel((3, 4), classes, 0), bounds=(0, 1))
    x = (1.6 * _points(count, (3, 4)) - 0.3).clamp(0, 1)  # many features on a face
    return clf, x, clf.logits(x).argmax(dim=1)


def _problem(name, count=6):
    clf = classifier(name, seed=2)
    x = _points(count, shape_of(name), seed=3)
    return clf, x, clf.logits(x).argmax(dim=1)


def _exact_linear(clf, x, goal, norm=L2):
    """`(N,)` distances: the box is one region."""
    solver = WorkingSet() if norm == L2 else LinearPrograms(norm=norm)
    logits = clf.logits(x)
    choices = []
    for k in range(logits.shape[1]):
        classes = torch.full((len(x),), k)
        lower = solver(Polytopes.at(clf, x, decision_towards(goal, classes, logits)), x).lower
        own = classes == goal.labels if isinstance(goal, Misclassified) else classes < 0
        choices.append(torch.where(own, torch.inf, lower))
    return torch.stack(choices).amin(dim=0)


@by_attack
def test_on_linear_classifiers_in_a_box_they_are_exact(attack):
    clf, x, y = _linear()
    for goal in (Misclassified(y), ClassifiedAs((y + 1) % 4)):
        expected = _exact_linear(clf, x, goal)
        assert expected.isfinite().all()
        found = attack(clf, x, y, goal=goal)
        assert found.success.all()
        assert torch.allclose(found.distance, expected, rtol=1e-5)
        # The box matters: without it, the boundary is nearer.
        free = Classifier(clf.network, bounds=(-10.0, 10.0))
        assert (attack(free, x, y, goal=goal).distance < expected * (1 - 1e-3)).any()


@pytest.mark.parametrize("norm", [L1, Linf], ids=str)
def test_linear_programs_are_exact_on_linear_classifiers(norm):
    clf, x, y = _linear()
    found = LinearRegion(norm=norm, starts=3, regions=1)(clf, x, y)
    expected = _exact_linear(clf, x, Misclassified(y), norm)
    assert torch.allclose(found.distance, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp", "resnet", "1d", "pooled"])
@by_attack
def test_the_last_point_is_the_nearest_one_of_its_region(attack, name):
    # The optimum of the region that the attack ended in, towards the class it ended at.
    clf, x, y = _problem(name)
    found = attack(clf, x, y)
    assert found.success.all()
    decided = clf.logits(found.adversarial)
    assert (decided.argmax(dim=1) != y).all()
    inside = x + (1 - 1e-6) * (found.adversarial - x)
    assert (clf.logits(inside).argmax(dim=1) == y).all()
    classes = decided.scatter(1, y[:, None], -torch.inf).argmax(dim=1)
    cut = decision_towards(Misclassified(y), classes, decided)
    exact = WorkingSet()(Polytopes.at(clf, found.adversarial, cut), x)
    assert (exact.lower <= found.distance * (1 + 1e-6)).all()
    agree = (found.distance - exact.lower) <= 1e-4 * exact.lower
    assert agree.float().mean() >= 0.5


@pytest.mark.parametrize("name", ["resnet", "pooled"])
@by_attack
def test_targets_are_reached(attack, name):
    clf, x, y = _problem(name)
    targets = (y + 1) % 3
    aimed = attack(clf, x, y, goal=ClassifiedAs(targets))
    decided = clf.logits(aimed.adversarial).argmax(dim=1)
    assert torch.equal(aimed.success, decided == targets)
    assert aimed.success.sum() >= 4
    other = attack(clf, x, y, goal=ClassifiedAs((y + 2) % 3))
    free = attack(clf, x, y)
    nearest = torch.minimum(aimed.distance, other.distance)
    assert (free.distance <= nearest * 1.05).all()


@pytest.mark.parametrize("name", ["resnet", "1d", "pooled"])
@by_attack
def test_results_belong_to_the_sample(attack, name):
    clf, x, y = _problem(name)
    together = attack(clf, x, y, indices=range(10, 16))
    for rows in ([3, 0, 5, 1], [2], [5, 4, 3, 2, 1, 0]):
        chosen = torch.tensor(rows)
        some = attack(clf, x[chosen], y[chosen], indices=[10 + row for row in rows])
        assert torch.equal(some.success, together.success[chosen])
        assert torch.allclose(some.distance, together.distance[chosen], rtol=1e-8)
        assert torch.allclose(some.adversarial, together.adversarial[chosen], atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@by_attack
def test_in_padded_chunks_results_are_the_same_bit_for_bit(attack, dtype):
    torch.manual_seed(0)
    clf = Classifier(Aligned().to(dtype))
    x = _points(6, (1, 10, 10), dtype=dtype)
    y = clf.logits(x).argmax(dim=1)

    def in_chunks(order):
        found = {}
        for first in range(0, len(order), 4):
            chunk = order[first : first + 4]
            padded = torch.tensor(chunk + chunk[-1:] * (4 - len(chunk)))
            result = attack(clf, x[padded], y[padded], indices=padded.tolist())
            for place, index in enumerate(chunk):
                found[index] = result.adversarial[place]
        return torch.stack([found[index] for index in range(6)])

    reference = in_chunks([0, 1, 2, 3, 4, 5])
    assert (clf.logits(reference).argmax(dim=1) != y).any()
    assert torch.equal(in_chunks([5, 2, 0, 4, 3, 1]), reference)


@by_attack
def test_a_sample_without_a_start_is_reported(attack):
    class OnlyAbove(nn.Module):
        """Decides for class 1 where a hidden unit is on; for the last two samples it never is."""

        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.head = nn.Linear(2, 1), nn.Linear(1, 2)

        def forward(self, x):
            return self.head(torch.relu(self.hidden(x)))

    model = OnlyAbove().double()
    model.hidden.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    model.hidden.bias.data.fill_(-0.5)
    model.head.weight.data.copy_(torch.tensor([[0.0], [1.0]]))
    model.head.bias.data.copy_(torch.tensor([0.1, 0.0]))
    x = torch.tensor([[0.2, 0.5], [0.55, 0.5]], dtype=torch.float64)
    y = torch.zeros(2, dtype=torch.int64)
    found = attack(Classifier(model), x, y)
    assert torch.allclose(found.distance, torch.tensor([0.4, 0.05]).double(), rtol=1e-6)
    # Beyond these bounds class 1 never wins.
    lower, upper = torch.tensor([0.0, 0.0]), torch.tensor([0.58, 1.0])
    never = attack(Classifier(model, bounds=(lower, upper)), x, y)
    assert not never.success.any()
    assert torch.isinf(never.distance).all()
    assert never.adversarial.isfinite().all()
    assert never.adversarial.shape == x.shape


def test_one_sample_without_a_start_does_not_stop_the_others():
    clf, x, y = _problem("pooled")
    labels = y.clone()
    logits = clf.logits(x)
    goal = ClassifiedAs(torch.where(torch.arange(6) == 2, y, (y + 1) % 3))
    found = LinearRegion(starts=2, regions=2)(clf, x, labels, goal=goal)
    assert float(found.distance[2]) == 0.0
    assert torch.equal(found.adversarial[2], x[2])
    assert found.success.sum() >= 4
    # Data points of the wrong classes only: nowhere to start from.
    nowhere = NearestPoints(points=x, labels=(logits.argmax(dim=1) + 1) % 3)
    lost = LinearRegion(starts=2, regions=2, start=nowhere)(clf, x, y)
    assert not lost.success.any()
    assert torch.isinf(lost.distance).all()
    assert torch.equal(lost.adversarial, x)


def test_smooth_networks_are_refused_with_a_remedy_that_works():
    torch.manual_seed(0)
    clf = Classifier(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double())
    x = _points(4, (6,))
    y = clf.logits(x).argmax(dim=1)
    with pytest.raises(UnsupportedOperationError, match=r"attacks\.Closest.*attacks\.FAB"):
        LinearRegion()(clf, x, y)
    found = Closest(budget=300)(clf, x, y)
    assert torch.equal(found.success, clf.logits(found.adversarial).argmax(dim=1) != y)
    assert found.success.any()


@by_attack
def test_other_goals_are_refused(attack):
    clf, x, y = _linear()
    goal = SameLogits(clf.logits(x), torch.full((6,), 1e-3, dtype=torch.float64))
    with pytest.raises(ValueError, match="SameLogits"):
        attack(clf, x, y, goal=goal)


def test_the_published_configuration_is_that_of_the_paper():
    points, labels = torch.rand(4, 2), torch.tensor([0, 1, 0, 1])
    attack = LinearRegion.published(points, labels)
    assert (attack.regions, attack.starts, attack.gamma, attack.q) == (500, 5, 6.0, 0.8)
    assert attack.solver == Accelerated(
        steps=500, power_iterations=20, sampled_rows=10, decision_factor=75.0
    )
    assert attack.independent
    assert isinstance(attack.start, NearestPoints)
    assert attack.start.points is points
    other = LinearRegion.published(points, labels, starts=15, gamma=9.0, regions=400, seed=3)
    assert (other.regions, other.starts, other.gamma, other.seed) == (400, 15, 9.0, 3)


@pytest.mark.parametrize("name", ["mlp", "pooled"])
def test_the_published_attack_runs_and_finds_what_ours_finds(name):
    clf, x, y = _problem(name)
    points = _points(200, x.shape[1:], seed=5)
    labels = clf.logits(points).argmax(dim=1)
    found = LinearRegion.published(points, labels, starts=2, regions=3)(clf, x, y)
    start = NearestPoints(points=points, labels=labels)
    ours = LinearRegion(starts=2, regions=3, start=start)(clf, x, y)
    assert found.success.all()
    assert ours.success.all()
    ratio = found.distance / ours.distance
    assert (ratio > 0.5).all()
    assert (ratio < 2.0).all()


@pytest.mark.parametrize("start", ["towards", "points"])
@pytest.mark.parametrize("solver", [WorkingSet(rounds=5), Accelerated(steps=30)], ids=["ws", "acc"])
def test_walks_only_come_nearer(start, solver):
    clf, x, y = _problem("pooled")
    points = _points(100, x.shape[1:], seed=5)
    begin = {
        "towards": Towards(),
        "points": NearestPoints(points=points, labels=clf.logits(points).argmax(dim=1)),
    }[start]
    attack = LinearRegion(starts=2, regions=5, start=begin, solver=solver)
    states = list(attack.progress(clf, x, y))
    assert [state.regions for state in states] == [0, 1, 2, 3, 4, 5]
    for before, after in itertools.pairwise(states):
        assert (after.distances <= before.distances).all()
    assert (states[-1].distances < states[0].distances).any()
    for state in states:
        reached = state.distances.isfinite()
        decided = clf.logits(state.points[reached]).argmax(dim=1)
        assert (decided != y[:, None].expand_as(reached)[reached]).all()
        lengths = L2.length((state.points - x[:, None])[reached])
        assert torch.allclose(lengths, state.distances[reached], rtol=1e-12)
    result = attack(clf, x, y)
    assert (result.distance <= states[-1].distances.amin(dim=1) * (1 + 1e-12)).all()


def test_the_nearest_data_points_must_fit():
    clf, x, y = _problem("mlp")
    for points, labels in (
        (torch.rand(5, 64), torch.zeros(5, dtype=torch.int64)),
        (torch.rand(5, 1, 8, 8), torch.zeros(4, dtype=torch.int64)),
    ):
        start = NearestPoints(points=points, labels=labels)
        with pytest.raises(ValueError, match="do not fit samples of shape"):
            LinearRegion(starts=1, regions=1, start=start)(clf, x, y)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LinearRegion(q=1.5), "q must lie in"),
        (lambda: LinearRegion(gamma=0.0), "gamma be positive"),
        (lambda: LinearRegion(norm=Linf, solver=Accelerated()), "works in L2"),
        (lambda: LinearRegion(seed=-1), "seed must be an integer"),
        (lambda: LinearRegion(starts=0), "starts must be an integer"),
        (lambda: LinearRegion(regions=0), "regions must be an integer"),
        (lambda: LinearRegion(batch=0), "batch must be an integer"),
        (lambda: Closest(budget=0), "budget must be an integer"),
    ],
)
def test_hyperparameters_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_success_lost_to_rounding_is_found_a_few_ulps_farther():
    class Cancelling(nn.Module):
        """Logits near zero, as the difference of larger values."""

        def forward(self, x):
            return torch.cat([0 * x, (x + 1.0) - 1.3], dim=1)

    clf = Classifier(Cancelling(), dtype=torch.float64)
    x = torch.zeros(4, 1, dtype=torch.float64)
    goal = Misclassified(torch.zeros(4, dtype=torch.int64))
    found = torch.tensor([[0.3 - 1e-15], [0.3 - 1e-12], [0.4], [0.1]], dtype=torch.float64)
    assert goal.met(clf.logits(found)).tolist() == [False, False, True, False]
    short = shorten(clf, x, found, goal, steps=60)
    assert goal.met(clf.logits(short)).tolist() == [True, False, True, False]
    assert torch.equal(short[[1, 3]], found[[1, 3]])
    assert ((short[[0, 2]] - 0.3).abs() <= 1e-14).all()
