"""The preimage of wanted features, near a point: its linearisation, and the way back onto it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.goals import SameLogits
from elbowroom.invariance.affine_projection import shortest_move
from elbowroom.norms import per_sample
from elbowroom.regions.padded import blocks, charged
from elbowroom.sampling import SampleRng

# Of the largest wanted feature, in units of rounding: what counts as exactly the same features.
EXACT_ULPS = 64
BATCH_ULPS = 8  # by which a feature can depend on the batch
# Samples that a step of Newton's method is computed for at a time, fewer of them padded: so few,
# or so many that they have this many features.
RETRACTED, FEATURES_RETRACTED = 4, 2**9
# Settings of `shortest_move`: on the way, the linearisation itself is far less true.
EXACT = {"tolerance": 1e-13, "stiffness": 1e10}
ROUGH = {"tolerance": 1e-6, "stiffness": 1e4}


@dataclass(frozen=True)
class Preimage:
    """The preimages of N wanted features under a classifier, in its input box.

    goal:  the wanted features, with a tolerance at which they count as exactly met.
    width: `(N, *shape)`: of the input box, the unit of all noise.
    """

    clf: Classifier
    goal: SameLogits
    width: Tensor

    @classmethod
    def exact(cls, clf: Classifier, goal: SameLogits, width: Tensor) -> Preimage:
        """As exact as the precision allows, and a little more exact than `goal`.

        In another batch the features can differ by some units of the last place.
        """
        size = goal.logits.abs().amax(dim=1).clamp(min=1.0)
        ulp = torch.finfo(size.dtype).eps * size
        root = goal.tolerance.sqrt()
        inside = torch.maximum(root - BATCH_ULPS * ulp, root / 2)
        limit = torch.minimum(inside, EXACT_ULPS * ulp).square()
        return cls(clf, SameLogits(goal.logits, limit), width)

    @property
    def retracted(self) -> int:
        """Samples that a step of Newton's method is computed for at a time."""
        return max(RETRACTED, FEATURES_RETRACTED // self.width[0].numel())

    def take(self, rows: Tensor) -> Preimage:
        """The preimages `rows` (indices, repeats allowed)."""
        goal = self.goal.take(rows)
        assert isinstance(goal, SameLogits)
        return Preimage(self.clf, goal, self.width[rows])

    def of(self, clf: Classifier) -> Preimage:
        """The same preimages under `clf`, the same classifier in another precision."""
        goal = SameLogits(self.goal.logits.to(clf.dtype), self.goal.tolerance.to(clf.dtype))
        return Preimage(clf, goal, self.width.to(clf.dtype))

    def jacobian(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Features `(N, K)` and all their gradients `(N, K, d)`, float64, at `y` `(N, *shape)`."""
        count = self.goal.logits.shape[1]
        every = torch.arange(count, device=y.device).expand(len(y), count)
        features, rows = self.clf.jacobian_rows(y, every)
        return features, rows.double().flatten(2)

    def nearest(
        self,
        x: Tensor,
        y: Tensor,
        features: Tensor,
        J: Tensor,
        *,
        rough: bool = False,
        guess: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The nearest points to `x` that have the wanted features by the linearisation at `y`.

        features: `(N, K)`, at `y`. J: `(N, K, d)`. rough: whether a little from them will do.
        guess: see `shortest_move`.
        Returns points in the input box, and multipliers.
        """
        flat = x.double().flatten(1)
        lower, upper = (
            b.double().expand(y.shape[1:]).flatten() - flat
            for b in (self.clf.lower, self.clf.upper)
        )
        apart = (y.double() - x.double()).flatten(1)
        r = (J * apart[:, None]).sum(dim=2) + (self.goal.logits - features).double()
        solver = ROUGH if rough else EXACT
        move, multipliers = shortest_move(J, r, lower, upper, guess=guess, **solver)
        return self.clf.clamp(x + move.to(x).view_as(x)), multipliers

    def retract(self, y: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Newton's method of least distance from `y`, in the box.

        In a piecewise affine network a step is exact as soon as it stays in one linear region.
        Returns the points `(N, *shape)`, their features and gradients; those that do not get there
        in so many steps stay where they are then. Costs K VJPs and two forward passes a step.
        """
        features, J = self.jacobian(y)
        y, features, J = y.clone(), features.clone(), J.clone()
        for _ in range(steps):
            off = (~self.goal.met(features)).nonzero().squeeze(1)
            # Always so many at a time: the last bits would depend on how many others are left.
            for some, real in blocks(len(off), self.retracted, y.device):
                rows = off[some]
                part = self.take(rows)
                z, _ = part.nearest(y[rows], y[rows], features[rows], J[rows])
                with charged(self.clf, real, len(rows)):
                    # A step that raises the error is halved, and taken: a facet is seldom in the
                    # way twice.
                    worse = part.goal.loss(self.clf.logits(z)) >= part.goal.loss(features[rows])
                    z = torch.where(per_sample(worse, z), (y[rows] + z) / 2, z)
                    reached, there = part.jacobian(z)
                rows = rows[:real]
                y[rows], features[rows], J[rows] = z[:real], reached[:real], there[:real]
        return y, features, J

    def approach(
        self,
        x: Tensor | None,
        y: Tensor,
        rng: SampleRng,
        *,
        steps: int,
        shares: tuple[float, float],
        noise: tuple[float, float],
        memory: float,
    ) -> Tensor:
        """Sequential quadratic programming with smoothed gradients, from `y` to the nearest to `x`;
        to the nearest to where it is itself if `x` is None.

        Each step goes a share of the way to the nearest point by a linearisation whose gradients
        are those at a noisy point, averaged over the steps with the weight `memory` for the past.
        Shares and noise (in widths of the box) fall geometrically, from the first to the second
        value. So facets of linear regions, where gradients jump, do not stop it; it ends near the
        preimage, not on it. Costs K VJPs and two forward passes a step.
        """
        mean: Tensor | None = None
        multipliers: Tensor | None = None
        for step in range(steps):
            progress = step / max(steps - 1, 1)
            share = shares[0] * (shares[1] / shares[0]) ** progress
            size = noise[0] * (noise[1] / noise[0]) ** progress
            features = self.clf.logits(y)
            _, J = self.jacobian(self.clf.clamp(y + size * self.width * rng.normal(y)))
            mean = J if mean is None else memory * mean + (1 - memory) * J
            z, multipliers = self.nearest(
                y if x is None else x, y, features, mean, rough=True, guess=multipliers
            )
            y = y + share * (z - y)
        return y
