"""Which classes attacks look towards, and the starts they find there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from elbowroom import Classifier
from elbowroom.attacks import Towards
from elbowroom.attacks.fab import FAB
from elbowroom.attacks.fmn import FMN
from elbowroom.attacks.guides import likely_targets
from elbowroom.goals import Misclassified
from elbowroom.norms import L1, L2, Linf
from elbowroom.sampling import SampleRng


def linear(classes: int, features: int = 5) -> Classifier:
    torch.manual_seed(1)
    net = nn.Linear(features, classes).double()
    with torch.no_grad():  # so that strong classes are not near ones
        net.weight *= torch.linspace(0.2, 3, classes)[:, None]
    return Classifier(net, bounds=(-50, 50))


@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=str)
def test_the_first_class_of_a_linear_model_is_the_nearest_one(norm):
    clf = linear(7)
    x = torch.randn(20, 5, dtype=torch.float64)
    logits = clf.logits(x)
    y = logits.argmax(dim=1)
    targets = likely_targets(clf, x, Misclassified(y), 6, norm)
    weight = clf.network.weight.detach()
    different = 0
    for i in range(20):
        others = [c for c in range(7) if c != y[i]]
        assert sorted(targets[i].tolist()) == others
        gap = logits[i, y[i]] - logits[i]
        length = norm.dual.length(weight[y[i]] - weight)
        nearest = min(others, key=lambda c: float(gap[c] / length[c]))
        strongest = max(others, key=lambda c: float(logits[i, c]))
        assert targets[i, 0] == nearest
        if nearest != strongest:
            different += 1
            assert targets[i, 1] == strongest
    assert different > 3


@pytest.mark.parametrize(("classes", "count"), [(2, 1), (2, 5), (4, 2), (15, 3), (15, 12)])
def test_as_many_classes_as_asked_for_and_none_twice(classes, count):
    clf = linear(classes)
    x = torch.randn(8, 5, dtype=torch.float64)
    y = clf.logits(x).argmax(dim=1)
    targets = likely_targets(clf, x, Misclassified(y), count, L2)
    assert targets.shape == (8, min(count, classes - 1))
    assert all(len(set(row)) == len(row) for row in targets.tolist())
    assert not (targets == y[:, None]).any()


@pytest.mark.parametrize("attack", [FAB(steps=10), FMN(steps=30)])
@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=str)
def test_starts_are_of_other_classes_and_near(attack, norm):
    clf = linear(4)
    x = torch.randn(6, 5, dtype=torch.float64)
    logits = clf.logits(x)
    y = logits.argmax(dim=1)
    goal = Misclassified(y)
    found = Towards(attack=attack).find(clf, x, goal, 5, SampleRng(0, range(6)), norm)
    assert found.shape == (6, 5, 5)
    gap = logits.gather(1, y[:, None]) - logits
    weight = clf.network.weight.detach()
    closed_form = gap / torch.stack([norm.dual.length(weight[c] - weight) for c in y])
    least = closed_form.scatter(1, y[:, None], torch.inf).amin(dim=1)
    distances = torch.stack([norm.length(found[:, k] - x) for k in range(5)], dim=1)
    met = torch.stack([goal.met(clf.logits(found[:, k])) for k in range(5)], dim=1)
    assert met.all()
    assert (distances >= least[:, None] * (1 - 1e-9)).all()
    assert (distances.amin(dim=1) <= least * 1.1).all()
