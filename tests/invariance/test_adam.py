"""Adam on the logits: the same logits, inside the box, as close as it was."""

from __future__ import annotations

import pytest
import torch

from elbowroom import L2, Classifier, Linf
from elbowroom.invariance import AdamOnLogits
from nets import make
from oracles.linear import problem


def _pairs():
    model, shape = make("resnet", seed=1)
    generator = torch.Generator().manual_seed(0)
    start, toward = torch.rand(2, 5, *shape, generator=generator, dtype=torch.float64)
    return Classifier(model), start, toward


def test_the_logits_are_those_of_the_start():
    clf, start, toward = _pairs()
    result = AdamOnLogits(tolerance=1e-6)(clf, start=start, toward=toward)
    error = (clf.logits(result.example) - clf.logits(start)).square().mean(dim=1)
    assert result.success.all()
    assert torch.allclose(result.feature_mse, error)
    assert (error <= 1e-6).all()
    assert torch.allclose(result.distance, L2.length(result.example - toward))
    assert torch.allclose(result.distance_linf, Linf.length(result.example - toward))
    assert (result.example >= 0).all()
    assert (result.example <= 1).all()
    assert (result.distance < L2.length(start - toward)).all()


def test_on_a_linear_model_it_is_not_nearer_than_the_closed_form():
    clf, start, _ = problem(rank=1, batch=8, classes=3)
    toward = start.flip(0) * 0.5
    result = AdamOnLogits(tolerance=1e-6, learning_rates=(0.001, 0.01), steps=1500)(
        clf, start=start, toward=toward
    )
    weight = clf.network.linear.weight.detach()
    gap = clf.logits(start) - clf.logits(toward)
    nearest = torch.linalg.vector_norm(gap @ torch.linalg.pinv(weight).T, dim=1)
    assert result.success.all()
    assert (result.distance >= nearest - 1e-2).all()
    assert (result.distance <= 3 * nearest + 1e-2).all()


def test_where_nothing_nearer_is_found_the_answer_is_the_start_itself():
    clf, start, toward = _pairs()
    result = AdamOnLogits(steps=2, tolerance=1e-12)(clf, start=start, toward=toward)
    assert torch.equal(result.example, start)
    assert result.success.all()
    assert torch.allclose(result.distance, L2.length(start - toward))


def test_a_pair_that_agrees_already_is_left_alone():
    clf, start, _ = _pairs()
    result = AdamOnLogits()(clf, start=start, toward=start)
    assert (result.distance == 0).all()
    assert torch.equal(result.example, start)


def test_shapes_must_agree():
    clf, start, toward = _pairs()
    with pytest.raises(ValueError, match="must have one shape"):
        AdamOnLogits()(clf, start=start, toward=toward[:2])
