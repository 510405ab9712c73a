"""The benchmark's harness on a linear network, whose minimal distances are known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import bench_attacks
import bench_plot
import bench_report
from bench_attacks import Ours, Theirs
from bench_models import Problem, fingerprint, first_correct
from bench_store import Store
from elbowroom import Classifier
from elbowroom.attacks import DDN, DeepFool
from rivals import RIVALS, CountedNetwork, Rival, smallest_radius
from sensitivity import run_unit

MODEL = "RSL18a"  # whose radii the tables use


@pytest.fixture
def problem() -> Problem:
    """Two classes on 1x4x4 images, `x` far enough inside the box that it does not matter."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    x = 0.5 + 0.05 * torch.randn(5, 1, 4, 4)
    with torch.no_grad():
        network[1].bias -= network(x).mean(dim=0)  # decisions of both kinds, all of them close
        y = network(x).argmax(dim=1)
    clf = Classifier(network)
    return Problem(clf, x, y, [1, 2, 5, 6, 9], fingerprint(network))


def exact(problem: Problem) -> Tensor:
    weight = problem.clf.network[1].weight.detach().double()
    logits = problem.clf.logits(problem.x).double()
    return (logits[:, 0] - logits[:, 1]).abs() / (weight[0] - weight[1]).norm()


def overshooting(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A rival that goes twice as far as it need, by one gradient."""
    x = x.requires_grad_()
    logits = network(x)
    gap = logits.gather(1, y[:, None]) - logits.gather(1, 1 - y[:, None])
    (gradient,) = torch.autograd.grad(gap.sum(), x)
    length = gap[:, :, None, None] / gradient.flatten(1).norm(dim=1)[:, None, None, None] ** 2
    return x - 2 * length * gradient


def test_a_rival_gets_the_line_search_and_is_counted(problem: Problem) -> None:
    outcome = Theirs(Rival("overshooting", overshooting)).attack(problem, slice(0, 5))
    expected = exact(problem)
    assert torch.allclose(outcome.raw_distance, 2 * expected, rtol=1e-3)
    assert torch.allclose(outcome.distance, expected, rtol=1e-3)
    line_search_and_check = bench_attacks.LINE_SEARCH_STEPS + 2
    assert outcome.cost.forward == 5 * (1 + line_search_and_check)
    assert outcome.cost.backward == 5


def test_a_rival_that_finds_nothing_or_nonsense_fails(problem: Problem) -> None:
    def nonsense(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.full_like(x, torch.nan)

    outcome = Theirs(Rival("nonsense", nonsense)).attack(problem, slice(0, 5))
    assert outcome.distance.isinf().all()
    assert outcome.raw_distance.isinf().all()


def test_radius_is_searched_for_each_sample_by_itself(problem: Problem) -> None:
    expected = exact(problem).float()

    def ball(network: nn.Module, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
        towards = (overshooting(network, x.clone(), y) - x).detach()  # of length 2 * expected
        return x + towards * (radius / (2 * expected)).reshape(-1, 1, 1, 1)

    found = smallest_radius(ball)(problem.clf.network, problem.x, problem.y)
    length = (found - problem.x).flatten(1).norm(dim=1)
    assert bool((length >= 0.999 * expected).all())
    assert bool((length <= expected + 1.0 / 2**6).all())


def test_passes_of_a_jacobian_are_counted() -> None:
    network = CountedNetwork(nn.Linear(3, 4))
    logits = network(torch.ones(2, 3, requires_grad=True))
    for k in range(4):
        logits[:, k].sum().backward(retain_graph=True)
    assert (network.forwards, network.backwards) == (2, 8)


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("foolbox", "foolbox-ddn-100"),
        ("foolbox", "foolbox-deepfool"),
        ("pyautoattack", "autoattack-fab"),
        ("pyautoattack", "autoattack-apgd-ce"),
        ("torchattacks", "torchattacks-deepfool"),
        ("torchattacks", "torchattacks-pgd"),
    ],
)
def test_rivals_find_the_boundary_of_a_linear_network(
    problem: Problem, library: str, name: str
) -> None:
    pytest.importorskip(library)
    outcome = Theirs(RIVALS[name]()).attack(problem, slice(0, 5))
    expected = exact(problem)
    assert bool((outcome.distance >= expected * (1 - 1e-5)).all())
    assert bool((outcome.distance <= expected * 1.02).all())
    assert outcome.cost.backward >= 5


def test_a_finished_unit_is_not_run_again(
    problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path)
    run_unit(store, MODEL, "ddn-100", Ours(DDN(steps=5)), problem, batch=2)
    assert capsys.readouterr().out.count("\n") == 3
    run_unit(store, MODEL, "ddn-100", Ours(DDN(steps=5)), problem, batch=2)
    assert capsys.readouterr().out == ""
    (tmp_path / MODEL / "ddn-100" / "000002.parquet").unlink()
    run_unit(store, MODEL, "ddn-100", Ours(DDN(steps=5)), problem, batch=2)
    assert capsys.readouterr().out.count("\n") == 1
    run_unit(store, MODEL, "ddn-100", Ours(DDN(steps=6)), problem, batch=2)
    assert capsys.readouterr().out.count("\n") == 3


def test_an_attack_that_raises_is_reported_and_leaves_nothing(
    problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("no start found")

    store = Store(tmp_path)
    run_unit(store, MODEL, "broken", Theirs(Rival("broken", broken)), problem, batch=5)
    assert "failed: RuntimeError: no start found" in capsys.readouterr().out
    assert store.models() == []


def test_tables_and_plot(problem: Problem, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name, attack in {"ddn-100": DDN(steps=20), "closest-10": DeepFool()}.items():
        run_unit(store, MODEL, name, Ours(attack), problem, batch=5)
    nothing = Rival("nothing", lambda network, x, y: x)
    run_unit(store, MODEL, "nothing", Theirs(nothing), problem, batch=5)
    results = bench_report.collect(store, [MODEL, "WK17a"], ["*"], samples=4)
    assert [(result.model, result.images) for result in results] == [(MODEL, 7)]
    assert len(results[0].best) == 4
    text = bench_report.tables(results)
    assert "| nothing    |     nan |       inf |   0.0% |" in text
    bench_plot.plot(results, tmp_path)
    assert "closest-10" in (tmp_path / "plot.html").read_text()


def test_unfinished_attacks_are_not_shown(problem: Problem, tmp_path: Path) -> None:
    store = Store(tmp_path)
    run_unit(store, MODEL, "ddn-100", Ours(DDN(steps=5)), problem, batch=2)
    run_unit(store, MODEL, "fgv", Ours(DDN(steps=4)), problem, batch=2)
    (tmp_path / MODEL / "fgv" / "000002.parquet").unlink()
    (result,) = bench_report.collect(store, [MODEL], ["*"], samples=5)
    assert [row.name for row in result.rows] == ["ddn-100"]


def test_first_correctly_classified(problem: Problem) -> None:
    y = problem.y.clone()
    y[1] = 1 - y[1]
    assert first_correct(problem.clf, problem.x, y, 3) == [0, 2, 3]
    with pytest.raises(ValueError, match="only 4 samples"):
        first_correct(problem.clf, problem.x, y, 5)


def test_attacks_are_selected_by_pattern_and_say_why_they_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unknown = ("other-5", "other", {"budget": 5})
    monkeypatch.setattr(bench_attacks, "OURS", [*bench_attacks.OURS, unknown])
    made = dict(bench_attacks.select(["ddn-1*", "other-*"]))
    assert list(made) == ["ddn-100", "ddn-1000", "other-5"]
    assert made["ddn-1000"] == Ours(DDN(steps=1000))
    assert "'other' is not in" in str(made["other-5"])
