"""Preimage descent: exactly the wanted features, as close to an input as can be found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.invariance.adam import AdamOnLogits
from elbowroom.invariance.base import Found, Inversion, Problem
from elbowroom.invariance.preimage import RETRACTED, Preimage
from elbowroom.norms import L2, per_sample
from elbowroom.optimise import Best
from elbowroom.regions.padded import blocks
from elbowroom.sampling import SampleRng

BEGINNINGS = ("toward", "start", "adam")
# Of the approach: shares of the way to the nearest point; the last noise as a part of the first.
SHARES = (0.7, 0.1)
LAST_NOISE = 0.05
NEWTON = 12
# The way back to the preimage, where Newton's method fails from the end of the approach.
BACK_STEPS, BACK_SHARES, BACK_NOISE, BACK_MEMORY = 20, (0.5, 0.5), (0.15, 0.002), 0.5
# Of the walk: the first share, what it is multiplied by, and Newton steps back.
WALK_SHARE, LONGER, SHORTER, WALK_NEWTON = 0.5, 1.5, 0.5, 6
FEW_FEATURES = 100
JACOBIAN_VALUES = 2**26  # of a block: bounds its memory where there are many features


@dataclass(frozen=True, kw_only=True)
class PreimageDescent(Inversion):
    """Descend towards `toward` on the preimage of the wanted features, which it meets exactly.

    The problem is the Invariance thesis's (3.1); its attack needs some 400 linear regions of 1,000
    solver steps and keeps the logits to about 1e-7. Here, from each start: *approach* by sequential
    quadratic programming with smoothed gradients, to a point near the preimage; *retract* it onto
    the preimage by Newton's method of least distance, which is exact on a piecewise affine network
    up to rounding; *walk* on the preimage, each step retracted, while that gets nearer. The nearest
    of all is the answer. Networks that are not piecewise affine are treated alike; there Newton's
    method may fail, and `success` tells.

    begin:      where: "toward"; "start", if there is one; "adam", what `AdamOnLogits` finds.
    restarts:   approaches from each, with other noise; by default 8 for inputs of up to
                `FEW_FEATURES` features, where many points are nearest among their neighbours and
                an approach costs little, else 1.
    steps:      of an approach; each costs K VJPs, for K features.
    smoothing:  standard deviation of the first noise, in widths of the input box.
    memory:     weight of earlier gradients in their average.
    walk_steps: of the walk at the end.
    path:       whether to walk from `start` as well, and keep the points.
    path_steps: of that walk.
    block:      samples worked on at a time, always so many: results do not depend on the batch.
    """

    tolerance: float = 1e-9
    begin: Sequence[str] = ("toward", "start")
    restarts: int | None = None
    steps: int = 60
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
        if not 0 < self.smoothing < float("inf"):
            raise ValueError(f"smoothing must be positive and finite, not {self.smoothing}")

    def descend(self, problem: Problem) -> Found:
        if self.path and not problem.known:
            raise ValueError("a path begins at start: give start instead of target")
        count = problem.goal.logits.shape[1] * problem.toward[0].numel()
        size = min(self.block, max(1, JACOBIAN_VALUES // count))
        examples, paths = [], []
        for rows, real in blocks(len(problem), size, problem.toward.device):
            found = self._descend(problem.take(rows))
            examples.append(found.example[:real])
            if found.path is not None:
                paths.append(found.path[:, :real])
        return Found(torch.cat(examples), torch.cat(paths, dim=1) if paths else None)

    def _descend(self, problem: Problem) -> Found:
        clf, toward = problem.clf, problem.toward
        preimage = Preimage.exact(clf, problem.goal, problem.width)
        best = Best(toward, L2)
        begins = self._begins(problem)
        restarts = self.restarts or (8 if toward[0].numel() <= FEW_FEATURES else 1)
        for number in range(restarts * len(begins)):
            begin = begins[number % len(begins)]
            y = self._approach(preimage, toward, begin, _streams(problem, number))
            best.offer(y, clf.logits(y), preimage.goal)
        if problem.known:
            best.offer(problem.start, clf.logits(problem.start), preimage.goal)
        last = self._walk(preimage, toward, best.point, _streams(problem, -1), self.walk_steps)[-1]
        best.offer(last, clf.logits(last), preimage.goal)
        if not self.path:
            return Found(best.point)
        path = self._walk(preimage, toward, problem.start, _streams(problem, -2), self.path_steps)
        best.offer(path[-1], clf.logits(path[-1]), preimage.goal)
        return Found(best.point, torch.stack(path))

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

    def _approach(self, preimage: Preimage, x: Tensor, y: Tensor, rng: SampleRng) -> Tensor:
        """From `y` to a point on the preimage near `x`, or near the preimage where that fails."""
        noise = (self.smoothing, self.smoothing * LAST_NOISE)
        y = preimage.approach(
            x, y, rng, steps=self.steps, shares=SHARES, noise=noise, memory=self.memory
        )
        y, features, _ = preimage.retract(y, NEWTON)
        off = (~preimage.goal.met(features)).nonzero().squeeze(1)
        for some, real in blocks(len(off), RETRACTED, y.device):
            rows = off[some]
            part, streams = preimage.take(rows), rng.children(rows, torch.zeros_like(rows), 2)
            z = part.approach(
                None, y[rows], streams,
                steps=BACK_STEPS, shares=BACK_SHARES, noise=BACK_NOISE, memory=BACK_MEMORY,
            )  # fmt: skip
            y[rows[:real]] = part.retract(z, NEWTON)[0][:real]
        return y

    def _walk(
        self, preimage: Preimage, x: Tensor, y: Tensor, rng: SampleRng, steps: int
    ) -> list[Tensor]:
        """Points on the preimage, from `y` on, each at least as near to `x` as the one before.

        A point that is not on the preimage stays where it is. The direction is that of gradients
        averaged over `y` and a noisy point, the nearer to it the shorter the step.
        """
        features, J = preimage.jacobian(y)
        on = preimage.goal.met(features)
        distance = L2.length(y - x)
        share = torch.full_like(distance, WALK_SHARE)
        points = [y]
        for _ in range(steps):
            size = per_sample((self.smoothing * share).to(y.dtype), y)
            _, aside = preimage.jacobian(
                preimage.clf.clamp(y + size * preimage.width * rng.normal(y))
            )
            ahead = preimage.nearest(x, y, features, (J + aside) / 2, rough=True)[0] - y
            z, reached, there = preimage.retract(
                y + per_sample(share.to(y.dtype), y) * ahead, WALK_NEWTON
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


def _streams(problem: Problem, number: int) -> SampleRng:
    """Random streams of their own for one part of the search."""
    rows = torch.arange(len(problem))
    return problem.rng.children(rows, torch.full_like(rows, number % 2**31), 1)
