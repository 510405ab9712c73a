"""The linear region attack for invariance: exact features, region by region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier
from elbowroom.graph import UnsupportedOperationError
from elbowroom.graph.pattern import require_piecewise_affine
from elbowroom.invariance.base import Found, Inversion, Problem
from elbowroom.invariance.linear_region_walk import (
    Begin,
    Explore,
    InversionWalk,
    Pick,
    Strategy,
    Visit,
)
from elbowroom.regions import Accelerated, WorkingSet
from elbowroom.regions.padded import VALUES_AT_ONCE
from elbowroom.results import InversionResult

PUBLISHED = Accelerated(steps=1000, sampled_rows=10)


class Variant(TypedDict):
    """What the configurations of Table 4.2 differ in."""

    begin: Begin
    directed: bool
    adaptive: bool
    explore: Explore


MIXED_DIRECTED: Explore = "exploit if not converged"
MIXED: Explore = "explore if not converged"

#: The configurations of Table 4.2 by number. "Mixed" there is the strategy between its neighbours:
#: "exploit if not converged" with directed steps, "explore if not converged" without, where the
#: other one does not work.
VARIANTS: dict[int, Variant] = {
    0: Variant(begin="start", directed=True, adaptive=True, explore=MIXED_DIRECTED),
    1: Variant(begin="start", directed=True, adaptive=True, explore="exploit"),
    2: Variant(begin="start", directed=True, adaptive=False, explore=MIXED_DIRECTED),
    3: Variant(begin="start", directed=True, adaptive=False, explore="exploit"),
    4: Variant(begin="start", directed=False, adaptive=True, explore=MIXED),
    5: Variant(begin="start", directed=False, adaptive=True, explore="explore"),
    6: Variant(begin="start", directed=False, adaptive=False, explore=MIXED),
    7: Variant(begin="start", directed=False, adaptive=False, explore="explore"),
    8: Variant(begin="toward", directed=True, adaptive=True, explore=MIXED_DIRECTED),
    9: Variant(begin="toward", directed=True, adaptive=True, explore="exploit"),
    10: Variant(begin="toward", directed=True, adaptive=False, explore=MIXED_DIRECTED),
    11: Variant(begin="toward", directed=True, adaptive=False, explore="exploit"),
}


@dataclass(frozen=True)
class RegionTrace:
    """What N walks found in each of R regions.

    result:  of the whole search.
    visits:  `(R, N)`: see `Visit`.
    final:   `(N, *shape)`, the picked region's solution, after it was solved again; NaN where no
             region was picked. The answer is another point where a nearer one was accepted, or
             where this one misses the goal.
    final_distance, final_mse: `(N,)`, float64, of it.
    """

    result: InversionResult
    visits: Visit
    final: Tensor
    final_distance: Tensor
    final_mse: Tensor

    def final_region(self, rule: Pick) -> Tensor:
        """`(N,)`: the number of the region that the rule picks, from 1; 0 where it picks none."""
        visits = self.visits
        numbers = torch.arange(1, len(visits.solved) + 1, device=visits.solved.device)[:, None]
        mse, first = visits.feature_mse.nan_to_num(torch.inf, torch.inf).min(dim=0)
        least = torch.where(mse.isfinite(), first + 1, 0)
        if rule == "least feature distance":
            return least
        marks = visits.accepted if rule == "last accepted" else visits.full
        last = (numbers * marks).amax(dim=0)
        return torch.where(last > 0, last, least) if rule == "last accepted" else last


@dataclass(frozen=True, kw_only=True)
class LinearRegionInversion(Strategy, Inversion):
    """Solve for the nearest point with the wanted features in one linear region after another.

    Invariance thesis, section 3.2.2, after Croce, Rauber and Hein (LRA). In each region a
    quadratic program, `min |z - toward|^2` with `z` in the region and the input box and its
    features as wanted (eq. 3.62 and 3.63), proposes a point. It is accepted if it meets the goal
    and is nearer than all before. Needs a piecewise affine network. The default is variant 9 of
    Table 4.2, the thesis's best; see `variant` for the others. `jump_factors` and `jump_range` are
    this project's, as the thesis names no constants. Its solver satisfies features only roughly:
    with the tolerance of 1e-8, `WorkingSet` is the surer choice where it can be had.

    solver:       in a region: `Accelerated` (the thesis's) or `WorkingSet` (exact; needs bounds
                  on all features).
    regions:      visited by each walk; one that was solved before counts, but costs little. From
                  there steps lead on to the last proposal; then regions around it are sampled,
                  farther and farther from it until one is new.
    begin:        "toward" or "start", whose region is the first. Without a start, it is the corner
                  of the box farthest from `toward`.
    directed:     where a proposal is not good enough to be the next point, step towards it
                  (dLRA); otherwise go back to the best point.
    adaptive:     double the threshold of full steps after each region without a new solution and
                  halve it after one with (`jump_factors`), from the goal's tolerance on and
                  within `jump_range`, in multiples of it. Otherwise it stays the tolerance.
    explore:      when the next region is sampled around the next point, and not the one it lies
                  in; "converged" are regions whose proposal is taken as the next point.
    judge:        what is held against the threshold: the feature MSE at the proposal, or the
                  square of its largest excess over a constraint of the region, in the layer's unit.
    pick:         the region that is solved once more at the end (4.2.1); until a proposal is
                  accepted, the "last accepted" is the one of the least feature distance.
    final_steps:  for that, of the accelerated solver (4.2.2); 0 for none. What comes of it is
                  taken if it is better.
    step_length:  of directed steps, in units of the input; shorter ones where a proposal is near.
    q, gamma:     of the sampling, see `attacks.LinearRegion`.
    batch:        samples at a time, at most; fewer if there are many features.
    """

    solver: WorkingSet | Accelerated = PUBLISHED
    regions: int = 400
    final_steps: int = 10_000
    batch: int = 32

    def __post_init__(self) -> None:
        Inversion.__post_init__(self)
        Strategy.__post_init__(self)

    @classmethod
    def variant(cls, number: int, **options: Any) -> LinearRegionInversion:
        """Configuration `number` of Table 4.2, 0 to 11; `options` are its other fields."""
        if number not in VARIANTS:
            raise ValueError(f"Table 4.2 has variants 0 to {len(VARIANTS) - 1}, not {number}")
        return cls(**{**VARIANTS[number], **options})

    def trace(
        self,
        clf: Classifier | nn.Module,
        *,
        toward: Tensor,
        start: Tensor | None = None,
        target: Tensor | None = None,
        indices: Sequence[int] | None = None,
    ) -> RegionTrace:
        """Run the search; also tell what was found in each region. Arguments as for a call."""
        options = {f.name: getattr(self, f.name) for f in fields(self)}
        parts: list[tuple[Visit, Tensor, Tensor, Tensor]] = []
        recorded = _Recorded(**options, parts=parts)
        result = recorded(clf, toward=toward, start=start, target=target, indices=indices)
        visits, *finals = zip(*parts, strict=True)
        return RegionTrace(result, Visit.joined(visits), *map(torch.cat, finals))

    def descend(self, problem: Problem) -> Found:
        return self._search(problem, lambda visits, walk: None)

    def _search(
        self, problem: Problem, record: Callable[[list[Visit], InversionWalk], None]
    ) -> Found:
        clf = problem.clf
        try:
            require_piecewise_affine(clf.graph(problem.toward.shape[1:]))
        except UnsupportedOperationError as error:
            raise UnsupportedOperationError(f"{error}; use AdamOnLogits, which does without") from (
                error
            )
        if isinstance(self.solver, WorkingSet) and not clf.bounded:
            raise ValueError(
                "WorkingSet needs finite bounds on all features; give the classifier bounds, or "
                "use solver=Accelerated(steps=1000)"
            )
        points = []
        rows = torch.arange(len(problem), device=problem.toward.device)
        constraints = 2 * problem.goal.logits.shape[1] ** 2  # values of those on the features
        batch = min(self.batch, max(1, VALUES_AT_ONCE // constraints))
        for some in torch.split(rows, batch):
            walk = InversionWalk(problem.take(some), self, self.solver)
            visits = [walk.visit() for _ in range(self.regions)]
            if self.final_steps:
                walk.rerun(self.final_steps)
            record(visits, walk)
            points.append(walk.best.point)
        return Found(torch.cat(points))


@dataclass(frozen=True, kw_only=True)
class _Recorded(LinearRegionInversion):
    """Keeps what was found in each region, by batch."""

    parts: list[tuple[Visit, Tensor, Tensor, Tensor]]

    def descend(self, problem: Problem) -> Found:
        def record(visits: list[Visit], walk: InversionWalk) -> None:
            rounds = Visit.stacked(visits)
            self.parts.append((rounds, walk.final, walk.final_distance, walk.final_mse))

        return self._search(problem, record)
