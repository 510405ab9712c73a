"""Adversarial spheres against sampling, search and the circle's closed form."""

from __future__ import annotations

import math

import pytest
import torch

from elbowroom import Classifier
from elbowroom.perception.spheres import (
    RadialClassifier,
    Spheres,
    invariance_examples,
    sensitivity_examples,
)


def test_samples_lie_on_their_spheres_in_every_direction():
    spheres = Spheres(dimension=3, inner=1.0, outer=2.0)
    x, y = spheres.sample(4000, dtype=torch.float64)
    torch.testing.assert_close(x.norm(dim=1), torch.where(y == 1, 2.0, 1.0).double())
    assert x.mean(dim=0).abs().max() < 0.1
    # Archimedes: a coordinate of a uniform point on a sphere in three dimensions is uniform.
    share = (x[:, 0] / x.norm(dim=1) / 2 + 0.5).sort().values
    uniform = torch.linspace(0, 1, len(x), dtype=torch.float64)
    assert (share - uniform).abs().max() < 1.95 / math.sqrt(len(x))
    again = spheres.sample(100, dtype=torch.float64)[0]
    assert torch.equal(again, x[:100])


def test_the_max_margin_classifier_makes_no_error():
    spheres = Spheres(dimension=20)
    x, y = spheres.sample(200)
    clf = Classifier(spheres.max_margin(), bounds=(-2, 2), dtype=torch.float32)
    assert torch.equal(clf.logits(x).argmax(dim=1), y)
    assert spheres.errors(spheres.max_margin()) == (0, 0)
    logits = clf.logits(x)
    torch.testing.assert_close((logits[:, 1] - logits[:, 0]).abs(), torch.full((200,), 0.15))


@pytest.mark.parametrize(("dimension", "seen"), [(2, 1), (10, 7), (50, 45)])
def test_errors_by_sampling(dimension, seen):
    spheres = Spheres(dimension=dimension)
    x, y = spheres.sample(4000, seed=3, dtype=torch.float64)
    classifier = RadialClassifier.fit(x[:400], y[:400], seen=seen)
    wrong = classifier(x).argmax(dim=1) != y
    for label, expected in enumerate(spheres.errors(classifier)):
        found = float(wrong[y == label].double().mean())
        assert found == pytest.approx(expected, abs=4 * math.sqrt(0.25 / 2000))


def test_errors_on_the_circle_are_arcs():
    spheres = Spheres(dimension=2, inner=1.0, outer=2.0)
    inner, outer = spheres.errors(RadialClassifier(1, 0.5))
    assert inner == pytest.approx(1 - 2 / math.pi * math.asin(0.5))
    assert outer == pytest.approx(2 / math.pi * math.asin(0.25))
    assert spheres.errors(RadialClassifier(1, 1.5))[0] == 0


def test_the_fitted_threshold_makes_the_fewest_training_errors():
    x, y = Spheres(dimension=6).sample(101, seed=1, dtype=torch.float64)
    classifier = RadialClassifier.fit(x, y, seen=4)
    radii = x[:, :4].norm(dim=1).sort().values
    thresholds = (radii[1:] + radii[:-1]) / 2
    errors = [int(((x[:, :4].norm(dim=1) > t).long() != y).sum()) for t in thresholds]
    own = int((classifier(x).argmax(dim=1) != y).sum())
    assert own == min(errors)
    separable = Spheres(dimension=4, inner=1.0, outer=2.0)
    x, y = separable.sample(10, dtype=torch.float64)
    assert RadialClassifier.fit(x, y, seen=4).threshold == pytest.approx(1.5)


def test_sensitivity_examples_on_the_circle():
    x = torch.tensor([[1.2, 1.6], [1.2, -1.6], [0.0, 2.0], [-2.0, 0.0]], dtype=torch.float64)
    found = sensitivity_examples(RadialClassifier(1, 0.5), x)
    b, c = 0.5, math.sqrt(4 - 0.25)
    torch.testing.assert_close(
        found.point, torch.tensor([[b, c], [b, -c], [b, c], [-b, c]], dtype=torch.float64)
    )
    torch.testing.assert_close(found.distance, (found.point - x).norm(dim=1))


def test_no_point_of_the_sphere_beyond_the_boundary_is_nearer():
    spheres = Spheres(dimension=4, inner=1.0, outer=1.3)
    classifier = RadialClassifier(3, 0.9)
    x, y = spheres.sample(12, seed=2, dtype=torch.float64)
    found = sensitivity_examples(classifier, x)
    torch.testing.assert_close(found.point.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(classifier.radius(found.point), torch.full((12,), 0.9).double())
    generator = torch.Generator().manual_seed(3)
    many = torch.randn(40_000, 4, dtype=torch.float64, generator=generator)
    many = many / many.norm(dim=1, keepdim=True)
    for i in range(12):
        candidates = many * x[i].norm()
        side = classifier.radius(candidates) > 0.9
        other = candidates[side != (classifier.radius(x[i : i + 1]) > 0.9)]
        nearest = float((other - x[i]).norm(dim=1).min())
        assert float(found.distance[i]) <= nearest < float(found.distance[i]) + 0.15
    # Beyond the boundary the decision has changed, the class has not.
    direction = found.point - x
    beyond = x + 1.01 * direction
    changed = classifier(beyond).argmax(dim=1) != classifier(x).argmax(dim=1)
    assert changed.all()
    assert set(y.tolist()) == {0, 1}


def test_invariance_examples_keep_the_logits_and_change_the_class():
    spheres = Spheres(dimension=5, inner=1.0, outer=1.3)
    classifier = RadialClassifier(4, 1.0)
    x, y = spheres.sample(300, seed=4, dtype=torch.float64)
    inner, outer = x[y == 0], x[y == 1]
    outward = invariance_examples(classifier, inner, 1.3)
    assert outward.distance.isfinite().all()  # always possible, as the thesis says
    torch.testing.assert_close(outward.point.norm(dim=1), torch.full_like(outward.distance, 1.3))
    torch.testing.assert_close(classifier(outward.point), classifier(inner))
    assert (outward.distance >= 0.3).all()
    inward = invariance_examples(classifier, outer, 1.0)
    possible = classifier.radius(outer) <= 1.0
    assert 0 < int(possible.sum()) < len(outer)
    assert torch.equal(inward.distance.isfinite(), possible)
    assert torch.equal(inward.point[~possible], outer[~possible])
    torch.testing.assert_close(
        inward.point[possible].norm(dim=1), torch.ones(int(possible.sum())).double()
    )
    there_and_back = invariance_examples(classifier, outward.point, 1.0)
    torch.testing.assert_close(there_and_back.point, inner)


def test_one_point_can_be_both_kinds_of_example():
    """Fig. 2.5: an inner point moved outward has a decision that outer points near it lack."""
    classifier = RadialClassifier(1, 0.5)
    inner = torch.tensor([[0.5 - 1e-9, math.sqrt(1 - 0.25)]], dtype=torch.float64)
    moved = invariance_examples(classifier, inner, 2.0).point
    start = torch.tensor([[1.2, 1.6]], dtype=torch.float64)
    torch.testing.assert_close(sensitivity_examples(classifier, start).point, moved)


def test_a_classifier_that_sees_everything_has_no_such_examples():
    spheres = Spheres(dimension=3)
    x, _ = spheres.sample(4)
    for found in (
        sensitivity_examples(spheres.max_margin(), x),
        invariance_examples(spheres.max_margin(), x, 1.3),
    ):
        assert (found.distance == torch.inf).all()
        assert torch.equal(found.point, x)
    beyond = sensitivity_examples(RadialClassifier(2, 5.0), x)
    assert (beyond.distance == torch.inf).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spheres(dimension=1), "at least 2"),
        (lambda: Spheres(inner=2.0, outer=1.0), "0 < inner < outer"),
        (lambda: RadialClassifier(0, 1.0), "must be positive"),
        (lambda: Spheres(dimension=3).errors(RadialClassifier(4, 1.0)), "4 of 3"),
        (lambda: RadialClassifier.fit(torch.ones(2, 2), torch.zeros(2), seen=1), "0 and 1"),
        (lambda: RadialClassifier.fit(torch.ones(2, 2), torch.arange(2), seen=3), "seen must"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
