"""Adam on the logits: the baseline of the invariance literature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.goals import SameLogits
from elbowroom.invariance.base import Inversion
from elbowroom.norms import L2, per_sample
from elbowroom.optimise import Adam, Best, cosine_decay
from elbowroom.sampling import SampleRng


@dataclass(frozen=True, kw_only=True)
class AdamOnLogits(Inversion):
    """From `toward`, descend the mean squared difference of the logits, inside the input box.

    Jacobsen et al. 2019; Invariance thesis, section 4.2.6 (there without the box). Finds nearly
    equal logits; nothing holds it close to `toward`, so distances are larger than need be.

    steps:          per learning rate; a sample is left alone once it succeeded.
    learning_rates: of Adam, as shares of the width of the input bounds (of the spread of `start`
                    and `toward` where they are infinite); each falls to a thousandth along half
                    a cosine. Each is tried from `toward` anew for the samples that the ones
                    before it failed on: small ones end nearer, large ones succeed more often.
    beta2:          of Adam. The loss falls by many orders of magnitude on the way, so its
                    gradients must be forgotten faster than by the usual 0.999.
    """

    steps: int = 800
    learning_rates: Sequence[float] = (0.01, 0.03, 0.1)
    beta2: float = 0.95

    def descend(
        self,
        clf: Classifier,
        start: Tensor,
        toward: Tensor,
        goal: SameLogits,
        rng: SampleRng,
    ) -> Tensor:
        best = Best(toward, L2)
        width = self._width(clf, start, toward)
        for learning_rate in self.learning_rates:
            self._run(clf, toward, goal, learning_rate * width, best)
            if bool(best.met.all()):
                break
        return best.point

    def _run(
        self, clf: Classifier, toward: Tensor, goal: SameLogits, rate: Tensor, best: Best
    ) -> None:
        adam = Adam(beta2=self.beta2)
        z = toward.clone()
        for step in range(self.steps):
            logits, gradient = clf.gradient(z, goal.loss)
            best.offer(z, logits, goal, where=~best.met)
            if bool(best.met.all()):
                return
            size = cosine_decay(step, self.steps, floor=1e-3) * rate
            z = clf.clamp(z - size * adam.step(gradient))

    @staticmethod
    def _width(clf: Classifier, start: Tensor, toward: Tensor) -> Tensor:
        width = (clf.upper - clf.lower).expand(toward.shape)
        spread = per_sample((start - toward).flatten(1).abs().amax(dim=1), toward)
        return torch.where(width.isfinite(), width, spread)
