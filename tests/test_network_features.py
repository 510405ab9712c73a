"""A part of a network as a classifier: layers, and logits up to a shift."""

from __future__ import annotations

import pytest
import torch

from elbowroom import Classifier
from elbowroom.features import features_of, layer_names
from elbowroom.graph.evaluate import evaluate
from nets import PIECEWISE_AFFINE, make


@pytest.fixture(params=sorted(PIECEWISE_AFFINE))
def problem(request):
    model, shape = make(request.param)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, *shape, generator=generator, dtype=torch.float64)
    return Classifier(model), x


def test_the_logits_are_the_classifier_itself(problem):
    clf, x = problem
    assert features_of(clf, x.shape[1:]) is clf


def test_every_layer_gives_the_values_of_its_node(problem):
    clf, x = problem
    graph = clf.graph(x.shape[1:])
    values = evaluate(graph, x)
    last = {node.name: node.index for node in graph.nodes[1:]}
    assert set(layer_names(graph)) == set(last)
    for name, index in last.items():
        part = features_of(clf, x.shape[1:], layer=name)
        assert torch.equal(part.logits(x), values[index].flatten(1))
        assert part.graph(x.shape[1:]).nodes[-1].shape == tuple(part.logits(x).shape[1:])


def test_up_to_a_shift_is_blind_to_shifts_and_to_nothing_else(problem):
    clf, x = problem
    part = features_of(clf, x.shape[1:], up_to_shift=True)
    weight = part.graph(x.shape[1:]).nodes[-1].op.weight
    count = weight.shape[1]
    assert weight.shape == (count - 1, count)
    eye = torch.eye(count - 1, dtype=torch.float64)
    assert torch.allclose(weight @ weight.T, eye)
    assert torch.allclose(weight.sum(dim=1), torch.zeros(count - 1, dtype=torch.float64))
    centred = clf.logits(x) - clf.logits(x).mean(dim=1, keepdim=True)
    assert torch.allclose(part.logits(x) @ weight, centred)


def test_normalisation_is_part_of_it():
    model, shape = make("mlp")
    clf = Classifier(model, mean=0.4, std=0.3)
    x = torch.rand(2, *shape, dtype=torch.float64)
    part = features_of(clf, shape, layer="1")
    flat = (x.flatten(1) - 0.4) / 0.3
    assert torch.allclose(part.logits(x), model[1](flat))


def test_gradients_go_through():
    model, shape = make("resnet")
    clf = Classifier(model)
    x = torch.rand(2, *shape, dtype=torch.float64)
    part = features_of(clf, shape, layer=layer_names(clf.graph(shape))[1])
    with part.session():
        _, gradient = part.gradient(x, lambda values: values.square().sum(dim=1))
    assert gradient.shape == x.shape
    assert (gradient != 0).any()


def test_a_layer_that_is_not_there_is_named_with_those_that_are():
    model, shape = make("mlp")
    with pytest.raises(ValueError, match=r"no layer 'fc'; the network's layers are 0, 1"):
        features_of(Classifier(model), shape, layer="fc")
