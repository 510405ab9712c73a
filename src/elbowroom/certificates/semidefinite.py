"""The semidefinite relaxation as a certificate: tight in L2 where linear relaxation is not."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from elbowroom.certificates.ascent import ascend, starting_point
from elbowroom.certificates.base import Certificate
from elbowroom.certificates.deviations import Deviations, deviations, require_two_pieces
from elbowroom.certificates.margins import ARITHMETIC, Margins
from elbowroom.certificates.relaxation import Relaxation
from elbowroom.certificates.shor import Multipliers, Problem, evaluate, guaranteed_value
from elbowroom.classifier import Classifier
from elbowroom.norms import L2, Norm

MOST_UNITS = 4000
# The radius is limited to this many times the distance to the linearised decision boundary.
LIMIT = 1.25
# Factors on tau that are tried until the proof goes through.
STRENGTHEN = (1.0, 1.0 + 1e-6, 1.0 + 1e-4, 1.01, 1.1, 2.0)


@dataclass(frozen=True, kw_only=True)
class Semidefinite(Certificate):
    """Shor's relaxation of every margin, by gradient ascent on its dual (see `shor`).

    Raghunathan, Steinhardt and Liang 2018, for L2 balls. In L2 the units share the radius out
    among themselves, which lines cannot see: on networks of dense layers the radius comes within
    a few percent of the nearest adversarial example. Needs ReLUs or other activations of two
    pieces, and the memory and time of dense matrices over all features and all units (seconds for
    a thousand, minutes for three thousand; more than `MOST_UNITS` are refused).

    Sound for the network as it is computed: whatever the ascent ends with is proved by a Cholesky
    factorisation in float64 with a bound on all rounding, and the rounding of the network in its
    own precision is taken off the margins.

    norm:  L2 only.
    steps: of the ascent, for each class that is not farther than the nearest so far.
    """

    norms: ClassVar[tuple[Norm, ...]] = (L2,)

    steps: int = 300

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
        limit = self._limit(relaxation, margins)
        found = deviations(relaxation, y, limit)
        clf.cost += relaxation.cost
        move = margins.values[0].flatten()
        low = torch.maximum(lower.flatten() - move, -limit) * (1 + 1e-12)
        high = torch.minimum(upper.flatten() - move, limit) * (1 + 1e-12)
        slope = L2.length(found.rows[:, : found.features])
        order = (margins.available[0] / slope.clamp(min=1e-300)).argsort().tolist()
        radius, multipliers = float(limit), None
        for label in order:
            if label == int(y):
                continue
            row, margin = found.rows[label], float(found.margin[label])
            problem = Problem(found.moves, found.distance, row, margin, low, high)
            reserve = margin - float(margins.available[0, label])
            proof = _Proof(found, label, problem, reserve, margins.growth)
            of_class, multipliers = self._radius(proof, radius, multipliers)
            radius = min(radius, of_class)
        return none + radius * ARITHMETIC

    def _limit(self, relaxation: Relaxation, margins: Margins) -> Tensor:
        """`(1,)`: nothing is claimed beyond it, so units that stay put within it are left out."""
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
        return (LIMIT * distance.amin(dim=1)).minimum(L2.length(corner)).clamp(max=1e9)

    def _radius(
        self, proof: _Proof, enough: float, start: Multipliers | None
    ) -> tuple[float, Multipliers]:
        """A proved radius for one class, at least `enough` if that can be had."""
        scale = proof.problem.margin
        rough = proof.problem.to(torch.float32)
        rough = replace(rough, margin=1.0, row=rough.row / scale)
        if start is None or evaluate(rough, start, 0.0) is None:
            start = starting_point(rough)
        best, at = 0.0, start
        for candidate in ascend(rough, start, self.steps, enough):
            found = proof.radius(candidate.to(torch.float64).scaled(scale))
            if found > best:
                best, at = found, candidate
            if best >= enough:
                break
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
            value = guaranteed_value(self.found, self.label, self.problem, m) - self.reserve
            if value > 0:
                # tau r^2 + growth r <= value
                root = math.sqrt(self.growth**2 + 4 * float(tau) * value)
                return 2 * value / (self.growth + root)
        return 0.0


def _require_small(relaxation: Relaxation) -> None:
    features = relaxation.lower.numel()
    units = sum(require_two_pieces(kind).units for kind in relaxation.kinds.values())
    if features + units > MOST_UNITS:
        raise ValueError(
            f"{features} features and {units} units are more than the {MOST_UNITS} whose matrices "
            "the semidefinite certificate takes; use LinearRelaxation"
        )
