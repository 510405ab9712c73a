"""The projection as LRA publishes it: accelerated projected gradient ascent in the dual.

Croce, Rauber and Hein, sections 4.1 and 4.2. Every step costs one pass through the affine map and
one back; after the 500 steps of the paper the constraints still hold only roughly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.norms import per_sample
from elbowroom.regions.polytope import Polytopes
from elbowroom.sampling import SampleRng


@dataclass(frozen=True)
class ApproximateProjection:
    """z: `(P, *shape)`, in the box. lower: `(P,)`, float64: no feasible point is nearer (L2).

    steps: `(P,)`: taken; fewer than allowed where the dual value exceeded the ceiling.
    """

    z: Tensor
    lower: Tensor
    steps: Tensor


@dataclass(frozen=True, kw_only=True)
class Accelerated:
    """The solver and its settings; the defaults are the paper's and its released code's.

    steps:            at most; a problem ends when its dual value exceeds the ceiling.
    power_iterations: to estimate the Lipschitz constant of the gradient. Power iteration bounds it
                      from below, so that steps can be somewhat too long.
    sampled_rows:     of every layer, whose mean length scales the layer's constraints.
    decision_factor:  by which the decision's constraints are scaled beyond that.
    compact_every:    steps after which finished problems leave.
    """

    steps: int = 500
    power_iterations: int = 20
    sampled_rows: int = 10
    decision_factor: float = 75.0
    compact_every: int = 25

    def __call__(
        self,
        polytopes: Polytopes,
        x: Tensor,
        rng: SampleRng,
        *,
        ceiling: Tensor | None = None,
        multipliers: Tensor | None = None,
    ) -> ApproximateProjection:
        """Project `x` `(P, *shape)` onto the polytopes and the box of their classifier.

        rng:         for the sampled rows, one stream a problem.
        ceiling:     `(P,)`: distances of no interest from there on.
        multipliers: `(P, slots)`, a first guess; zero by default.
        """
        # Finished problems leave, so that batch sizes vary; padding would undo what that saves.
        polytopes = Polytopes(
            polytopes.clf, polytopes.affine, polytopes.decision, bound=polytopes.bound
        )
        clf = polytopes.clf
        limit = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
        if ceiling is not None:
            limit = ceiling.double().square() / 2
        scale = self._scale(polytopes, rng, x)
        step_size = 1 / self._lipschitz(polytopes, scale, x)
        mu = torch.zeros_like(scale)
        if multipliers is not None:
            mu = torch.where(scale > 0, multipliers.to(mu) / scale, 0.0)
        ahead, momentum = mu, 1.0
        value = x.new_zeros(len(x), dtype=torch.float64)
        z_final = x.clone()
        active = torch.arange(len(x), device=x.device)
        taken = torch.zeros_like(active)
        for step in range(self.steps):
            z = clf.clamp(x - polytopes.pull(scale * ahead))
            excess = polytopes.excess(z)
            gradient = scale * torch.where(excess.isfinite(), excess, 0.0)
            now = (z - x).double().flatten(1).square().sum(dim=1) / 2
            now = now + (ahead.double() * gradient).sum(dim=1)
            value[active] = torch.maximum(value[active], now)
            z_final[active] = z
            taken[active] += 1
            following = (ahead + step_size[:, None] * gradient).clamp_(min=0)
            larger = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = following + (momentum - 1) / larger * (following - mu)
            ahead = ahead.clamp_(min=0)  # so that the value at `ahead` is a bound, too
            mu, momentum = following, larger
            if step % self.compact_every == self.compact_every - 1:
                left = (value[active] <= limit[active]).nonzero().squeeze(1)
                if not len(left):
                    break
                if len(left) < len(active):
                    active, polytopes = active[left], polytopes.take(left)
                    x, scale, step_size = x[left], scale[left], step_size[left]
                    mu, ahead = mu[left], ahead[left]
        return ApproximateProjection(z_final, (2 * value).sqrt(), taken)

    def _scale(self, polytopes: Polytopes, rng: SampleRng, x: Tensor) -> Tensor:
        """`(P, slots)`: one over the mean length of `sampled_rows` rows of the same layer."""
        draws = rng.uniform(x.new_zeros(len(x), len(polytopes.blocks), self.sampled_rows))
        means = []
        first = 0
        for number, block in enumerate(polytopes.blocks):
            slots = (first + draws[:, number] * block.count).long()
            if number == 0:
                slots = torch.arange(block.count, device=x.device).expand(len(x), -1)
            slots = slots.clamp(max=first + block.count - 1)
            lengths = torch.linalg.vector_norm(polytopes.rows(slots).flatten(2), dim=2)
            means.append(lengths.sum(dim=1) / (lengths > 0).sum(dim=1).clamp(min=1))
            first += block.count
        mean = torch.stack(means, dim=1)
        # A layer of which only zero rows were sampled counts as the others do on average.
        everywhere = mean.sum(dim=1, keepdim=True) / (mean > 0).sum(dim=1, keepdim=True).clamp(1)
        mean = torch.where(mean > 0, mean, everywhere)
        scale = torch.where(mean > 0, 1 / mean, 0.0)
        scale[:, 0] *= self.decision_factor
        counts = torch.tensor([block.count for block in polytopes.blocks], device=x.device)
        scale = scale.repeat_interleave(counts, dim=1)
        return scale.masked_fill(polytopes.offset == -torch.inf, 0.0)

    def _lipschitz(self, polytopes: Polytopes, scale: Tensor, x: Tensor) -> Tensor:
        """`(P,)`: the largest eigenvalue of `A A'`, by power iteration from the vector of ones."""
        v = torch.ones_like(x)
        eigenvalue = x.new_ones(len(x))
        for _ in range(self.power_iterations):
            v = v / per_sample(v.flatten(1).norm(dim=1).clamp(min=1e-30), v)
            v = polytopes.pull(scale * (scale * polytopes.push(v)))
            eigenvalue = v.flatten(1).norm(dim=1)
        return eigenvalue.clamp(min=torch.finfo(x.dtype).tiny)
