"""Feature distances against hand computation, and the ways to name layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nets
from elbowroom import Classifier
from elbowroom.perception import FeatureDistance, class_distances, representation


def network():
    torch.manual_seed(1)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(2, 4, 3))
    model.add_module("relu", nn.ReLU())
    model.add_module("flatten", nn.Flatten())
    model.add_module("fc", nn.Linear(36, 6))
    model.add_module("tanh", nn.Tanh())
    model.add_module("out", nn.Linear(6, 3))
    return model.double()


def features(model, x):
    conv = F.relu(model.conv(x))
    dense = torch.tanh(model.fc(conv.flatten(1)))
    return conv.detach(), dense.detach()


def pair(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, 2, 5, 5, generator=generator, dtype=torch.float64) for _ in "xy"]


def test_l2_of_all_activations_and_of_one_layer():
    model, (x, y) = network(), pair()
    (c, d), (e, f) = features(model, x), features(model, y)
    clf = Classifier(model)
    both = torch.cat([(c - e).flatten(1), d - f], dim=1).square().sum(dim=1).sqrt()
    torch.testing.assert_close(FeatureDistance(clf, kind="l2")(x, y), both)
    dense = (d - f).square().sum(dim=1).sqrt()
    torch.testing.assert_close(FeatureDistance(clf, ["tanh"], kind="l2")(x, y), dense)


def test_cosine_is_the_mean_over_layers():
    model, (x, y) = network(), pair()
    (c, d), (e, f) = features(model, x), features(model, y)
    first = 1 - F.cosine_similarity(c.flatten(1), e.flatten(1))
    second = 1 - F.cosine_similarity(d, f)
    found = FeatureDistance(Classifier(model), ["relu", "tanh"], kind="cosine")(x, y)
    torch.testing.assert_close(found, (first + second) / 2, rtol=1e-6, atol=1e-9)


def test_cosine_of_zero_features():
    clf = Classifier(nn.Sequential(nn.ReLU(), nn.Linear(3, 2)).double(), bounds=(-1, 1))
    zero, some = torch.full((1, 3), -1.0).double(), torch.full((1, 3), 0.5).double()
    distance = FeatureDistance(clf, kind="cosine")
    assert float(distance(zero, zero)) == 0
    assert float(distance(zero, some)) == pytest.approx(0.5)


@pytest.mark.parametrize("weighted", [False, True])
def test_lpips_kind_position_by_position(weighted):
    model, (x, y) = network(), pair()
    weights = (
        {"relu": torch.tensor([0.5, 0.0, 2.0, 1.0]), "tanh": torch.rand(6)} if weighted else {}
    )
    expected = torch.zeros(3, dtype=torch.float64)
    for name, a, b in zip(["relu", "tanh"], features(model, x), features(model, y), strict=True):
        a, b = a.reshape(3, a.shape[1], -1), b.reshape(3, b.shape[1], -1)
        weight = weights.get(name, torch.ones(a.shape[1])).double()
        for position in range(a.shape[2]):
            p, q = (v[:, :, position] / v[:, :, position].norm(dim=1)[:, None] for v in (a, b))
            expected += ((p - q).square() * weight).sum(dim=1) / a.shape[2]
    clf = Classifier(model)
    found = FeatureDistance(clf, ["relu", "tanh"], kind="lpips", weights=weights or None)(x, y)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)
    if not weighted:
        torch.testing.assert_close(FeatureDistance(clf)(x, y), expected, rtol=1e-7, atol=0)


def test_lpips_and_cosine_ignore_the_scale_of_features():
    model, (x, y) = network(), pair()
    before = [
        FeatureDistance(Classifier(model), ["relu"], kind=k)(x, y) for k in ("lpips", "cosine")
    ]
    with torch.no_grad():
        model.conv.weight *= 100
        model.conv.bias *= 100
    after = [
        FeatureDistance(Classifier(model), ["relu"], kind=k)(x, y) for k in ("lpips", "cosine")
    ]
    torch.testing.assert_close(after, before, rtol=1e-7, atol=0)


def test_passes_are_counted_and_each_image_is_described_once():
    clf = Classifier(network())
    x, y = pair()
    FeatureDistance(clf)(x, y)
    assert clf.cost.forward == 6
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    class_distances(FeatureDistance(clf), torch.cat([x, y]), labels, chunk=4)
    assert clf.cost.forward == 12
    assert clf.cost.backward == 0


def test_names_are_those_of_the_users_model_whatever_the_normalisation():
    model, (x, y) = network(), pair()
    plain = FeatureDistance(Classifier(model), ["relu"], kind="l2")((x - 0.5) / 2, (y - 0.5) / 2)
    normalised = Classifier(model, mean=[0.5, 0.5], std=[2.0, 2.0])
    torch.testing.assert_close(FeatureDistance(normalised, ["relu"], kind="l2")(x, y), plain)
    numbered = Classifier(nn.Sequential(*model.children()), mean=0.5, std=2.0)
    torch.testing.assert_close(FeatureDistance(numbered, ["1"], kind="l2")(x, y), plain)


class Shared(nn.Module):
    """One activation, used twice, and a layer of two nodes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 2)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.b(torch.relu(self.relu(self.a(x)) - 1)))


def test_of_a_layer_used_twice_the_last_use_counts_or_a_node():
    torch.manual_seed(0)
    clf = Classifier(Shared().double())
    x, y = (torch.rand(4, 3, dtype=torch.float64) for _ in "xy")
    graph = clf.graph((3,))
    first, second = (node.index for node in graph.nodes if node.name == "relu")
    last, number = (FeatureDistance(clf, [layer], kind="l2")(x, y) for layer in ("relu", second))
    torch.testing.assert_close(last, number)
    found = FeatureDistance(clf, [first], kind="l2")(x, y)
    model = clf.network
    expected = (torch.relu(model.a(x)) - torch.relu(model.a(y))).norm(dim=1).detach()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", nets.PIECEWISE_AFFINE)
def test_every_kind_of_network_has_a_distance(name):
    model, shape = nets.make(name)
    clf = Classifier(model)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(2, *shape, generator=generator, dtype=torch.float64) for _ in "xy")
    found = FeatureDistance(clf)(x, y)
    assert found.isfinite().all()
    assert (found > 0).all()


def test_the_representation_is_what_the_last_linear_layer_reads():
    model, (x, y) = network(), pair()
    clf = Classifier(model)
    layer = representation(clf.graph((2, 5, 5)))
    assert clf.graph((2, 5, 5)).nodes[layer].name == "tanh"
    (_, d), (_, f) = features(model, x), features(model, y)
    found = FeatureDistance(clf, [layer], kind="l2")(x, y)
    torch.testing.assert_close(found, (d - f).norm(dim=1))
    clf = Classifier(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    with pytest.raises(ValueError, match="do not come from a linear layer but from '1'"):
        representation(clf.graph((3,)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["nowhere"]}, "no layer 'nowhere'; the network's layers are conv, relu"),
        ({"layers": [99]}, "no node 99"),
        ({"layers": []}, "must be a list"),
        ({"layers": "relu"}, "must be a list"),
        ({"kind": "l1"}, "kind must be one of l2, cosine, lpips"),
        ({"layers": ["relu"], "weights": {"relu": torch.ones(3)}}, "4 channels, and 3 weights"),
        ({"layers": ["relu"], "weights": {"relu": -torch.ones(4)}}, "at least 0"),
        ({"layers": ["relu"], "weights": {"conv": torch.ones(4)}}, "weights for 'conv'"),
        ({"layers": ["relu"], "kind": "l2", "weights": {"relu": torch.ones(4)}}, "of an lpips"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FeatureDistance(Classifier(network()), **options)(*pair())


def test_images_of_another_precision_are_refused():
    x, y = pair()
    with pytest.raises(ValueError, match=r"float32 on cpu but the model is torch\.float64"):
        FeatureDistance(Classifier(network()))(x.float(), y.float())
    with pytest.raises(ValueError, match="no activations"):
        FeatureDistance(Classifier(nn.Linear(3, 2)))(torch.rand(1, 3), torch.rand(1, 3))
