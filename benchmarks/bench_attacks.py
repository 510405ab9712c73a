"""Every attack of the benchmark by name: ours, and those of other libraries in `rivals.py`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from bench_models import Problem
from elbowroom.attacks import ATTACKS, Attack
from elbowroom.attacks.line_search import shorten
from elbowroom.goals import Misclassified
from elbowroom.norms import L2
from elbowroom.results import Cost
from rivals import FIRST_RADIUS, RADIUS_ROUNDS, RIVALS, CountedNetwork, Rival

CLOSEST_BUDGETS = (100, 200, 500, 1500, 3000, 6000, 12000)
"""Budgets at which `closest`, the default attack, is measured."""

LINE_SEARCH_STEPS = Attack.line_search_steps

# As many rounds as for the rivals' attacks in a ball.
RADIUS_SEARCH = {"eps": FIRST_RADIUS, "early_stop": False, "radius_steps": RADIUS_ROUNDS - 1}

# What is measured: the name in the table, the name in ATTACKS, and what departs from the
# defaults. Every other attack of ATTACKS is measured as it comes.
OURS: list[tuple[str, str, dict[str, Any]]] = [
    ("pgd", "pgd", RADIUS_SEARCH),
    ("apgd-ce", "apgd", {"loss": "ce", **RADIUS_SEARCH}),
    ("apgd-dlr", "apgd", {"loss": "dlr", **RADIUS_SEARCH}),
    ("apgd-targeted", "apgd", {"loss": "dlr-targeted", **RADIUS_SEARCH}),
    ("fmn-100", "fmn", {"steps": 100}),
    ("fmn-1000", "fmn", {"steps": 1000}),
    ("ddn-100", "ddn", {"steps": 100}),
    ("ddn-1000", "ddn", {"steps": 1000}),
    ("ddn-targeted-4", "ddn", {"runner_ups": 4}),
    ("ddn-targeted-9", "ddn", {"runner_ups": 9}),
    ("carlini-wagner-6x1000", "carlini-wagner", {"search_steps": 6, "steps": 1000}),
    *((f"closest-{budget}", "closest", {"budget": budget}) for budget in CLOSEST_BUDGETS),
    # The budgets share their starts; another seed shows what the default one owes to them.
    ("closest-6000-seed-1", "closest", {"budget": 6000, "seed": 1}),
]


@dataclass(frozen=True)
class Outcome:
    """One attack on one batch.

    raw_distance, distance: `(N,)` float64 L2, `inf` where the attack failed: of the point the
        attack returned, and after the line search that every attack gets.
    cost: with the line search and the last check; cpu_seconds: of this process alone.
    """

    raw_distance: Tensor
    distance: Tensor
    cost: Cost
    cpu_seconds: float


class Method(Protocol):
    """What the benchmark measures. `config` changes when the results may."""

    @property
    def config(self) -> str: ...

    def warm_up(self, problem: Problem) -> None: ...

    def attack(self, problem: Problem, rows: slice) -> Outcome: ...


@dataclass(frozen=True)
class Ours:
    """An attack of this package; its line search is part of it, so `raw_distance` is after it."""

    attack_: Attack

    @property
    def config(self) -> str:
        return repr(self.attack_)

    def warm_up(self, problem: Problem) -> None:
        problem.clf.graph(problem.x.shape[1:])  # traced once per classifier, whoever asks first

    def attack(self, problem: Problem, rows: slice) -> Outcome:
        start = time.process_time()
        result = self.attack_(
            problem.clf, problem.x[rows], problem.y[rows], indices=problem.indices[rows]
        )
        spent = time.process_time() - start
        return Outcome(result.distance, result.distance, result.cost, spent)


@dataclass(frozen=True)
class Theirs:
    """An attack of another library, with our line search, count of passes and last check."""

    rival: Rival

    @property
    def config(self) -> str:
        return self.rival.config

    def warm_up(self, problem: Problem) -> None:
        if self.rival.warm_up is not None:
            with problem.clf.session():
                self.rival.warm_up(problem.clf.network, problem.x[:2], problem.y[:2])

    def attack(self, problem: Problem, rows: slice) -> Outcome:
        clf, x, y = problem.clf, problem.x[rows], problem.y[rows]
        goal = Misclassified(y)
        start = time.process_time()
        with clf.metered() as spent:
            torch.manual_seed(0)
            network = CountedNetwork(clf.network).eval()
            with torch.enable_grad():
                found = self.rival.call(network, x.clone(), y.clone()).detach()
            finite = found.isfinite().flatten(1).all(dim=1)
            raw = clf.clamp(torch.where(finite.reshape(-1, *[1] * (x.ndim - 1)), found, x))
            final = shorten(clf, x, raw, goal, LINE_SEARCH_STEPS)
            distance = _distance(clf.logits(final), goal, final, x)
            cost = spent() + Cost(forward=network.forwards, backward=network.backwards)
        seconds = time.process_time() - start
        raw_distance = _distance(clf.logits(raw), goal, raw, x)
        return Outcome(raw_distance, distance, cost, seconds)


def _distance(logits: Tensor, goal: Misclassified, found: Tensor, x: Tensor) -> Tensor:
    return torch.where(goal.met(logits), L2.length(found.double() - x.double()), torch.inf)


def catalogue() -> dict[str, Callable[[], Method]]:
    """Name -> a function that makes the attack, or raises an error that says why it cannot."""
    explicit = {registered for _, registered, _ in OURS}
    plain = [(name, name, {}) for name in ATTACKS if name not in explicit]
    ours = {name: partial(_ours, key, options) for name, key, options in [*plain, *OURS]}
    theirs = {name: partial(_theirs, make) for name, make in RIVALS.items()}
    return {**ours, **theirs}


def _ours(registered: str, options: dict[str, Any]) -> Method:
    if registered not in ATTACKS:
        raise ValueError(f"{registered!r} is not in elbowroom.attacks.ATTACKS")
    return Ours(ATTACKS[registered](norm=L2, **options))


def _theirs(make: Callable[[], Rival]) -> Method:
    return Theirs(make())


def select(patterns: list[str]) -> Iterator[tuple[str, Method | Exception]]:
    """The attacks whose names match a pattern, or why one of them cannot be made."""
    for name, make in catalogue().items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            try:
                yield name, make()
            except (ImportError, TypeError, ValueError) as error:
                yield name, error
