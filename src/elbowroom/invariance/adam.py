"""Adam on the logits: the baseline of the invariance literature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from elbowroom.invariance.base import Found, Inversion, Problem
from elbowroom.norms import L2
from elbowroom.optimise import Adam, Best, cosine_decay


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

    def descend(self, problem: Problem) -> Found:
        best = Best(problem.toward, L2)
        for learning_rate in self.learning_rates:
            self._run(problem, learning_rate * problem.width, best)
            if bool(best.met.all()):
                break
        return Found(best.point)

    def _run(self, problem: Problem, rate: Tensor, best: Best) -> None:
        clf, goal = problem.clf, problem.goal
        adam = Adam(beta2=self.beta2)
        z = problem.toward.clone()
        for step in range(self.steps):
            logits, gradient = clf.gradient(z, goal.loss)
            best.offer(z, logits, goal, where=~best.met)
            if bool(best.met.all()):
                return
            size = cosine_decay(step, self.steps, floor=1e-3) * rate
            z = clf.clamp(z - size * adam.step(gradient))
