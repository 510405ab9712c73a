"""A walk along the decision boundary: from an example far away to one nearby."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from elbowroom.attacks.base import Attack
from elbowroom.attacks.fmn import FMN
from elbowroom.attacks.halfspace import onto_plane
from elbowroom.attacks.random_points import random_boundary_points, to_boundary
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal
from elbowroom.norms import L2, Norm, per_sample
from elbowroom.optimise import Best
from elbowroom.sampling import SampleRng

FIRST_SHARE = 0.03  # of the way to the sample in the first step
GROWTH = 1.5  # of the share after every step that came nearer
PATIENCE = 8  # steps that may pass without coming nearer


@dataclass(frozen=True, kw_only=True)
class BoundaryWalk(Attack):
    """Walk along the linearised boundary towards the sample, in steps that stay trustworthy.

    After Brendel et al. 2019 ("Accurate, reliable and fast robustness evaluation"), for the norms
    L1, L2 and Linf. Each step minimises the distance to the sample on the far side of the boundary,
    linearised at the current point, inside of the input box and near that point. The paper gives
    the radius of this trust region, and a solver searches its multiplier; here the multiplier
    itself is adapted, so that each step has a closed form: a share of the way to the sample, then
    the shortest way back over the boundary (in L2 the same steps). The share grows while the walk
    comes nearer; a walk that has lost the boundary goes back to its nearest success and takes
    smaller steps. It needs no good direction at the sample: strong on networks trained to be
    robust, whose gradients there mislead, above all from starts at random points.

    steps:     of each walk; one gradient each.
    restarts:  walks. The first one starts where `start` leads, the further ones at random points of
               the box that meet the goal; both are first moved to the boundary on the line to the
               sample.
    overshoot: each step aims beyond the boundary by this part of the largest change of the margin
               that the way to the sample could have made.
    start:     the attack whose success the first walk starts from; by default `FMN` with 50 steps.
    pool:      points `(M, *shape)` in the input box, such as training samples; the walks then start
               from those nearest to the sample that meet the goal, instead.
    """

    norm: Norm = L2
    steps: int = 200
    restarts: int = 3
    overshoot: float = 0.1
    start: Attack | None = None
    pool: Tensor | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.overshoot < 1:
            raise ValueError(f"overshoot must lie in [0, 1), not {self.overshoot}")

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        best = Best(x, self.norm)
        for restart in range(self.restarts):
            start = self._start(clf, x, goal, rng, restart)
            self.walk(clf, x, goal, start, best)
        return best.point

    # -- starts ------------------------------------------------------------------------------

    def _start(
        self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng, restart: int
    ) -> Tensor:
        """A point near the boundary for each sample; the sample itself where none was found."""
        if self.pool is not None:
            far = self._from_pool(clf, x, goal, restart)
        elif restart == 0:
            attack = self.start or FMN(norm=self.norm, steps=50, seed=self.seed)
            far = attack(clf, x, goal=goal, indices=rng.indices).adversarial
        else:
            everyone = torch.arange(len(x))
            numbers = torch.full_like(everyone, restart)
            return random_boundary_points(clf, x, goal, numbers, rng.children(everyone, numbers))
        return to_boundary(clf, x, far, goal)

    def _from_pool(self, clf: Classifier, x: Tensor, goal: Goal, rank: int) -> Tensor:
        """The point of the pool that is the `rank`-th nearest of those that meet the goal."""
        assert self.pool is not None
        pool = self.pool.to(x)
        logits = clf.logits(pool)
        met = torch.stack([goal.met(row.expand(len(x), -1)) for row in logits], dim=1)
        distance = torch.stack([self.norm.length(x - point) for point in pool], dim=1)
        nearest, order = torch.where(met, distance, torch.inf).sort(dim=1, stable=True)
        # With too few points, the farthest start is used again: it does no harm.
        last = (nearest.isfinite().sum(dim=1) - 1).clamp(min=0)
        chosen = last.clamp(max=rank)[:, None]
        usable = nearest.gather(1, chosen).squeeze(1).isfinite()
        return torch.where(per_sample(usable, x), pool[order.gather(1, chosen).squeeze(1)], x)

    # -- the walk ----------------------------------------------------------------------------

    def walk(self, clf: Classifier, x: Tensor, goal: Goal, point: Tensor, best: Best) -> None:
        """One walk from `point` `(N, *shape)`; whatever meets `goal` is offered to `best`."""
        share = torch.full((len(x),), FIRST_SHARE, dtype=x.dtype, device=x.device)
        # The nearest success of this walk, and the boundary linearised there.
        anchor, anchor_gap, anchor_normal = point, torch.zeros_like(share), torch.zeros_like(x)
        nearest = torch.full_like(share, torch.inf, dtype=torch.float64)
        lost = torch.full_like(share, -torch.inf)  # steps since; it counts from the first success
        for _ in range(self.steps):
            logits, normal = clf.gradient(point, goal.margin)
            gap = goal.margin(logits)
            met = best.offer(point, logits, goal)
            distance = self.norm.length(point - x)
            nearer = met & (distance < nearest)
            here = per_sample(nearer, x)
            nearest = torch.where(nearer, distance, nearest)
            anchor = torch.where(here, point, anchor)
            anchor_normal = torch.where(here, normal, anchor_normal)
            anchor_gap = torch.where(nearer, gap, anchor_gap)
            lost = torch.where(nearer, 0.0, lost + 1)
            give_up = lost >= PATIENCE
            there = per_sample(give_up, x)
            point = torch.where(there, anchor, point)
            normal = torch.where(there, anchor_normal, normal)
            gap = torch.where(give_up, anchor_gap, gap)
            share = torch.where(nearer, (GROWTH * share).clamp(max=1), share)
            share = torch.where(give_up, share / 2, share)
            lost = torch.where(give_up, 0.0, lost)
            point = self._step(clf, x, point, gap, normal, share)
        best.offer(point, clf.logits(point), goal)

    def _step(
        self, clf: Classifier, x: Tensor, point: Tensor, gap: Tensor, normal: Tensor, share: Tensor
    ) -> Tensor:
        """The share of the way to the sample, then the shortest way back over the boundary."""
        ahead = point + per_sample(share, x) * (x - point)
        gap_ahead = gap + (normal * (ahead - point)).flatten(1).sum(dim=1)
        # The boundary is curved: aim beyond it by a part of what the step could have changed.
        reach = share * (self.norm.length(x - point) * self.norm.dual.length(normal)).to(x.dtype)
        missing = (gap_ahead + self.overshoot * reach).clamp(min=0)
        return onto_plane(ahead, missing, normal, clf.lower, clf.upper, self.norm)
