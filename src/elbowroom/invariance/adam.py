"""Adam on the logits: the baseline of the invariance literature."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.goals import SameLogits
from elbowroom.invariance.base import Inversion
from elbowroom.norms import L2, per_sample
from elbowroom.optimise import Adam, Best
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class AdamOnLogits(Inversion):
    """From `toward`, descend the mean squared difference of the logits, inside the input box.

    Jacobsen et al. 2019; Invariance thesis, section 4.2.6 (there without the box). Finds nearly
    equal logits reliably; nothing holds it close to `toward`, so distances are larger than need
    be. The closest point that meets the tolerance is kept.

    steps:          at most, per learning rate; a sample is left alone once it succeeded.
    learning_rates: of Adam, as shares of the width of the input bounds (of the spread of `start`
                    and `toward` where they are infinite). Each is tried from `toward` anew for
                    the samples that the ones before it failed on: small ones end nearer.
    patience:       a sample's learning rate halves after so many steps without progress.
    """

    steps: int = 400
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1)
    patience: int = 20

    def descend(
        self,
        clf: Classifier,
        start: Tensor,
        toward: Tensor,
        goal: SameLogits,
        rng: SampleRng,
    ) -> Tensor:
        best = Best(toward, L2)
        for learning_rate in self.learning_rates:
            rate = learning_rate * self._width(clf, start, toward)
            self._run(clf, toward, goal, rate, best)
            if bool(best.met.all()):
                break
        return best.point

    def _run(
        self, clf: Classifier, toward: Tensor, goal: SameLogits, rate: Tensor, best: Best
    ) -> None:
        adam = Adam()
        z = toward.clone()
        share = z.new_ones(len(z))
        lowest = torch.full_like(share, torch.inf)
        stalled = torch.zeros_like(share)
        for _ in range(self.steps):
            logits, gradient = clf.gradient(z, goal.loss)
            best.offer(z, logits, goal, where=~best.met)
            if bool(best.met.all()):
                return
            loss = goal.loss(logits)
            progress = loss < 0.99 * lowest
            lowest = torch.minimum(lowest, loss)
            stalled = torch.where(progress, 0.0, stalled + 1)
            share = torch.where(stalled >= self.patience, share / 2, share)
            stalled = torch.where(stalled >= self.patience, 0.0, stalled)
            z = clf.clamp(z - per_sample(share, z) * rate * adam.step(gradient))

    @staticmethod
    def _width(clf: Classifier, start: Tensor, toward: Tensor) -> Tensor:
        width = (clf.upper - clf.lower).expand(toward.shape)
        spread = per_sample((start - toward).flatten(1).abs().amax(dim=1), toward)
        return torch.where(width.isfinite(), width, spread)
