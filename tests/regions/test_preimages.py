"""Exact preimages: the thesis's worked example, brute force, and the networks themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import nets
from elbowroom import Classifier
from elbowroom.graph import UnsupportedOperationError, pattern, trace
from elbowroom.graph.evaluate import evaluate
from elbowroom.models import build
from elbowroom.regions import (
    ExactPreimage,
    Polyhedron,
    PolyhedronUnion,
    decision_region,
)
from elbowroom.regions.chain import layers
from elbowroom.regions.preimages import MOST_UNITS
from oracles.regions import every_pattern

FORWARD, BACKWARD = ExactPreimage(), ExactPreimage(approach="backward")


def traced(model: nn.Module, *shape: int):
    return trace(model.double().eval(), shape, dtype=torch.float64)


# -- the worked example, section 3.1.1 ------------------------------------------------------------


def two_one_two():
    """Equation 3.28."""
    model = nn.Sequential(nn.Linear(2, 1), nn.ReLU(), nn.Linear(1, 2), nn.ReLU()).double()
    with torch.no_grad():
        for layer, weight, bias in ((0, [[1, 1]], [0]), (2, [[1], [2]], [0, -5])):
            model[layer].weight.copy_(torch.tensor(weight))
            model[layer].bias.copy_(torch.tensor(bias))
    return traced(model, 2)


TARGET = Polyhedron(np.array([[-1, -1], [1, -1]]), np.array([-1, 2]))
C = [-1, 2, 0, 0]
# Equations 3.30 to 3.33.
X4 = [
    ([[-1, -1], [1, -1], [-1, 0], [0, -1]], C),
    ([[-1, 0], [1, 0], [-1, 0], [0, 1]], C),
    ([[0, -1], [0, -1], [1, 0], [0, -1]], C),
    ([[0, 0], [0, 0], [1, 0], [0, 1]], C),
]
# Equations 3.34, with -2 in the fourth row, and 3.35.
X3 = [
    ([[-3], [-1], [-1], [-2]], [-6, -3, 0, -5]),
    ([[-1], [1], [-1], [2]], [-1, 2, 0, 5]),
    ([[-2], [-2], [1], [-2]], [-6, -3, 0, -5]),
]
# Equations 3.36 and 3.37; the last row, of the first ReLU, is one that the thesis leaves out.
X1 = [
    ([[-3, -3], [-1, -1], [-1, -1], [-2, -2], [-1, -1]], [-6, -3, 0, -5, 0]),
    ([[-1, -1], [1, 1], [-1, -1], [2, 2], [-1, -1]], [-1, 2, 0, 5, 0]),
]


def assert_rows(polyhedron: Polyhedron, expected) -> None:
    np.testing.assert_array_equal(polyhedron.A, expected[0])
    np.testing.assert_array_equal(polyhedron.c, expected[1])


def test_worked_example_of_one_relu_layer_has_the_rows_of_equation_3_15():
    regions = FORWARD.regions(traced(nn.ReLU(), 2))
    orthants = [(1, 1), (1, 0), (0, 1), (0, 0)]
    assert [piece.pattern for piece in regions.pieces] == orthants
    sets = [piece.preimage(TARGET) for piece in regions.pieces]
    for found, expected in zip(sets, X4, strict=True):
        assert_rows(found, expected)
    assert [found.inside is not None for found in sets] == [True, True, True, False]


def test_worked_example_backward_layer_by_layer():
    relu, weights = BACKWARD.layers, (np.array([[1.0], [2.0]]), np.array([0.0, -5.0]))
    (fourth,) = relu(traced(nn.ReLU(), 2), TARGET)
    X_4 = [piece.polyhedron for piece in fourth.preimage.pieces]
    for found, expected in zip(X_4, X4[:3], strict=True):  # the fourth one is empty
        assert_rows(found, expected)
    X_3 = [found.preimage(*weights) for found in X_4]
    for found, expected in zip(X_3, X3, strict=True):
        assert_rows(found, expected)
    assert X_3[0].contains([[3.0], [1e6], [2.999]]).tolist() == [True, True, False]
    np.testing.assert_allclose(X_3[1].vertices, [[1.0], [2.0]])
    assert X_3[2].inside is None
    # The first ReLU has no effect but for a row: X(2) = X(3).
    values = np.linspace(-10, 10, 2001)[:, None]
    X_2 = []
    for before in X_3[:2]:
        (second,) = relu(traced(nn.ReLU(), 1), before)
        (piece,) = second.preimage.pieces
        assert_rows(piece.polyhedron, (np.vstack([before.A, [[-1]]]), np.append(before.c, 0)))
        np.testing.assert_array_equal(second.preimage.contains(values), before.contains(values))
        X_2.append(piece.polyhedron)
    X_1 = [found.preimage(np.ones((1, 2)), np.zeros(1)) for found in X_2]
    for found, expected in zip(X_1, X1, strict=True):
        assert_rows(found, expected)
    # All of it at once; layers are affine maps with their activations.
    found = BACKWARD.layers(two_one_two(), TARGET)
    assert [layer.node.index for layer in found] == [2, 0]
    for layer, sets in zip(found, (X3[:2], X1), strict=True):
        for piece, expected in zip(layer.preimage.pieces, sets, strict=True):
            assert_rows(piece.polyhedron, expected)


def test_worked_example_forward():
    regions = FORWARD.regions(two_one_two())
    around = np.array([[1.0, 3.0]])
    (piece,) = [piece for piece in regions.pieces if piece.region.contains(around)]
    assert piece.pattern == (1, 1, 1)
    # Equations 3.41, and 3.42 to 3.45 without the double minus.
    np.testing.assert_array_equal(piece.V, [[1, 1], [2, 2]])
    np.testing.assert_array_equal(piece.v, [0, -5])
    assert_rows(piece.region, ([[-1, -1], [-1, -1], [-2, -2]], [0, 0, -5]))
    np.testing.assert_array_equal(piece.V @ around[0] + piece.v, [4, 3])
    # Equation 3.47, then the region: the polytope X(1)_0 of the other approach.
    found = piece.preimage(TARGET)
    assert_rows(TARGET.preimage(piece.V, piece.v), ([[-3, -3], [-1, -1]], [-6, -3]))
    rows = {(*row, c) for row, c in zip(found.A.tolist(), found.c.tolist(), strict=True)}
    assert rows == {(*row, c) for row, c in zip(*X1[0], strict=True)}


def test_worked_example_both_approaches_give_the_same_two_strips():
    graph, points = two_one_two(), np.random.default_rng(0).uniform(-5, 5, (10_000, 2))
    total = points.sum(axis=1)
    expected = (total >= 3) | ((total >= 1) & (total <= 2))
    for method in (FORWARD, BACKWARD):
        found = method(graph, TARGET)
        assert len(found) == 2
        assert {piece.pattern for piece in found.pieces} == {(1, 1, 1), (1, 1, 0)}
        np.testing.assert_array_equal(found.contains(points), expected)
        # In the unit square the strip 1 <= x1 + x2 <= 2 is the upper triangle.
        assert found.clip(Polyhedron.box([0, 0], [1, 1])).volume() == pytest.approx(0.5)


def test_the_affine_map_of_figure_3_1():
    layer = nn.Linear(2, 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.5, -0.5], [0.5, 0.3]], dtype=torch.float64))
        layer.bias.copy_(torch.tensor([1.0, -0.5]))
    square = Polyhedron.box([-1, -1], [1, 1])
    found = FORWARD(traced(layer, 2), square)
    inverse = np.linalg.inv([[1.5, -0.5], [0.5, 0.3]])
    corners = (np.array([[x, y] for x in (-1, 1) for y in (-1, 1)]) - [1.0, -0.5]) @ inverse.T
    (vertices,) = found.vertices()
    assert len(vertices) == 4
    for corner in corners:
        assert np.abs(vertices - corner).max(axis=1).min() < 1e-12
    assert found.volume() == pytest.approx(4 * abs(np.linalg.det(inverse)))


def test_the_relu_of_figure_3_2():
    found = FORWARD(traced(nn.ReLU(), 2), Polyhedron(np.array([[-1, -1]]), np.array([-1])))
    points = np.random.default_rng(0).uniform(-5, 5, (5_000, 2))
    np.testing.assert_array_equal(found.contains(points), np.maximum(points, 0).sum(axis=1) >= 1)
    assert len(found) == 3


# -- networks of every kind -----------------------------------------------------------------------


class Residual(nn.Module):
    """A residual block and a sum of two branches, each with activations of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.outer = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 3)
        self.left, self.right, self.head = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(2, 3)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.leaky_relu(x + self.outer(F.relu(self.inner(x))), 0.2)
        return self.head(F.relu(self.left(x)) + F.hardtanh(self.right(x)))


class Dense(nn.Module):
    """Concatenation, up to the last layer, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(2, 3), nn.Linear(5, 2), nn.Linear(7, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        a = torch.cat([x, F.relu(self.norm(self.first(x)))], dim=1)
        return self.head(torch.cat([a, F.relu6(self.second(a))], dim=1))


def pooled(pool: nn.Module) -> nn.Module:
    """Convolutions of the two inputs as an image; max pooling of zeros ties."""
    return nn.Sequential(
        nn.Linear(2, 4), nn.Unflatten(1, (1, 1, 4)), nn.ReLU(), pool, nn.Conv2d(1, 2, (1, 2)),
        nn.PReLU(2, 0.3), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


def one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Linear(2, 6), nn.Unflatten(1, (2, 3)), nn.MaxPool1d(2, stride=1, padding=1),
        nn.Conv1d(2, 1, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3, 2),
    )  # fmt: skip


NETWORKS = {
    "relu": lambda: build("mlp", sizes=[2, 5, 3, 2]),
    "leaky relu": lambda: build("mlp", sizes=[2, 5, 3, 3], activation="leaky-relu"),
    "three inputs": lambda: build("mlp", sizes=[3, 4, 3, 2]),
    "residual": Residual,
    "dense": Dense,
    "max pool": lambda: pooled(nn.MaxPool2d((1, 2), stride=1)),
    "average pool": lambda: pooled(nn.AvgPool2d((1, 2), stride=1)),
    "one dimension": one_dimensional,
}


def network(name: str, seed: int = 0):
    """The graph, with weights large enough for boundaries near the origin."""
    torch.manual_seed(seed)
    model = NETWORKS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    nets.randomise_statistics(model, seed)
    return traced(model, 3 if name == "three inputs" else 2)


def outputs(graph, points):
    return evaluate(graph, torch.from_numpy(points))[-1].numpy()


def centred_target(values: np.ndarray, seed: int) -> Polyhedron:
    """Random half-spaces that the outputs `values` lie on both sides of."""
    A = np.random.default_rng(seed).standard_normal((2, values.shape[1]))
    return Polyhedron(A, np.quantile(values @ A.T, 0.6, axis=0))


def assert_same(found: PolyhedronUnion, expected: np.ndarray, points, distance) -> None:
    """Points nearer than 1e-9 to the boundary do not count."""
    clear = np.abs(distance) > 1e-9
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(found.contains(points)[clear], expected[clear])


@pytest.mark.parametrize("name", NETWORKS)
def test_both_approaches_against_plain_evaluation(name):
    graph = network(name)
    dimension = graph.input_shape[0]
    points = np.random.default_rng(1).uniform(-2, 2, (10_000, dimension))
    values = outputs(graph, points)
    target = centred_target(values, seed=2)
    excess = (values @ target.A.T - target.c).max(axis=1)
    expected = excess <= 0
    assert 0.1 < expected.mean() < 0.9
    box = Polyhedron.box([-2] * dimension, [2] * dimension)
    forward, backward = (m(graph, target, within=box) for m in (FORWARD, BACKWARD))
    for found in (forward, backward):
        assert_same(found, expected, points, excess)
        share = found.volume() / 4**dimension
        assert share == pytest.approx(expected.mean(), abs=4 * 0.5 / 100)
        # Sets whose interiors do not meet: a point in general position is in one at most.
        holding = sum(p.polyhedron.contains(points, -1e-9).astype(int) for p in found.solid)
        assert holding.max() == 1
    assert forward.volume() == pytest.approx(backward.volume(), rel=1e-9)
    assert {p.pattern for p in forward.solid} == {p.pattern for p in backward.solid}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_sampled_pattern_is_among_the_regions(name):
    graph = network(name, seed=3)
    dimension = graph.input_shape[0]
    box = Polyhedron.box([-2] * dimension, [2] * dimension)
    found = FORWARD.regions(graph, within=box)
    points = np.random.default_rng(0).uniform(-2, 2, (20_000, dimension))
    sampled = pattern(graph, torch.from_numpy(points)).pieces.values()
    rows = torch.cat([pieces.flatten(1).long() for pieces in sampled], dim=1).tolist()
    known = {region.pattern: place for place, region in enumerate(found.regions.pieces)}
    assert len(known) == len(found)
    assert {tuple(row) for row in rows} <= set(known)
    # And the map of the region is the network.
    values = outputs(graph, points)
    for row, point, value in list(zip(rows, points, values, strict=True))[:200]:
        piece = found.pieces[known[tuple(row)]]
        assert piece.region.contains(point[None])
        np.testing.assert_allclose(piece.V @ point + piece.v, value, atol=1e-12)
    assert found.regions.volume() == pytest.approx(4**dimension)


@pytest.mark.parametrize("activation", ["relu", "leaky-relu"])
def test_regions_are_those_of_brute_force(activation):
    """Every one of the 2^7 patterns, with its own linear program."""
    torch.manual_seed(5)
    model = build("mlp", sizes=[2, 4, 3, 2], activation=activation).double()
    graph = traced(model, 2)
    everything = every_pattern(Classifier(model), (2,))
    tables = torch.cat([p.flatten(1).long() for p in everything.pieces.values()], dim=1)
    slope = 0.0 if activation == "relu" else 0.01
    linear = [m for m in model if isinstance(m, nn.Linear)]
    expected = set()
    for choice in tables.tolist():
        V, v, A, c = np.eye(2), np.zeros(2), [], []
        for layer, pieces in zip(linear, (choice[:4], choice[4:]), strict=False):
            W, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            V, v = W @ V, W @ v + b
            sign = 1.0 - 2.0 * np.array(pieces)
            A.append(sign[:, None] * V)
            c.append(-sign * v)
            scale = np.where(np.array(pieces) == 1, 1.0, slope)
            V, v = scale[:, None] * V, scale * v
        inside = Polyhedron(np.vstack(A), np.concatenate(c)).inside
        if inside is not None and inside.radius > 0:
            expected.add(tuple(choice))
    for found in (
        {piece.pattern for piece in FORWARD.regions(graph).regions.solid},
        {p.pattern for p in BACKWARD(graph, Polyhedron.whole(2)).solid},
    ):
        assert found == expected
    assert 10 < len(expected) < 128


@settings(max_examples=12)
@given(seed=st.integers(0, 10_000))
def test_random_networks(seed):
    """Forward and backward agree with the network, whatever the weights."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    hidden = [int(n) for n in rng.integers(1, 4, size=2)]
    activation = ("relu", "leaky-relu")[seed % 2]
    graph = traced(build("mlp", sizes=[2, *hidden, 2], activation=activation), 2)
    points = rng.uniform(-3, 3, (500, 2))
    values = outputs(graph, points)
    target = centred_target(values, seed)
    excess = (values @ target.A.T - target.c).max(axis=1)
    for method in (FORWARD, BACKWARD):
        found = method(graph, target)
        clear = np.abs(excess) > 1e-9
        np.testing.assert_array_equal(found.contains(points)[clear], (excess <= 0)[clear])


@pytest.mark.parametrize(
    ("name", "count"), [("relu", 3), ("residual", 5), ("dense", 3), ("max pool", 4)]
)
def test_layers_are_cut_where_all_paths_meet(name, count):
    graph = network(name)
    points = np.random.default_rng(0).uniform(-2, 2, (50, 2))
    values = torch.from_numpy(points)
    found = layers(graph)
    assert len(found) == count
    for layer in found:
        values = evaluate(layer.graph, values)[-1]
    np.testing.assert_array_equal(values.numpy(), outputs(graph, points))


# -- sets without volume --------------------------------------------------------------------------


@pytest.mark.parametrize("method", [FORWARD, BACKWARD])
def test_the_preimage_of_a_point_is_flat_and_kept(method):
    """Under |x| and |y| the point (1, 2) comes from four points."""

    class Absolute(nn.Module):
        def forward(self, x):
            return x.abs()

    graph = traced(Absolute(), 2)
    found = method(graph, Polyhedron.box([1, 2], [1, 2]))
    assert len(found) == len(found.flat) == 4
    corners = np.array([[x, y] for x in (-1, 1) for y in (-2, 2)], dtype=float)
    assert found.contains(corners).all()
    assert not found.contains(corners + 1e-6).any()
    assert found.volume() == 0.0
    assert found.vertices() == []
    # The origin lies in four closed quadrants and is kept once.
    assert len(method(graph, Polyhedron.box([0, 0], [0, 0]))) == 1


def test_facets_and_ties_are_not_regions_of_their_own():
    # Without biases every closed region holds the origin; 4 lines through it make 8 cones.
    torch.manual_seed(0)
    cones = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    assert len(FORWARD.regions(traced(cones, 2)).regions.solid) == 8
    # The second ReLU stands on its break wherever the first one is zero.
    twice = nn.Sequential(nn.ReLU(), nn.ReLU())
    for method in (FORWARD, BACKWARD):
        found = method(traced(twice, 2), Polyhedron.whole(2))
        assert len(found) == 4
    # Two equal members of a window: only the first one ever wins.
    same = nn.Linear(1, 2)
    with torch.no_grad():
        same.weight.fill_(1.0)
        same.bias.zero_()
    tied = nn.Sequential(same, nn.Unflatten(1, (1, 2)), nn.MaxPool1d(2), nn.Flatten())
    for method in (FORWARD, BACKWARD):
        assert len(method(traced(tied, 1), Polyhedron.whole(1))) == 1


def test_a_target_out_of_reach_has_no_preimage():
    graph = network("relu")
    below = Polyhedron(np.array([[1.0], [-1.0]]), np.array([-1.0, -1.0]))
    for method in (FORWARD, BACKWARD):
        positive = traced(nn.Sequential(nn.Linear(2, 1), nn.ReLU()), 2)
        assert len(method(positive, below)) == 0  # empty itself
        assert len(method(positive, Polyhedron(np.array([[1.0]]), np.array([-1.0])))) == 0
    assert len(FORWARD(graph, decision_region(2, 0))) > 0 or len(
        FORWARD(graph, decision_region(2, 1))
    )


# -- errors ---------------------------------------------------------------------------------------


def test_networks_that_do_not_fit_are_refused():
    graph = network("relu")
    with pytest.raises(ValueError, match="3 columns, but the network has 2 outputs"):
        FORWARD(graph, Polyhedron.whole(3))
    with pytest.raises(ValueError, match="3 columns, but the network has 2 inputs"):
        BACKWARD(graph, Polyhedron.whole(2), within=Polyhedron.whole(3))
    with pytest.raises(ValueError, match=rf"201 units .* at most {MOST_UNITS}"):
        FORWARD.regions(traced(build("mlp", sizes=[2, 201, 2]), 2))
    with pytest.raises(ValueError, match="5,000 values"):
        FORWARD.regions(traced(nn.Linear(2, 5000), 2))
    for approach in ("forward", "backward"):
        few = ExactPreimage(approach=approach, limit=20)
        with pytest.raises(ValueError, match="visited 20 partial regions"):
            few(graph, Polyhedron.whole(2))
    broken = build("mlp", sizes=[2, 3, 2]).double()
    good = traced(broken, 2)
    with torch.no_grad():
        broken[1].weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite weights"):
        FORWARD.regions(good)
    with pytest.raises(ValueError, match="must be forward or backward"):
        ExactPreimage(approach="sideways")
    with pytest.raises(ValueError, match=r"shape \(N, 2\)"):
        FORWARD.regions(graph).regions.contains(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="no decision for class 2"):
        decision_region(2, 2)


def test_layers_that_are_not_piecewise_affine_are_named():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    for method in (FORWARD, BACKWARD):
        with pytest.raises(UnsupportedOperationError, match="'1' is a tanh"):
            method(traced(model, 2), Polyhedron.whole(2))
