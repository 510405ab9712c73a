"""Preimage descent: exactly the wanted features, as close to an input as can be found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.features import in_precision
from elbowroom.goals import SameLogits
from elbowroom.graph import UnsupportedOperationError
from elbowroom.invariance.adam import AdamOnLogits
from elbowroom.invariance.base import Found, Inversion, Problem
from elbowroom.invariance.linear_region import LinearRegionInversion
from elbowroom.invariance.preimage import Preimage
from elbowroom.norms import L2, per_sample
from elbowroom.optimise import Best
from elbowroom.regions import WorkingSet
from elbowroom.regions.padded import blocks
from elbowroom.sampling import SampleRng

BEGINNINGS = ("toward", "start", "adam")
# Options that leave little but a path.
PATH_ALONE: dict[str, Any] = {
    "path": True, "begin": ("start",), "restarts": 1, "scattered": 0, "final_regions": 0,
    "steps": 1, "walk_steps": 0,
}  # fmt: skip
# Of the approach: shares of the way to the nearest point; the last noise as a part of the first.
SHARES = (0.7, 0.1)
LAST_NOISE = 0.05
NEWTON = 12
# The way back to the preimage, where Newton's method fails from the end of the approach.
BACK_STEPS, BACK_SHARES, BACK_NOISE, BACK_MEMORY = 20, (0.5, 0.5), (0.15, 0.002), 0.5
# Of the walk: the first share, what it is multiplied by, and Newton steps back.
WALK_SHARE, LONGER, SHORTER, WALK_NEWTON = 0.5, 1.5, 0.5, 6
# By default, for inputs of up to so many features: approaches from each beginning, random points
# to walk from, and linear regions at the end.
SEARCHES = ((16, (8, 64, 30)), (100, (2, 0, 30)), (math.inf, (1, 0, 0)))
# A step of a path is at most so many times its even share of the way: the shorter, the less the
# features change between the points.
EVENLY = 2.0
JACOBIAN_VALUES = 2**26  # of a block: bounds its memory where there are many features
AT_ONCE = 2**18  # values of Jacobians, up to which searches of the same samples are one batch
NEARLY = 1e-14  # MSE up to which the solution in a region counts, before it is retracted


@dataclass(frozen=True, kw_only=True)
class PreimageDescent(Inversion):
    """Descend towards `toward` on the preimage of the wanted features, which it meets exactly.

    The problem is the Invariance thesis's (3.1); its attack needs some 400 linear regions of 1,000
    solver steps and keeps the logits to about 1e-7. Here, from each start: *approach* by sequential
    quadratic programming with smoothed gradients, in float32, to a point near the preimage;
    *retract* it onto the preimage by Newton's method of least distance, which is exact on a
    piecewise affine network up to rounding; *walk* on the preimage, each step retracted, while that
    gets nearer. The nearest of all is the answer. Networks that are not piecewise affine are
    treated alike; there Newton's method may fail, and `success` tells.

    With `begin=("toward",), steps=20, memory=0.7, walk_steps=0` it takes a ninth of the passes,
    and ends some 6 to 27 % farther on MNIST.

    Inputs of few features have many points that are nearest among their neighbours only, and a
    search costs little. There, more searches begin (`SEARCHES`), and the end is a walk through
    linear regions from the nearest point found, with the exact solution in each
    (`LinearRegionInversion`).

    begin:      where: "toward"; "start", if there is one; "adam", what `AdamOnLogits` finds.
    restarts:   approaches from each, with other noise; by default 8 for up to 16 features, 2 for
                up to 100, else 1.
    scattered:  random points of the box that are retracted and walked from; by default 64 for up
                to 16 features, else 0.
    final_regions: linear regions at the end, of a piecewise affine network in a bounded box; by
                default 30 for up to 100 features, else 0.
    steps:      of an approach; each costs K VJPs, for K features.
    smoothing:  standard deviation of the first noise, in widths of the input box.
    memory:     weight of earlier gradients in their average.
    walk_steps: of the walk at the end.
    path:       whether to walk from `start` as well, and keep the points.
    path_steps: of that walk.
    block:      samples worked on at a time, always so many, so that results do not depend on the
                batch: fewer take as long as a block. A block of 1 is faster for a single sample.
    """

    tolerance: float = 1e-9
    begin: Sequence[str] = ("toward", "start")
    restarts: int | None = None
    scattered: int | None = None
    final_regions: int | None = None
    steps: int = 90
    smoothing: float = 0.3
    memory: float = 0.8
    walk_steps: int = 10
    path: bool = False
    path_steps: int = 60
    block: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.begin or any(begin not in BEGINNINGS for begin in self.begin):
            raise ValueError(f"begin must be some of {', '.join(BEGINNINGS)}, not {self.begin!r}")
        if not 0 <= self.memory < 1:
            raise ValueError(f"memory must lie in [0, 1), not {self.memory}")
        if not 0 < self.smoothing < math.inf:
            raise ValueError(f"smoothing must be positive and finite, not {self.smoothing}")

    def descend(self, problem: Problem) -> Found:
        if self.path and not problem.known:
            raise ValueError("a path begins at start: give start instead of target")
        count = problem.goal.logits.shape[1] * problem.toward[0].numel()
        size = min(self.block, max(1, JACOBIAN_VALUES // count))
        examples, paths = [], []
        rough = _rough(problem)
        with rough.session():
            for rows, real in blocks(len(problem), size, problem.toward.device):
                found = self._descend(problem.take(rows), rough, max(1, AT_ONCE // (size * count)))
                examples.append(found.example[:real])
                if found.path is not None:
                    paths.append(found.path[:, :real])
        if rough is not problem.clf:
            problem.clf.cost += rough.cost
        return Found(torch.cat(examples), torch.cat(paths, dim=1) if paths else None)

    def _descend(self, problem: Problem, rough: Classifier, at_once: int) -> Found:
        """The samples of one block, `at_once` searches of each at a time.

        rough: the classifier that approaches are made with.
        """
        clf, toward = problem.clf, problem.toward
        preimage = Preimage.exact(clf, problem.goal, problem.width)
        best = Best(toward, L2)
        if problem.known:
            best.offer(problem.start, clf.logits(problem.start), preimage.goal)
        restarts, scattered, regions = self._counts(problem)
        begins = self._begins(problem)
        approaches = restarts * len(begins)
        for number in range(0, approaches, at_once):
            numbers = range(number, min(number + at_once, approaches))
            part, x, rng = _searches(preimage, problem, numbers)
            y = torch.cat([begins[number % len(begins)] for number in numbers])
            _offer_all(best, preimage, self._approach(part, part.of(rough), x, y, rng))
        for number in range(approaches, approaches + scattered, at_once):
            numbers = range(number, min(number + at_once, approaches + scattered))
            part, x, rng = _searches(preimage, problem, numbers)
            y = part.retract(_anywhere(clf, x, part.width, rng), NEWTON)[0]
            _offer_all(best, preimage, self._walk(part, x, y, rng, self.walk_steps)[-1])
        rng = _streams(problem, -1)
        _offer_all(
            best, preimage, self._walk(preimage, toward, best.point, rng, self.walk_steps)[-1]
        )
        if regions:
            _offer_all(best, preimage, _solve_regions(preimage, problem, best.point, regions))
        if not self.path:
            return Found(best.point)
        path = self._walk(
            preimage, toward, problem.start, _streams(problem, -2), self.path_steps, EVENLY
        )
        _offer_all(best, preimage, path[-1])
        return Found(best.point, torch.stack(path))

    def _counts(self, problem: Problem) -> tuple[int, int, int]:
        """Approaches from each beginning, random points and final regions."""
        features = problem.toward[0].numel()
        defaults = next(numbers for limit, numbers in SEARCHES if features <= limit)
        given = (self.restarts, self.scattered, self.final_regions)
        first, second, third = (
            default if own is None else own for own, default in zip(given, defaults, strict=True)
        )
        return first, second, third

    def _begins(self, problem: Problem) -> list[Tensor]:
        """Where the approaches begin."""
        begins = []
        for begin in self.begin:
            if begin == "toward":
                begins.append(problem.toward)
            elif begin == "adam":
                begins.append(AdamOnLogits().descend(problem).example)
            elif problem.known:
                begins.append(problem.start)
        return begins or [problem.toward]

    def _approach(
        self, preimage: Preimage, rough: Preimage, x: Tensor, y: Tensor, rng: SampleRng
    ) -> Tensor:
        """From `y` to a point on the preimage near `x`, or near the preimage where that fails."""
        noise = (self.smoothing, self.smoothing * LAST_NOISE)
        z = rough.approach(
            x.to(rough.width), y.to(rough.width), rng,
            steps=self.steps, shares=SHARES, noise=noise, memory=self.memory,
        )  # fmt: skip
        z = preimage.clf.clamp(z.to(y))
        y = torch.where(per_sample(z.flatten(1).isfinite().all(dim=1), y), z, y)
        y, features, _ = preimage.retract(y, NEWTON)
        off = (~preimage.goal.met(features)).nonzero().squeeze(1)
        for some, real in blocks(len(off), preimage.retracted, y.device):
            rows = off[some]
            part, streams = preimage.take(rows), rng.children(rows, torch.zeros_like(rows))
            z = part.approach(
                None, y[rows], streams,
                steps=BACK_STEPS, shares=BACK_SHARES, noise=BACK_NOISE, memory=BACK_MEMORY,
            )  # fmt: skip
            y[rows[:real]] = part.retract(z, NEWTON)[0][:real]
        return y

    def _walk(
        self,
        preimage: Preimage,
        x: Tensor,
        y: Tensor,
        rng: SampleRng,
        steps: int,
        longest: float = math.inf,
    ) -> list[Tensor]:
        """Points on the preimage, from `y` on, each at least as near to `x` as the one before.

        A point that is not on the preimage stays where it is. The direction is that of gradients
        averaged over `y` and a noisy point, the nearer to it the shorter the step.

        longest: of the steps, before they are retracted, in units of the way to `x` over `steps`.
        """
        features, J = preimage.jacobian(y)
        on = preimage.goal.met(features)
        distance = L2.length(y - x)
        share = torch.full_like(distance, WALK_SHARE)
        most = distance * longest / max(steps, 1)
        points = [y]
        for _ in range(steps):
            size = per_sample((self.smoothing * share).to(y.dtype), y)
            _, aside = preimage.jacobian(
                preimage.clf.clamp(y + size * preimage.width * rng.normal(y))
            )
            ahead = preimage.nearest(x, y, features, (J + aside) / 2, rough=True)[0] - y
            size = torch.minimum(share, most / L2.length(ahead).clamp(min=1e-300))
            z, reached, there = preimage.retract(
                y + per_sample(size.to(y.dtype), y) * ahead, WALK_NEWTON
            )
            length = L2.length(z - x)
            nearer = on & preimage.goal.met(reached) & (length < distance)
            y = torch.where(per_sample(nearer, y), z, y)
            features = torch.where(nearer[:, None], reached, features)
            J = torch.where(nearer[:, None, None], there, J)
            distance = torch.where(nearer, length, distance)
            share = torch.where(nearer, (share * LONGER).clamp(max=1.0), share * SHORTER)
            points.append(y)
        return points


def _rough(problem: Problem) -> Classifier:
    """The classifier in float32, in which an approach takes half the time and ends as near.

    In its own precision where it works in no other.
    """
    clf, toward = problem.clf, problem.toward
    try:
        rough = in_precision(clf, toward.shape[1:], torch.float32)
        rough.logits(toward[:1].to(rough.lower))
    except (RuntimeError, TypeError):
        return clf
    return rough


def _searches(
    preimage: Preimage, problem: Problem, numbers: range
) -> tuple[Preimage, Tensor, SampleRng]:
    """The searches `numbers` of each sample as one batch, one search after another."""
    rows = torch.arange(len(problem)).repeat(len(numbers))
    of_search = torch.tensor(numbers).repeat_interleave(len(problem))
    rng = problem.rng.children(rows, of_search, 1)
    rows = rows.to(problem.toward.device)
    return preimage.take(rows), problem.toward[rows], rng


def _offer_all(best: Best, preimage: Preimage, y: Tensor) -> None:
    """Offer what searches found, their batches one after another."""
    logits, size = preimage.clf.logits(y), len(best.origin)
    for i in range(0, len(y), size):
        best.offer(y[i : i + size], logits[i : i + size], preimage.goal)


def _anywhere(clf: Classifier, x: Tensor, width: Tensor, rng: SampleRng) -> Tensor:
    """Uniform points of the box; along features without bounds, within a width of `x`."""
    u = rng.uniform(x)
    inside = clf.lower + u * width
    return clf.clamp(torch.where(inside.isfinite(), inside, x + (2 * u - 1) * width))


def _solve_regions(preimage: Preimage, problem: Problem, y: Tensor, regions: int) -> Tensor:
    """The nearest solution in linear regions from that of `y` on; `y` where there are none.

    In float64, and with the features that `y` has there: those wanted can be out of reach by a
    rounding error where fewer units are active than there are features.
    """
    clf = problem.clf
    if not clf.bounded:
        return y
    precise = in_precision(clf, y.shape[1:], torch.float64)
    y = y.double()
    with precise.session():
        goal = SameLogits(precise.logits(y), torch.full_like(y.flatten(1)[:, 0], NEARLY))
        exact = Problem(precise, y, problem.toward.double(), goal, problem.rng, known=True)
        walk = LinearRegionInversion(
            solver=WorkingSet(), regions=regions, final_steps=0,
            begin="start", explore="explore if not converged",
        )  # fmt: skip
        with suppress(UnsupportedOperationError):  # raised if it is not piecewise affine
            y = walk.descend(exact).example
    if precise is not clf:
        clf.cost += precise.cost
    return preimage.retract(clf.clamp(y.to(problem.toward)), NEWTON)[0]


def _streams(problem: Problem, number: int) -> SampleRng:
    """Random streams of their own for one part of the search."""
    rows = torch.arange(len(problem))
    return problem.rng.children(rows, torch.full_like(rows, number % 2**31), 1)
