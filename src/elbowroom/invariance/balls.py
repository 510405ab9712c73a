"""Descent steps inside of L2 balls cut by the input box: the projection and the line search."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from elbowroom.invariance.base import Problem
from elbowroom.norms import L2, per_sample
from elbowroom.regions.padded import blocks


def nearest_in_ball_and_box(
    point: Tensor, centre: Tensor, radius: Tensor, lower: Tensor, upper: Tensor
) -> Tensor:
    """The nearest points `(N, *shape)` to `point` in the box that are within `radius` of `centre`.

    centre: `(N, *shape)`, in the box. radius: `(N,)`. lower, upper: broadcast to a sample.

    Exact up to rounding, computed in float64. By the optimality conditions the answer is
    `clip(centre + s (point - centre))` with the largest s in [0, 1] whose answer is in the ball.
    The squared length of the clipped move is concave and piecewise linear in s^2, so Newton's
    method from 0 rises to the root and ends after finitely many steps.
    """
    move = (point.double() - centre.double()).flatten(1)
    low, high = ((b.double() - centre.double()).flatten(1) for b in (lower, upper))
    room = torch.where(move > 0, high, low)
    wanted = radius.double()[:, None].square()
    share = torch.zeros_like(wanted)  # s^2
    clipped = torch.zeros_like(move, dtype=torch.bool)
    while True:
        used = torch.where(clipped, room, 0.0).square().sum(dim=1, keepdim=True)
        slope = torch.where(clipped, 0.0, move).square().sum(dim=1, keepdim=True)
        # Without a slope all that moves is at its bound, and the ball holds it.
        share = torch.where(slope > 0, (wanted - used).clamp(min=0) / slope, 1.0).clamp(max=1.0)
        beyond = (share.sqrt() * move).abs() > room.abs()
        if bool((beyond <= clipped).all()):
            break
        clipped |= beyond
    found = torch.maximum(torch.minimum(share.sqrt() * move, high), low)
    nearest = (centre.double() + found.view_as(point)).to(point.dtype)
    return torch.maximum(torch.minimum(nearest, upper), lower)


class Balls:
    """The inversions of `problem`, each in the ball of `radius` `(N,)` around its `toward`.

    Everything is computed in blocks of `size` samples, the last one padded, so that nothing
    depends on how many are left. `rows` are numbers of samples, repeats allowed.
    """

    def __init__(self, problem: Problem, radius: Tensor, size: int) -> None:
        self.problem, self.radius, self.size = problem, radius, size

    def random_points(self, direction: Tensor, share: Tensor) -> Tensor:
        """Uniform in the balls, then moved into the box, for all samples.

        direction: `(N, *shape)`, normal. share: `(N,)`, uniform in [0, 1).
        """

        def draw(rows: Tensor, direction: Tensor, share: Tensor) -> tuple[Tensor]:
            length = self.radius[rows] * share.double() ** (1 / direction[0].numel())
            move = per_sample(length, direction) * L2.steepest(direction.double())
            return (self._project(rows, self.problem.toward[rows] + move.to(direction.dtype)),)

        return self._in_blocks(draw, self._all(direction), direction, share)[0]

    def measure(self, rows: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """At `z` `(R, *shape)`: feature MSE `(R,)`, float64, its gradient's direction and length.

        The direction `(R, *shape)` has length 1, or 0 where the gradient has.
        """

        def work(rows: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            goal = self.problem.goal.take(rows)
            logits, gradient = self.problem.clf.gradient(z, goal.loss)
            return goal.loss(logits.double()), L2.steepest(gradient), L2.length(gradient)

        loss, direction, length = self._in_blocks(work, rows, z)
        return loss, direction, length

    def backtrack(
        self,
        rows: Tensor,
        z: Tensor,
        loss: Tensor,
        direction: Tensor,
        length: Tensor,
        first: Tensor,
        shortest: Tensor,
        *,
        alpha: float,
        beta: float,
    ) -> tuple[Tensor, Tensor]:
        """Line searches from `z`, of what `measure` says: the points reached, and the steps `(R,)`.

        Of the steps `first`, `beta first`, `beta^2 first`, ... it is the longest for which
        `f(p) - f(z) < alpha grad f(z) . (p - z)`, p the projection of `z - step direction`; the
        first one that is not longer than `shortest` in any case. Places in a block that would be
        padding are filled with the next steps of the samples that are left.
        """
        moved, taken = z.clone(), torch.zeros_like(loss)
        step = first.clone()
        left = torch.arange(len(rows), device=z.device)

        def trial(which: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            here, down, row = z[which], direction[which], rows[which]
            point = self._project(row, here - per_sample(step.to(z.dtype), z) * down)
            along = (down.double() * (point.double() - here.double())).flatten(1).sum(dim=1)
            logits = self.problem.clf.logits(point)
            change = self.problem.goal.take(row).loss(logits.double()) - loss[which]
            return point, change < alpha * length[which] * along

        while len(left):
            each = max(1, -(-len(left) // self.size) * self.size // len(left))
            powers = beta ** torch.arange(each, device=z.device, dtype=loss.dtype)
            tried = (step[left, None] * powers).flatten()
            which = left.repeat_interleave(each)
            point, enough = self._in_blocks(trial, which, tried)
            enough = (enough | (tried <= shortest[which])).view(len(left), each)
            found, number = enough.any(dim=1), enough.to(torch.uint8).argmax(dim=1)
            chosen = torch.arange(len(left), device=z.device) * each + number
            moved[left[found]] = point[chosen[found]]
            taken[left[found]] = tried[chosen[found]]
            step[left] = step[left] * beta**each
            left = left[~found]
        return moved, taken

    def _project(self, rows: Tensor, point: Tensor) -> Tensor:
        clf = self.problem.clf
        box = (bound.expand(point.shape) for bound in (clf.lower, clf.upper))
        return nearest_in_ball_and_box(point, self.problem.toward[rows], self.radius[rows], *box)

    def _all(self, like: Tensor) -> Tensor:
        return torch.arange(len(like), device=like.device)

    def _in_blocks(
        self, work: Callable[..., tuple[Tensor, ...]], *columns: Tensor
    ) -> tuple[Tensor, ...]:
        """`work` on the rows of the columns, a block at a time."""
        parts = []
        for rows, real in blocks(len(columns[0]), self.size, columns[0].device):
            found = work(*(column[rows] for column in columns))
            parts.append([part[:real] for part in found])
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))
