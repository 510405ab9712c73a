"""The constraints of linear regions against explicit Jacobians and brute force."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from elbowroom import Classifier
from elbowroom.goals import ClassifiedAs, Misclassified, SameLogits
from elbowroom.graph import UnsupportedOperationError
from elbowroom.regions import Polytopes, decision_towards
from oracles.polytopes import NAMES, Aligned, classifier, explicit, shape_of


class Bent1d(nn.Module):
    """ReLU6, hardtanh and leaky ReLU, all pieces of them; a dilated, padded max pool in 1-d."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3, padding=1)
        self.head = nn.Linear(9, 3)

    def forward(self, x):
        x = F.relu6(20 * self.conv(x))
        x = F.max_pool1d(x, 3, stride=2, padding=1, dilation=2)
        return F.leaky_relu(F.hardtanh(self.head(x.flatten(1)) - 0.2, -0.3, 0.4), 0.3)


class Peaks(nn.Module):
    """Max pooling of the raw input, with padding and overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 2, 3), nn.Linear(18, 3)

    def forward(self, x):
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        return self.head(F.hardtanh(4 * self.conv(x), -0.5, 0.7).flatten(1))


MORE = {"bent1d": (Bent1d, (2, 8)), "peaks": (Peaks, (1, 9, 9))}
EVERY = [*NAMES, *MORE]


def _problem(name, count=5, dtype=torch.float64):
    """A classifier, points of it, and two decision constraints for each, one of them empty."""
    if name in MORE:
        factory, shape = MORE[name]
        torch.manual_seed(0)
        clf = Classifier(factory().to(dtype))
    else:
        clf, shape = classifier(name, dtype=dtype), shape_of(name)
    generator = torch.Generator().manual_seed(1)
    z = torch.rand(count, *shape, generator=generator, dtype=torch.float64).to(dtype)
    decision = torch.zeros(count, 2, 3, dtype=dtype)
    decision[:, 0, 0], decision[:, 0, 2] = 1.0, -1.0
    return clf, z, decision


def _vectors(polytopes, seed=2):
    generator = torch.Generator().manual_seed(seed)
    like = (len(polytopes), *polytopes.graph.input_shape)
    v = torch.randn(like, generator=generator, dtype=torch.float64)
    mu = torch.randn(len(polytopes), polytopes.slots, generator=generator, dtype=torch.float64)
    mu = mu.masked_fill(polytopes.offset == -torch.inf, 0.0)
    return v.to(polytopes.decision.dtype), mu.to(polytopes.decision.dtype)


@pytest.mark.parametrize("name", EVERY)
def test_constraints_equal_explicit_jacobians(name):
    clf, z, decision = _problem(name)
    polytopes = Polytopes.at(clf, z, decision)
    rows = polytopes.rows(torch.arange(polytopes.slots).expand(len(z), -1)).flatten(2)
    generator = torch.Generator().manual_seed(3)
    far = torch.rand(z.shape, generator=generator, dtype=torch.float64)
    excess = polytopes.excess(far)
    v, mu = _vectors(polytopes)
    pushed, pulled = polytopes.push(v), polytopes.pull(mu)
    for i in range(len(z)):
        A, b = explicit(clf, z[i : i + 1], decision[i])
        real = b.isfinite()
        assert torch.equal(excess[i].isfinite(), real)
        assert (excess[i][~real] == -torch.inf).all()
        assert int(polytopes.count()[i]) == int(real.sum())
        assert torch.allclose(rows[i], A, rtol=1e-10, atol=1e-12)
        assert (rows[i][~real] == 0).all()
        over = A @ far[i].flatten() - b
        assert torch.allclose(excess[i][real], over[real], rtol=1e-10, atol=1e-12)
        assert torch.allclose(pushed[i], A @ v[i].flatten(), rtol=1e-10, atol=1e-12)
        assert torch.allclose(pulled[i].flatten(), A.T @ mu[i], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", EVERY)
def test_nothing_is_violated_exactly_where_the_pattern_is_the_same(name):
    clf, z, _ = _problem(name, count=4)
    generator = torch.Generator().manual_seed(4)
    every = []
    for scale in (0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0):
        count = 100
        rows = torch.arange(len(z)).repeat(count)
        noise = torch.randn(len(rows), *z.shape[1:], generator=generator, dtype=torch.float64)
        near = z[rows] + scale * noise
        polytopes = Polytopes.at(clf, z).take(rows)
        inside = (polytopes.excess(near) <= 0).all(dim=1)
        assert torch.equal(inside, polytopes.contains(near))
        every.append(inside)
    assert every[0].all()
    assert not torch.cat(every).all()


@pytest.mark.parametrize("name", EVERY)
def test_pull_is_the_transpose_of_push(name):
    clf, z, decision = _problem(name)
    polytopes = Polytopes.at(clf, z, decision)
    v, mu = _vectors(polytopes)
    left = (mu * polytopes.push(v)).sum(dim=1)
    right = (polytopes.pull(mu) * v).flatten(1).sum(dim=1)
    assert torch.allclose(left, right, rtol=1e-10, atol=1e-12)


def test_constraints_are_counted_by_unit_and_window():
    # One a unit; the decision's empty slot does not count.
    clf, z, decision = _problem("mlp")
    assert (Polytopes.at(clf, z, decision).count() == 12 + 8 + 1).all()
    # ReLU6 and hardtanh: two on the middle piece, one on the outer ones. Windows of three with
    # dilation 2 over eight places, padded by one: {-1 1 3} {1 3 5} {3 5 7}.
    clf, z, decision = _problem("bent1d", count=50)
    polytopes = Polytopes.at(clf, z)
    nodes = polytopes.graph.nodes
    expected = 3 * ((2 - 1) + (3 - 1) + (3 - 1)) + 3  # the windows and the leaky ReLU
    for index, pieces in polytopes.pattern.pieces.items():
        breaks = getattr(nodes[index].op, "breaks", ())
        if len(breaks) == 2:
            assert set(pieces.unique().tolist()) == {0, 1, 2}
            expected = expected + pieces.flatten(1).shape[1] + (pieces == 1).flatten(1).sum(dim=1)
    assert torch.equal(polytopes.count(), expected)
    # Windows of 3 x 3 with stride 2 over nine places, padded by one: corners keep four members,
    # edges six.
    clf, z, _ = _problem("peaks")
    polytopes = Polytopes.at(clf, z)
    windows = 4 * (4 - 1) + 12 * (6 - 1) + 9 * (9 - 1)
    pieces = list(polytopes.pattern.pieces.values())[1].flatten(1)
    units = pieces.shape[1] + (pieces == 1).sum(dim=1)
    assert torch.equal(polytopes.count(), windows + units)


@pytest.mark.parametrize("name", ["pooled", "1d"])
def test_regions_can_be_taken_and_cut_otherwise(name):
    clf, z, decision = _problem(name)
    polytopes = Polytopes.at(clf, z, decision)
    some = torch.tensor([3, 1, 1])
    slots = torch.arange(polytopes.slots).expand(3, -1)
    taken = polytopes.take(some)
    assert torch.allclose(
        taken.excess(z[:3]), Polytopes.at(clf, z[some], decision[some]).excess(z[:3])
    )
    everything = polytopes.rows(torch.arange(polytopes.slots).expand(len(z), -1))
    assert torch.allclose(taken.rows(slots), everything[some], rtol=1e-12, atol=1e-14)
    other = polytopes.with_decision(-decision[:, :1])
    assert (polytopes.decisions, other.decisions, other.slots) == (2, 1, polytopes.slots - 1)
    excess, cut = polytopes.excess(z), other.excess(z)
    assert torch.allclose(cut[:, 0], -excess[:, 0])
    assert torch.equal(cut[:, 1:], excess[:, 2:])
    assert torch.equal(polytopes.contains(z), torch.ones(5, dtype=torch.bool))
    # Numbers below zero ask for nothing, and cost nothing.
    before = clf.cost.vjp
    assert (polytopes.rows(torch.full((5, 2), -1)) == 0).all()
    assert clf.cost.vjp == before
    polytopes.rows(torch.tensor([[0, 1, -1]] * 5))  # slot 1 of the decision is empty
    assert clf.cost.vjp == before + 5


def test_a_network_without_units_has_its_decision_only():
    clf = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double())
    z = torch.rand(2, 4, dtype=torch.float64)
    weight, bias = (p.detach() for p in clf.network[1].parameters())
    decision = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64).expand(2, 1, 3)
    polytopes = Polytopes.at(clf, z, decision)
    assert polytopes.slots == 1
    row = weight[0] - weight[1]
    assert torch.allclose(
        polytopes.rows(torch.zeros(2, 1, dtype=torch.int64))[:, 0], row.expand(2, 4)
    )
    assert torch.allclose(polytopes.excess(z)[:, 0], z @ row + bias[0] - bias[1])
    assert torch.allclose(polytopes.pull(torch.ones(2, 1, dtype=torch.float64)), row.expand(2, 4))
    assert Polytopes.at(clf, z).slots == 0
    assert (Polytopes.at(clf, z).count() == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_blocks_results_are_the_same_bit_for_bit_in_any_company(dtype):
    torch.manual_seed(0)
    clf = Classifier(Aligned().to(dtype))
    generator = torch.Generator().manual_seed(5)
    z, far = torch.rand(2, 7, 1, 10, 10, generator=generator, dtype=torch.float64).to(dtype)
    decision = torch.zeros(7, 2, 8, dtype=dtype)
    decision[:, 0, 0], decision[:, 0, 2] = 1.0, -1.0
    polytopes = Polytopes.at(clf, z, decision, block=4)
    v, mu = _vectors(polytopes)
    slots = torch.randint(-1, polytopes.slots, (7, 9), generator=generator)
    works = ((far, "excess"), (v, "push"), (mu, "pull"), (slots, "rows"))
    for chosen in ([6, 2, 0, 5, 1, 4, 3], [5], [2, 6, 3, 1, 0]):
        rows = torch.tensor(chosen)
        some = Polytopes.at(clf, z[rows], decision[rows], block=4)
        for given, method in works:
            expected = getattr(polytopes, method)(given)[rows]
            assert torch.equal(getattr(some, method)(given[rows]), expected), method
            assert torch.equal(getattr(polytopes.take(rows), method)(given[rows]), expected)


@pytest.mark.parametrize("name", EVERY)
def test_blocks_change_nothing_but_rounding(name):
    clf, z, decision = _problem(name, count=7)
    free, blocked = (Polytopes.at(clf, z, decision, block=block) for block in (None, 4))
    v, mu = _vectors(free)
    slots = torch.arange(0, free.slots, 3).expand(7, -1)
    for given, method in ((z.flip(0), "excess"), (v, "push"), (mu, "pull"), (slots, "rows")):
        expected = getattr(free, method)(given)
        assert torch.allclose(getattr(blocked, method)(given), expected, rtol=1e-11, atol=1e-12)


def test_decisions_hold_where_the_goal_is_met():
    logits = torch.randn(200, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    labels = torch.randint(4, (200,), generator=torch.Generator().manual_seed(7))
    decided = ClassifiedAs(labels)
    inside = decision_towards(decided, labels, logits)
    assert inside.shape == (200, 3, 4)
    met = (torch.einsum("njk,nk->nj", inside, logits) <= 0).all(dim=1)
    assert torch.equal(met, decided.met(logits))
    # Misclassified: one class beats the label; some class does exactly where the goal is met.
    wrong = Misclassified(labels)
    somewhere = torch.zeros(200, dtype=torch.bool)
    for k in range(4):
        classes = torch.full_like(labels, k)
        cut = decision_towards(wrong, classes, logits)
        assert cut.shape == (200, 1, 4)
        beaten = (cut[:, 0] * logits).sum(dim=1) <= 0
        other = labels != k
        above = logits[:, k] >= logits.gather(1, labels[:, None]).squeeze(1)
        assert torch.equal(beaten[other], above[other])
        somewhere |= beaten & other
    assert torch.equal(somewhere, wrong.met(logits))


def test_what_has_no_regions_is_refused():
    logits = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="not SameLogits"):
        decision_towards(
            SameLogits(logits, torch.ones(2)), torch.zeros(2, dtype=torch.int64), logits
        )
    smooth = Classifier(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    with pytest.raises(UnsupportedOperationError, match="'1'"):
        Polytopes.at(smooth, torch.rand(1, 3))
