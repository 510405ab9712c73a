"""Shor's relaxation: its parts against the network, its proofs against points, its tightness."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from elbowroom import L2, Classifier, Linf
from elbowroom.certificates import LinearRelaxation, Semidefinite
from elbowroom.certificates.ascent import ascend, balanced, inside, settled
from elbowroom.certificates.deviations import Deviations, deviations
from elbowroom.certificates.program import Program
from elbowroom.certificates.relaxation import Relaxation
from elbowroom.certificates.shor import Multipliers, Problem, guaranteed_value
from elbowroom.graph import UnsupportedOperationError
from elbowroom.graph.evaluate import evaluate as evaluate_graph
from elbowroom.regions import ExactDistance


class Residual(nn.Module):
    """A sum, a leaky slope per channel, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.prelu = nn.PReLU(3, init=0.2)
        self.inner = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(27, 3)

    def forward(self, x):
        x = self.prelu(self.conv(x))
        x = torch.relu(self.inner(x)).abs() + x
        return self.head(x.flatten(1))


def network(name: str, seed: int) -> tuple[Classifier, torch.Tensor]:
    torch.manual_seed(seed)
    if name == "residual":
        model, shape = Residual().double(), (1, 3, 3)
    else:
        layers = [nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 6), nn.LeakyReLU(0.3), nn.Linear(6, 3)]
        model, shape = nn.Sequential(*layers).double(), (5,)
    for parameter in model.parameters():
        parameter.data *= 1.5
    return Classifier(model), torch.rand(1, *shape, dtype=torch.float64)


def taken_apart(name: str, seed: int, size: float) -> tuple[Deviations, Classifier, torch.Tensor]:
    clf, x = network(name, seed)
    graph = clf.graph(tuple(x.shape[1:]))
    lower, upper = (bound.expand(x.shape[1:]) for bound in (clf.lower, clf.upper))
    relaxation = Relaxation(graph, evaluate_graph(graph, x), lower, upper, L2)
    radius = torch.tensor([size], dtype=torch.float64)
    return deviations(relaxation, clf.logits(x).argmax(dim=1), radius), clf, x


def one_class(found: Deviations, x: torch.Tensor, size: float) -> tuple[Problem, int]:
    label = int(torch.where(found.margin > 0, found.margin, torch.inf).argmin())
    low = torch.maximum(-x.flatten(), torch.tensor(-size))
    high = torch.minimum(1 - x.flatten(), torch.tensor(size))
    row, margin = found.rows[label], float(found.margin[label])
    return Problem(found.moves, found.distance, row, margin, low, high), label


@pytest.mark.parametrize("name", ["dense", "residual"])
@given(seed=st.integers(0, 10**6), size=st.floats(0.01, 1.0))
@settings(max_examples=8)
def test_a_network_taken_apart_is_the_network(name, seed, size):
    found, clf, x = taken_apart(name, seed, size)
    y = int(clf.logits(x).argmax())
    generator = torch.Generator().manual_seed(seed)
    for _ in range(20):
        move = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        point = (x + move * size / move.norm()).clamp(0, 1)
        state = torch.cat([(point - x).flatten(), torch.zeros(len(found.distance)).double()])
        for unit in range(len(found.distance)):  # units are in the order of their layers
            t = found.moves[unit] @ state
            state[found.features + unit] = max(float(t - found.distance[unit]), 0.0)
        logits = clf.logits(point)[0]
        torch.testing.assert_close(
            found.margin + found.rows @ state, logits[y] - logits, rtol=1e-9, atol=1e-11
        )


def best_multipliers(problem: Problem, size: float, steps: int = 40) -> Multipliers:
    program = Program.of(problem, size, torch.float64)
    found = max(ascend(program, steps), key=lambda state: state.value)
    return found.multipliers(program)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=6)
def test_the_gradient_of_the_dual(seed):
    found, _, x = taken_apart("dense", seed, 0.5)
    problem, _ = one_class(found, x, 0.5)
    program = Program.of(problem, 0.5, torch.float64)
    logarithms = balanced(program) - 0.5

    def at(where):
        state = settled(program, where, inside(program), 1e-3, 1e-2, steps=200)
        assert state is not None
        return state

    gradient = at(logarithms).gradient
    for index in torch.randperm(len(logarithms))[:12].tolist():
        step = torch.zeros_like(logarithms)
        step[index] = 1e-4
        slope = (at(logarithms + step).objective - at(logarithms - step).objective) / 2e-4
        assert slope == pytest.approx(float(gradient[index]), rel=1e-2, abs=1e-4)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=6)
def test_the_value_is_that_of_the_lagrangian(seed):
    """In units of the problem: its minimum over all z, from the matrix itself."""
    found, _, x = taken_apart("dense", seed, 0.5)
    problem, label = one_class(found, x, 0.5)
    program = Program.of(problem, 0.5, torch.float64)
    *_, state = ascend(program, 5)
    m = state.multipliers(program)
    linear, cross = problem.linear(m), m.lam[:, None] * problem.moves / 2
    matrix = torch.diag(torch.cat([m.tau + m.kap, m.lam]))
    matrix[problem.features :] -= cross
    matrix[:, problem.features :] -= cross.T
    least = problem.constant(m) - linear @ torch.linalg.solve(matrix, linear) / 4
    assert float(least / m.tau) == pytest.approx(state.value * 0.25, rel=1e-6, abs=1e-9)
    proved = guaranteed_value(found, label, problem, m)
    assert proved == pytest.approx(float(least), rel=1e-4, abs=1e-6)
    assert proved < float(least)


@pytest.mark.parametrize("name", ["dense", "residual"])
@given(seed=st.integers(0, 10**6), size=st.floats(0.05, 1.0), steps=st.integers(1, 60))
@settings(max_examples=8)
def test_any_multipliers_prove_a_true_bound(name, seed, size, steps):
    found, clf, x = taken_apart(name, seed, size)
    y = int(clf.logits(x).argmax())
    problem, label = one_class(found, x, size)
    best = best_multipliers(problem, size, steps)
    value = guaranteed_value(found, label, problem, best)  # -inf where rounding leaves no proof
    assert name == "residual" or value > -torch.inf
    generator = torch.Generator().manual_seed(seed)
    move = torch.randn(3000, *x.shape[1:], generator=generator, dtype=torch.float64)
    share = torch.rand(3000, generator=generator, dtype=torch.float64) * size
    length = (share / L2.length(move)).view(-1, *[1] * (x.ndim - 1))
    points = (x + move * length).clamp(0, 1)
    logits = clf.logits(points)
    far = L2.length(points - x)
    assert bool((logits[:, y] - logits[:, label] >= value - best.tau * far**2).all())


def test_what_is_not_convex_proves_nothing():
    found, _, x = taken_apart("dense", 0, 0.5)
    problem, label = one_class(found, x, 0.5)
    good = best_multipliers(problem, 0.5)
    assert guaranteed_value(found, label, problem, good) > -torch.inf
    weak = Multipliers(good.lam * 1e3, good.mu, good.nu, good.kap * 0, good.tau * 1e-3)
    assert guaranteed_value(found, label, problem, weak) == -torch.inf


def test_errors_of_the_weights_count():
    found, _, x = taken_apart("dense", 0, 0.5)
    problem, label = one_class(found, x, 0.5)
    best = best_multipliers(problem, 0.5)
    exact = guaranteed_value(found, label, problem, best)
    worse = Deviations(**{**vars(found), "moves_error": found.moves.abs() * 1e-3})
    assert guaranteed_value(worse, label, problem, best) < exact


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_never_beyond_the_exact_distance_and_near_it(seed):
    clf, x = network("dense", seed)
    exact = ExactDistance(seconds=20)(clf, x)
    assert bool((exact.finished & exact.lower.isfinite()).all())
    found = Semidefinite()(clf, x).radius
    assert float(found) <= float(exact.lower)
    assert float(found) > 0.5 * float(exact.lower)


def test_far_tighter_than_lines_in_many_dimensions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(100, 40), nn.ReLU(), nn.Linear(40, 3)).double()
    x = torch.rand(2, 100, dtype=torch.float64)
    lines, found = (
        certificate()(model, x).radius for certificate in (LinearRelaxation, Semidefinite)
    )
    assert bool((found > 1.3 * lines).all())


def test_what_it_is_not_for():
    pooled = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UnsupportedOperationError, match=r"'0' is a MaxPool.*LinearRelaxation"):
        Semidefinite()(pooled, torch.rand(1, 1, 4, 4))
    with pytest.raises(ValueError, match="Semidefinite is for L2, not Linf"):
        Semidefinite(norm=Linf)
    large = nn.Sequential(nn.Linear(10, 8500), nn.ReLU(), nn.Linear(8500, 2))
    with pytest.raises(ValueError, match="more than the 8000"):
        Semidefinite()(large, torch.rand(1, 10))


def test_linear_networks_and_ties():
    model = nn.Linear(4, 2).double()
    model.weight.data = torch.tensor([[1.0, 2, 0, -1], [0, 1, 1, 1]], dtype=torch.float64)
    model.bias.data = torch.tensor([0.05, 0.0], dtype=torch.float64)
    x = torch.full((1, 4), 0.5, dtype=torch.float64)
    logits, normal = model(x).detach()[0], (model.weight[0] - model.weight[1]).detach()
    truth = float((logits[0] - logits[1]).abs() / normal.norm())
    assert float(Semidefinite()(model, x).radius) == pytest.approx(truth, rel=5e-3)
    assert float(Semidefinite()(model, x).radius) <= truth
    model.bias.data[0] -= logits[0] - logits[1]
    tie = Semidefinite()(model, x).radius
    assert float(tie) < 1e-12
