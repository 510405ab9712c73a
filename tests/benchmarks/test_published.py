"""The comparison of the published attack with the default, with stand-ins for both."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import published
from bench_models import Problem, fingerprint
from bench_store import Store
from elbowroom import Classifier, attacks, models
from sensitivity import run_unit


class Published(attacks.FGV):
    @staticmethod
    def published(points: torch.Tensor, labels: torch.Tensor) -> attacks.Attack:
        return attacks.FGV()


@pytest.fixture
def problem() -> Problem:
    torch.manual_seed(0)
    network = models.build("mlp", sizes=(16, 8, 2)).eval()
    x = torch.rand(4, 16)
    with torch.no_grad():
        y = network(x).argmax(dim=1)
    return Problem(Classifier(network), x, y, [0, 1, 4, 5], fingerprint(network))


def test_one_line_per_model(
    problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "LinearRegion", Published, raising=False)
    monkeypatch.setattr(attacks, "Closest", attacks.DDN, raising=False)
    store = Store(tmp_path)
    for name, method in published.methods(problem.x, problem.y).items():
        assert published.row(store, "kw_mnist", problem) == ["kw_mnist", *["-"] * 7]
        run_unit(store, "kw_mnist", name, method, problem, 3)
    name, first, second, worst, over, *seconds = published.row(store, "kw_mnist", problem)
    assert name == "kw_mnist (4)"
    expected = [
        attack(problem.clf, problem.x, problem.y).distance
        for attack in (attacks.FGV(), attacks.DDN())
    ]
    assert first == f"{expected[0].mean():.4f}"
    assert second == f"{expected[1].mean():.4f}"
    assert worst == f"{((expected[1] - expected[0]) / expected[0]).max():+.2%}"
    assert over == str(int((expected[1] > 1.01 * expected[0]).sum()))
    assert len(seconds) == 3
