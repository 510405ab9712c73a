"""Lines around networks: everything between them, the radius exact where nothing is curved."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nets
from elbowroom import L1, L2, Classifier, Linf
from elbowroom.certificates import LinearRelaxation
from elbowroom.certificates.curves import normaliser, smooth_rest
from elbowroom.certificates.interval import intervals
from elbowroom.certificates.magnitude import absolute_part, fits_float32, magnitudes
from elbowroom.certificates.radius_search import searched_radius
from elbowroom.certificates.relaxation import Relaxation
from elbowroom.certificates.slopes import improved_margins
from elbowroom.graph import UnsupportedOperationError, trace
from elbowroom.graph.evaluate import evaluate
from oracles import linear

POINTS = 400


def curved() -> nn.Module:
    """Every curved layer that has lines."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.Tanh(), nn.LocalResponseNorm(3, alpha=2.0),
        nn.Conv2d(3, 4, 3), nn.Softplus(), nn.MaxPool2d(2, stride=1), nn.Flatten(),
        nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 5), nn.ELU(0.3), nn.Linear(5, 4), nn.Hardtanh(),
        nn.Linear(4, 3),
    )  # fmt: skip


def local() -> nn.Module:
    """Convolutions, the receptive fields of whose units are small in the input."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 2, padding=1),
        nn.BatchNorm2d(4), nn.Softplus(), nn.Conv2d(4, 4, 2, stride=2, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 3),
    ).eval()  # fmt: skip


BUILT = {"curved": (curved, (1, 8, 8)), "local": (local, (1, 16, 16))}


def classifier(name: str, seed: int) -> tuple[Classifier, tuple[int, ...]]:
    if name not in BUILT:
        model, shape = nets.make(name, seed)
        return Classifier(model), shape
    torch.manual_seed(seed)
    build, shape = BUILT[name]
    return Classifier(build().double()), shape


def around(name: str, seed: int, norm=L2) -> tuple[Relaxation, Classifier, torch.Tensor]:
    clf, shape = classifier(name, seed)
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    graph = clf.graph(shape)
    lower, upper = (bound.expand(shape) for bound in (clf.lower, clf.upper))
    return Relaxation(graph, evaluate(graph, x), lower, upper, norm), clf, x


def points_near(x: torch.Tensor, radius: torch.Tensor, norm, seed: int) -> torch.Tensor:
    """`(POINTS, *x.shape)`: in the balls and the box, half of them as far out as they can be."""
    generator = torch.Generator().manual_seed(seed)
    move = torch.randn(POINTS * len(x), *x.shape[1:], generator=generator, dtype=torch.float64)
    share = torch.rand(len(move), generator=generator, dtype=torch.float64)
    share[::2] = 1.0
    size = (share * radius.repeat(POINTS) / norm.length(move)).view(-1, *[1] * (x.ndim - 1))
    moved = x.repeat(POINTS, *[1] * (x.ndim - 1)) + move * size
    return moved.clamp(0, 1).view(POINTS, *x.shape)


@pytest.mark.parametrize("name", [*nets.PIECEWISE_AFFINE, *BUILT])
@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=str)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([0.0, 0.05, 0.4]))
@settings(max_examples=3)
def test_every_point_of_the_ball_is_between_the_lines(name, norm, seed, size):
    relaxation, clf, x = around(name, seed, norm)
    radius = torch.full((2,), size * (1 if norm != Linf else 0.2), dtype=torch.float64)
    enclosure = relaxation.enclose(radius)
    y = clf.logits(x).argmax(dim=1)
    margins = relaxation.margins(y, enclosure.envelopes, radius)
    better = improved_margins(relaxation, enclosure, y, radius, 3)
    points = points_near(x, radius, norm, seed)
    values = evaluate(relaxation.graph, points.flatten(0, 1))
    for index, kind in relaxation.kinds.items():
        entries = [
            kind.quantities(z.view(POINTS, 2, *z.shape[1:])[n]).view(2, -1)
            for z in [values[kind.source.index]]
            for n in range(POINTS)
        ]
        seen = torch.stack(entries)
        known = seen.new_zeros(seen.shape[1:]).bool() | kind.entries_of(
            torch.ones(2, kind.units, dtype=torch.bool)
        )
        assert bool(((seen >= enclosure.low[index] - 1e-12) | ~known).all()), kind.node.name
        assert bool(((seen <= enclosure.high[index] + 1e-12) | ~known).all()), kind.node.name
    logits = values[-1].view(POINTS, 2, -1)
    lead = logits.gather(2, y.expand(POINTS, 2)[..., None]) - logits
    assert bool((lead >= margins - 1e-12).all())
    assert bool((lead >= better - 1e-12).all())


@pytest.mark.parametrize("norm", [L1, L2, Linf], ids=str)
def test_linear_classifiers_are_exact(norm):
    clf, x, y = linear.problem(rank=2, batch=6, classes=4)
    free = Classifier(clf.network, bounds=(-math.inf, math.inf))
    truth = linear.distances(free, x, y, norm).amin(dim=1)
    found = LinearRelaxation(norm=norm, search_steps=25, tolerance=1e-4)(free, x, y).radius
    assert bool((found <= truth).all())
    torch.testing.assert_close(found, truth, rtol=1e-3, atol=0)


def test_the_box_makes_radii_larger_and_infinite_where_it_ends():
    _, clf, x = around("mlp", 3)
    y = clf.logits(x).argmax(dim=1)
    free = Classifier(clf.network, bounds=(-math.inf, math.inf))
    inside, outside = (LinearRelaxation(search_steps=15)(c, x, y).radius for c in (clf, free))
    assert bool((inside >= outside * 0.99).all())
    assert bool((inside > outside * 1.01).any())
    constant = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    constant[1].weight.data.mul_(1e-6)
    constant[1].bias.data = torch.tensor([1.0, 0.0, 0.0]).double()
    assert LinearRelaxation()(constant, x).radius.isinf().all()


def test_more_steps_of_the_slopes_raise_the_margins():
    relaxation, clf, x = around("mlp", 5)
    radius = torch.full((2,), 0.6, dtype=torch.float64)
    y = clf.logits(x).argmax(dim=1)
    enclosure = relaxation.enclose(radius)
    usual = relaxation.margins(y, enclosure.envelopes, radius)
    better = improved_margins(relaxation, enclosure, y, radius, 30)
    assert bool((better >= usual - 1e-9).all())
    assert float((better - usual).max()) > 1e-3


@pytest.mark.parametrize("name", ["resnet", "local"])
def test_rows_of_large_layers_in_float32_are_widened(monkeypatch, name):
    relaxation, _, _ = around(name, 1)
    radius = torch.full((2,), 0.1, dtype=torch.float64)
    fine = relaxation.enclose(radius)
    monkeypatch.setattr("elbowroom.certificates.relaxation.LARGE", 0)
    coarse = relaxation.enclose(radius)
    for index in fine.low:
        assert bool((coarse.low[index] <= fine.low[index] + 1e-13).all())
        assert bool((coarse.high[index] >= fine.high[index] - 1e-13).all())
        assert float((coarse.low[index] - fine.low[index]).abs().max()) < 0.01


def test_bounds_of_a_larger_ball_hold_in_smaller_ones_alone():
    relaxation, _, _ = around("resnet", 1)
    radius = torch.tensor([0.3, 0.05], dtype=torch.float64)
    known = relaxation.nothing()
    known.put(torch.arange(2), relaxation.enclose(radius), torch.tensor([True, True]))
    fresh, again = (relaxation.enclose(radius.flip(0), outer) for outer in (None, known))
    passes = relaxation.cost
    relaxation.enclose(radius * 0.9, known)
    assert (relaxation.cost - passes).vjp < passes.vjp / 3
    for index in fresh.low:
        # The first sample's ball became smaller, the second one's larger.
        assert bool((again.low[index] >= fresh.low[index])[0].all())
        assert torch.equal(again.low[index][1], fresh.low[index][1])
        assert torch.equal(again.high[index][1], fresh.high[index][1])
        settled = [
            relaxation.kinds[index].settled(each.low[index], each.high[index])[0]
            for each in (fresh, again)
        ]
        assert torch.equal(*settled)


def test_only_networks_within_its_range_are_read_in_float32():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert fits_float32(trace(model, (2,)))
    model[0].weight.data[0, 0] = 1e-20
    assert not fits_float32(trace(model, (2,)))


def test_a_layer_without_lines_is_refused_by_name():
    model = nn.Sequential(nn.ReLU(), nn.LPPool2d(2, 2), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UnsupportedOperationError, match=r"'1' is a LpPool.*LayerWise"):
        LinearRelaxation()(model, torch.rand(1, 1, 4, 4))


@pytest.mark.parametrize(
    "module",
    [nn.Tanh(), nn.Sigmoid(), nn.Softplus(), nn.SiLU(), nn.GELU(), nn.ELU(), nn.ELU(0.3)],
    ids=str,
)
@given(ends=st.tuples(st.floats(-6, 6), st.floats(-6, 6)), slope=st.floats(-1, 1.2))
@settings(max_examples=25)
def test_the_rest_of_an_activation_beside_a_line(module, ends, slope):
    op = trace(nn.Sequential(module, nn.Linear(1, 2)), (1,)).nodes[1].op
    low, high = (torch.tensor([end], dtype=torch.float64) for end in sorted(ends))
    least, greatest = smooth_rest(op, torch.tensor([slope], dtype=torch.float64), low, high)
    z = torch.linspace(float(low), float(high), 5001, dtype=torch.float64)
    rest = op.function(z) - slope * z
    assert float(least) <= float(rest.min()) + 1e-12
    assert float(greatest) >= float(rest.max()) - 1e-12
    assert (
        float(greatest - least) <= float(rest.max() - rest.min()) + 0.07 * float(high - low) + 1e-8
    )


def test_bounds_on_the_factor_of_response_normalisation():
    op = trace(nn.Sequential(nn.LocalResponseNorm(3, 2.0, 0.5), nn.Flatten()), (5, 2)).nodes[1].op
    generator = torch.Generator().manual_seed(0)
    ends = torch.randn(2, 50, 5, 2, generator=generator, dtype=torch.float64)
    low, high = ends.amin(dim=0), ends.amax(dim=0)
    least, most = normaliser(op, low, high)
    for share in torch.rand(100, *low.shape, generator=generator, dtype=torch.float64):
        x = low + share * (high - low)
        factor = nn.functional.local_response_norm(x, 3, 2.0, 0.5) / x
        assert bool((factor >= least - 1e-12).all() and (factor <= most + 1e-12).all())


@pytest.mark.parametrize("name", [*nets.PIECEWISE_AFFINE, *BUILT])
def test_intervals_and_magnitudes_contain_the_values(name):
    clf, shape = classifier(name, 2)
    graph, generator = clf.graph(shape), torch.Generator().manual_seed(1)
    ends = torch.rand(2, 3, *shape, generator=generator, dtype=torch.float64)
    low, high = ends.amin(dim=0), ends.amax(dim=0)
    boxes, sizes = intervals(graph, low, high), magnitudes(graph, high)
    for share in torch.rand(200, *low.shape, generator=generator, dtype=torch.float64):
        for (a, b), size, value in zip(
            boxes, sizes, evaluate(graph, low + share * (high - low)), strict=True
        ):
            assert bool((value >= a - 1e-12).all() and (value <= b + 1e-12).all())
            assert bool((value.abs() <= size + 1e-12).all())


def test_absolute_weights():
    graph = trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)), (3,))
    v = torch.rand(1, 3)
    hidden = v @ graph.nodes[1].op.weight.abs().T
    expected = hidden @ graph.nodes[3].op.weight.abs().T
    torch.testing.assert_close(evaluate(absolute_part(graph), v)[-1], expected)


@given(root=st.floats(1e-3, 50), guess=st.floats(1e-3, 50))
@settings(max_examples=50)
def test_the_search_for_a_radius(root, guess):
    truth = torch.tensor([root, 3.0], dtype=torch.float64)
    tested: list[torch.Tensor] = []

    def spare(radius, rows):
        tested.append(radius)
        assert rows.tolist() in ([0, 1], [0], [1])
        return truth[rows] ** 2 - radius**2

    farthest = torch.tensor([1e3, 2.0]).double()
    first = torch.full((2,), guess, dtype=torch.float64)
    found = searched_radius(spare, truth**2, first, farthest, 25, 1e-3)
    assert root * 0.999 <= float(found[0]) <= root
    assert float(found[0]) in {float(radius[0]) for radius in tested}
    assert found[1].isinf()
    assert len(tested) <= 15
