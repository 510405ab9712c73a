"""What attacks in a ball of given radius share: restarts, packing, the search for a radius."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.line_search import shorten
from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal
from elbowroom.norms import L2, Linf, Norm, per_sample
from elbowroom.optimise import Best
from elbowroom.sampling import SampleRng

#: Called with the points of a run and their logits; returns which rows are finished.
Observer = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class BallAttack(Attack):
    """An attack that asks "is there an example within eps?", run from several starts.

    A subclass gives `descend`, one run of a batch; this class packs (sample, run) pairs into
    batches, lets samples leave that have succeeded, and bisects the radius. The numbers of a run
    are drawn from (seed, sample, round of the radius, run) alone, and of several runs of a sample
    that succeed the first one counts, so results do not depend on the packing.

    norm:         L2 or Linf.
    eps:          radius of the ball, in the input's units.
    steps:        gradient steps per run.
    restarts:     runs from different starts; a sample that has succeeded gets no further ones.
    random_start: whether the first run starts at random too, or at the sample.
    early_stop:   leave a sample alone at its first success. Otherwise every run goes on to the
                  end, and the line from the sample to its last point is searched too, which finds
                  nearer examples.
    radius_steps: further rounds, in each of which a sample's radius is bisected, or doubled as long
                  as there was no success: a minimal-norm attack.
    batch_size:   how many runs are computed at once, which bounds the memory; by default as many
                  as there are samples.
    """

    norm: Norm = L2
    eps: float
    steps: int = 40
    restarts: int = 1
    random_start: bool = True
    early_stop: bool = True
    radius_steps: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in (L2, Linf):
            raise ValueError(f"{type(self).__name__} works in L2 and Linf, not {self.norm}")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps must be positive and finite, not {self.eps}")

    @abstractmethod
    def descend(
        self,
        clf: Classifier,
        x: Tensor,
        aim: Goal,
        delta: Tensor,
        radius: Tensor,
        observe: Observer,
    ) -> Tensor:
        """One run towards `aim` from `x + delta` in the balls of `radius` `(N,)`: the last points.

        `observe` must be shown every point; the run may end when it calls all rows finished.
        """

    def aims(self, clf: Classifier, x: Tensor, goal: Goal) -> list[Goal]:
        """What to run towards in turn, `restarts` times each; `goal` itself by default."""
        return [goal]

    def random_starts(self, x: Tensor, radius: Tensor, rng: SampleRng) -> Tensor:
        """Perturbations `(N, *shape)` to start from, one per run."""
        return uniform_in_distance(x, self.norm, radius, rng)

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        best = Best(x, self.norm)
        aims = self.aims(clf, x, goal)
        low = x.new_zeros(len(x))
        radius = torch.full_like(low, self.eps)
        for number in range(self.radius_steps + 1):
            succeeded = self._attack_within(clf, x, goal, aims, rng, number, radius, best)
            low = torch.where(succeeded, low, radius)
            # The nearest point found bounds the radius from above; before there is one, it grows.
            nearest = best.distance.to(x.dtype)
            radius = torch.where(nearest.isfinite(), (low + nearest) / 2, 2 * radius)
        return best.point

    def _attack_within(
        self,
        clf: Classifier,
        x: Tensor,
        goal: Goal,
        aims: list[Goal],
        rng: SampleRng,
        number: int,
        radius: Tensor,
        best: Best,
    ) -> Tensor:
        """Round `number`: all runs of all samples in balls of `radius`; which samples succeeded."""
        runs = self.restarts * len(aims)
        capacity = min(self.batch_size or len(x), len(x) * runs)
        succeeded = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        started = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        while True:
            unfinished = started < runs
            if self.early_stop:
                unfinished &= ~succeeded
            rows, run = _pack(unfinished.nonzero().flatten(), started, runs, capacity)
            if not len(rows):
                return succeeded
            started += torch.bincount(rows, minlength=len(x))
            # Batches are always full: their size must not depend on who has finished.
            padded = torch.cat([rows, rows[-1:].expand(capacity - len(rows))])
            padded_run = torch.cat([run, run[-1:].expand(capacity - len(run))])
            found = self._run(clf, x, goal, aims, rng, number, radius, padded, padded_run)
            self._merge(best, found, rows)
            succeeded[rows[found.met[: len(rows)]]] = True

    def _run(
        self,
        clf: Classifier,
        x: Tensor,
        goal: Goal,
        aims: list[Goal],
        rng: SampleRng,
        number: int,
        radius: Tensor,
        rows: Tensor,
        run: Tensor,
    ) -> Best:
        """The runs `run` of the samples `rows`, in lock step; the best point of each."""
        x, radius, goal, aim = x[rows], radius[rows], goal.take(rows), _aim(aims, rows, run)
        noise = self.random_starts(x, radius, rng.children(rows, run, number))
        at_random = (run >= len(aims)) | self.random_start
        found = Best(x, self.norm)

        def observe(point: Tensor, logits: Tensor) -> Tensor:
            open_rows = ~found.met if self.early_stop else torch.ones_like(found.met)
            found.offer(point, logits, goal, where=open_rows)
            if not self.early_stop:
                return torch.zeros_like(found.met)
            # Only a success of an earlier run, or of its own, makes a run superfluous.
            return run >= _least(rows, torch.where(found.met, run, _NEVER))[rows]

        start = torch.where(per_sample(at_random, x), noise, 0.0)
        last = self.descend(clf, x, aim, start, radius, observe)
        if not self.early_stop:
            last = shorten(clf, x, last, goal, self.line_search_steps)
            observe(last, clf.logits(last))
        return found

    def _merge(self, best: Best, found: Best, rows: Tensor) -> None:
        """Let `best` have the best of the runs `found` of the samples `rows`."""
        count = len(rows)
        met, distance, margin = found.met[:count], found.distance[:count], found.margin[:count]
        # Of a sample's runs: the first success, or the nearest if all run to the end, or else the
        # nearest miss. Positions are in the order of the runs.
        position = torch.arange(count, device=rows.device)
        value = torch.where(met, position if self.early_stop else distance, margin.double())
        ever = _least(rows, (~met).double())[rows] == 0
        value = torch.where(met == ever, value, torch.inf)
        first = torch.where(value == _least(rows, value)[rows], position, _NEVER)
        chosen = position[position == _least(rows, first)[rows]]
        sample = rows[chosen]
        better = torch.where(
            met[chosen],
            distance[chosen] < best.distance[sample],
            ~best.met[sample] & (margin[chosen] < best.margin[sample]),
        )
        chosen, sample = chosen[better], sample[better]
        best.point[sample] = found.point[chosen]
        best.margin[sample] = margin[chosen]
        best.distance[sample] = distance[chosen]
        best.met[sample] = met[chosen]


_NEVER = torch.iinfo(torch.int64).max


def _least(rows: Tensor, values: Tensor) -> Tensor:
    """`(max(rows) + 1,)`: the least of the `values` of each row number."""
    size = int(rows.max()) + 1
    worst = torch.inf if values.dtype.is_floating_point else _NEVER
    least = torch.full((size,), worst, dtype=values.dtype, device=values.device)
    return least.scatter_reduce(0, rows, values, "amin")


def _pack(samples: Tensor, started: Tensor, runs: int, capacity: int) -> tuple[Tensor, Tensor]:
    """At most `capacity` next (sample, run) pairs of `samples`, a run of each in turn."""
    if not len(samples):
        return samples, samples
    rounds = -(-capacity // len(samples))
    rows = samples.repeat(rounds)
    run = started[rows] + torch.arange(rounds, device=rows.device).repeat_interleave(len(samples))
    exists = run < runs
    return rows[exists][:capacity], run[exists][:capacity]


def _aim(aims: list[Goal], rows: Tensor, run: Tensor) -> Goal:
    """The goal of every run: the aims in turn."""
    if len(aims) == 1:
        return aims[0].take(rows)
    targets = torch.stack([aim.targets for aim in aims if isinstance(aim, ClassifiedAs)])
    return ClassifiedAs(targets[run % len(aims), rows])


def uniform_in_distance(x: Tensor, norm: Norm, radius: Tensor, rng: SampleRng) -> Tensor:
    """Uniform in distance and direction: `u eps d/|d|` for normal d (Manifold paper, eq. 19)."""
    direction = rng.normal(x)
    return at_share(direction, rng.uniform(radius), norm, radius)


def at_share(direction: Tensor, share: Tensor, norm: Norm, radius: Tensor) -> Tensor:
    """`share` `(N,)` of the way to the sphere of `radius` `(N,)` along `direction`."""
    length = norm.length(direction).to(direction.dtype)
    return per_sample(share * radius / length, direction) * direction
