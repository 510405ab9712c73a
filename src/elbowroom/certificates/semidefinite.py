"""The semidefinite relaxation as a certificate: tight in L2 where linear relaxation is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from elbowroom.certificates.ascent import State, ascend
from elbowroom.certificates.base import Certificate
from elbowroom.certificates.deviations import Deviations, deviations, require_two_pieces
from elbowroom.certificates.linear_relaxation import LinearRelaxation
from elbowroom.certificates.margins import ARITHMETIC, Margins
from elbowroom.certificates.program import Program
from elbowroom.certificates.relaxation import Relaxation
from elbowroom.certificates.shor import Multipliers, Problem, guaranteed_value
from elbowroom.classifier import Classifier
from elbowroom.norms import L2, Norm

MOST_UNITS = 8000
# Nothing is claimed beyond so many times the distance to the linearised decision boundary, or the
# radius that linear relaxation proves.
OF_LINEARISED, OF_RELAXED = 1.25, 2.5
# If a radius reaches this share of that limit, it is tried again with a longer one.
REACHED, LONGER = 0.97, 1.8
# A state is offered for proof when its radius is so many times that of the last one offered.
OFFER = 1.1
# Factors on tau that are tried until the proof goes through.
STRENGTHEN = (1.0, 1.0 + 1e-6, 1.0 + 1e-4, 1.01, 1.1, 2.0)


@dataclass(frozen=True, kw_only=True)
class Semidefinite(Certificate):
    """Shor's relaxation of every margin, by ascent on its dual (see `shor` and `ascent`).

    Raghunathan, Steinhardt and Liang 2018, for L2 balls. In L2 the units share the radius out
    among themselves, which lines cannot see: the radius is about twice that of linear
    relaxation. Needs ReLUs or other activations of two pieces, and the memory and time of dense
    matrices over all features and all units that can leave their piece (seconds for a thousand
    units, less than a minute for two thousand; networks of more than `MOST_UNITS` features and
    units are refused).

    Sound for the network as it is computed: whatever the ascent ends with is proved by a Cholesky
    factorisation in float64 with a bound on all rounding, and the rounding of the network in its
    own precision is taken off the margins.

    norm:  L2 only.
    steps: of the ascent, at most, for each class that is not farther than the nearest so far.
    """

    norms: ClassVar[tuple[Norm, ...]] = (L2,)

    steps: int = 20

    def bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([self._bound(clf, x[n : n + 1], y[n : n + 1]) for n in range(len(x))])

    def _bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        margins = Margins.of(clf, x, y, L2)
        none = torch.zeros_like(margins.available[:, 0])
        if not bool((margins.available > 0).all()):
            return none
        lower, upper = (b.double().expand(x.shape[1:]) for b in (clf.lower, clf.upper))
        relaxation = Relaxation(margins.known.exact, margins.values, lower, upper, L2)
        _require_small(relaxation)
        known = LinearRelaxation()(clf, x, y).radius
        farthest, limit = self._limits(relaxation, margins, known)
        while True:
            radius = self._within(relaxation, margins, y, limit)
            if radius < REACHED * float(limit) or bool(limit >= farthest):
                break
            limit = torch.minimum(LONGER * limit, farthest)
        clf.cost += relaxation.cost
        return torch.maximum(none + radius * ARITHMETIC, known)

    def _within(self, relaxation: Relaxation, margins: Margins, y: Tensor, limit: Tensor) -> float:
        """A proved radius, at most `limit` `(1,)`."""
        found = deviations(relaxation, y, limit)
        move = margins.values[0].flatten()
        low = torch.maximum(relaxation.lower.flatten() - move, -limit) * (1 + 1e-12)
        high = torch.minimum(relaxation.upper.flatten() - move, limit) * (1 + 1e-12)
        slope = L2.length(found.rows[:, : found.features])
        order = (margins.available[0] / slope.clamp(min=1e-300)).argsort().tolist()
        radius, start = float(limit), None
        for label in order:
            if label == int(y):
                continue
            row, margin = found.rows[label], float(found.margin[label])
            problem = Problem(found.moves, found.distance, row, margin, low, high)
            reserve = margin - float(margins.available[0, label])
            proof = _Proof(found, label, problem, reserve, margins.growth)
            of_class, start = self._radius(proof, float(limit), radius, start)
            radius = min(radius, of_class)
        return radius

    def _limits(
        self, relaxation: Relaxation, margins: Margins, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`(1,)`: as far as a claim can reach, and where to begin, for units that stay put within
        it are left out; `known` is a proved radius.
        """
        nowhere = torch.zeros_like(margins.available[:, 0])
        flat = relaxation.enclose(nowhere)
        last = len(relaxation.graph.nodes) - 1
        rows, _, _ = relaxation.fine.substitution.pull(
            {last: relaxation.pairs(margins.y)}, flat.envelopes
        )
        distance = margins.available / L2.length(rows[0]).clamp(min=1e-300)
        corner = torch.maximum(
            margins.values[0] - relaxation.lower, relaxation.upper - margins.values[0]
        )
        farthest = (OF_LINEARISED * distance.amin(dim=1)).minimum(L2.length(corner)).clamp(max=1e9)
        return farthest, torch.where(known > 0, OF_RELAXED * known.double(), farthest).minimum(
            farthest
        )

    def _radius(
        self, proof: _Proof, limit: float, enough: float, start: State | None
    ) -> tuple[float, State | None]:
        """A proved radius for one class, at least `enough` if that can be had; and where it was."""
        program = Program.of(proof.problem, limit, torch.float32)
        best, offered, at, last = 0.0, 0.0, start, None
        for state in ascend(program, self.steps, start):
            tau = proof.problem.margin / float(state.rho) / limit**2
            radius = proof.reach(state.value * limit**2 * tau, tau)
            last = state if last is None or state.value >= last.value else last
            if radius > max(OFFER * offered, 1.001 * enough):
                best, offered = max(best, proof.radius(state.multipliers(program))), radius
                at = state
                if best >= enough:
                    return best, at
        if last is not None and last.value > 0:
            best = max(best, proof.radius(last.multipliers(program)))
            at = last if at is None else at
        return best, at


@dataclass(frozen=True)
class _Proof:
    """What it takes to prove a radius for one class."""

    found: Deviations
    label: int
    problem: Problem
    reserve: float
    growth: float

    def radius(self, multipliers: Multipliers) -> float:
        """The largest radius that these multipliers, or some a little stronger, prove."""
        for factor in STRENGTHEN:
            tau = multipliers.tau * factor
            m = replace(multipliers, tau=tau)
            value = guaranteed_value(self.found, self.label, self.problem, m)
            if value > self.reserve:
                return self.reach(value, float(tau))
        return 0.0

    def reach(self, value: float, tau: float) -> float:
        """The radius at which the margin less `tau r^2` and the network's rounding is 0."""
        value = max(value - self.reserve, 0.0)
        root = math.sqrt(self.growth**2 + 4 * tau * value)
        return 2 * value / (self.growth + root) if value else 0.0


def _require_small(relaxation: Relaxation) -> None:
    features = relaxation.lower.numel()
    units = sum(require_two_pieces(kind).units for kind in relaxation.kinds.values())
    if features + units > MOST_UNITS:
        raise ValueError(
            f"{features} features and {units} units are more than the {MOST_UNITS} whose matrices "
            "the semidefinite certificate takes; use LinearRelaxation"
        )
