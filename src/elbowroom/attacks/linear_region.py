"""Search region by region: the nearest point of another class is exact inside each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbowroom.attacks.base import Attack
from elbowroom.attacks.region_walk import RegionSolver, RegionWalk, Solved
from elbowroom.attacks.starts import NearestPoints, Starts, Towards
from elbowroom.classifier import Classifier, as_classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.graph import UnsupportedOperationError
from elbowroom.graph.pattern import require_piecewise_affine
from elbowroom.norms import L2, Norm
from elbowroom.regions import Accelerated, LinearPrograms, Polytopes, WorkingSet
from elbowroom.regions.padded import points_at_once
from elbowroom.sampling import SampleRng

# Most regions are left before the last round; a better point elsewhere beats the last digits.
QUICK = WorkingSet(rounds=5, tolerance=1e-6)
FROM_GRADIENTS = Towards()


@dataclass(frozen=True)
class Progress:
    """Where the walks of `LinearRegion` stand, S of them for each of N samples.

    regions:   visited by each walk so far; 0 where they start.
    points:    `(N, S, *shape)`: the nearest point of each walk.
    distances: `(N, S)`, float64, in the attack's norm; `inf` for a walk without a start.
    towards:   `(N, S)`: the class that a point's decision boundary separates from the label.
    """

    regions: int
    points: Tensor
    distances: Tensor
    towards: Tensor


@dataclass(frozen=True, kw_only=True)
class LinearRegion(Attack):
    """Solve the problem exactly in one linear region after another, near the best point so far.

    Croce, Rauber and Hein ("Scaling up the randomized gradient-free adversarial attack"; LRA),
    Algorithm 1. Strong where gradients mislead, as on networks trained to be robust. Needs a
    piecewise affine network; L1 and Linf solve linear programs, which is for small networks.

    starts:  walks per sample, each towards a class of its own where there are enough.
    regions: visited by each walk; one that was visited before counts, but costs little.
    start:   where the walks begin: `Towards` the likeliest other classes with a short attack, or
             the `NearestPoints` of a data set, as the paper does.
    solver:  of the problem in a region: `WorkingSet` (exact) or `Accelerated` (the paper's).
    q:       share of the regions sampled on the sample's side (eq. 12; see PAPERS for the text).
    gamma:   how near the best point regions are sampled: at its distance times U^gamma (eq. 13).
    independent: whether each walk competes with its own best point only, as published; otherwise
             it is not finished in a region that cannot beat the best of all walks of the sample.
    batch:   walks at a time, at most; fewer if the network is large.
    """

    starts: int = 9
    regions: int = 6
    start: Starts = FROM_GRADIENTS
    solver: WorkingSet | Accelerated = QUICK
    q: float = 0.8
    gamma: float = 6.0
    independent: bool = False
    batch: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.q <= 1 or not self.gamma > 0:
            raise ValueError(
                f"q must lie in [0, 1] and gamma be positive, not {self.q, self.gamma}"
            )
        if self.norm != L2 and isinstance(self.solver, Accelerated):
            raise ValueError(f"the accelerated solver works in L2, not {self.norm}")

    @classmethod
    def published(
        cls,
        points: Tensor,
        labels: Tensor,
        *,
        starts: int = 5,
        regions: int = 500,
        gamma: float = 6.0,
        seed: int = 0,
    ) -> LinearRegion:
        """The paper's configuration; its defaults are those for MNIST (LRA, 5.1).

        points, labels: the training set. GTSRB: starts 15, gamma 9; CIFAR-10: starts 3, regions
        400, gamma 9. 500 solver steps in each region, each start on its own.
        """
        return cls(
            starts=starts,
            regions=regions,
            start=NearestPoints(points=points, labels=labels),
            solver=Accelerated(),
            gamma=gamma,
            independent=True,
            batch=256,
            seed=seed,
        )

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        *_, walk = self._rounds(clf, x, goal, rng)
        best = walk.distance.view(len(x), self.starts).argmin(dim=1)
        first = torch.arange(len(x), device=x.device) * self.starts
        return walk.point[first + best]

    def progress(
        self, model: Classifier | nn.Module, x: Tensor, y: Tensor | None = None
    ) -> Iterator[Progress]:
        """What the attack knows when it starts, and after each region it has visited.

        x, y: as for the attack; each sample is classified as its label. The attack returns the
        last of these points, shortened by a final line search, which changes little.
        """
        clf = as_classifier(model)
        x, y = clf.validate(x, y)
        rounds = self._rounds(clf, x, Misclassified(y), SampleRng(self.seed, range(len(x))))
        shape = (len(x), self.starts)
        for regions in range(self.regions + 1):
            with clf.session():
                walk = next(rounds)
            yield Progress(
                regions=regions,
                points=walk.point.clone().view(*shape, *x.shape[1:]),
                distances=walk.distance.clone().view(shape),
                towards=walk.towards.clone().view(shape),
            )

    def _rounds(
        self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng
    ) -> Iterator[RegionWalk]:
        """The walks, `starts` lanes per sample, at their start and after each region."""
        require_regions(clf, x, goal)
        points = self.start.find(clf, x, goal, self.starts, rng, self.norm)
        rows = torch.arange(len(x), device=x.device).repeat_interleave(self.starts)
        lanes = torch.arange(len(rows), device=x.device)
        streams = rng.children(rows, lanes % self.starts)
        walk = RegionWalk(
            clf, x[rows], goal.take(rows), points.flatten(0, 1),
            lanes if self.independent else rows, streams,
            region_solver(self.solver, self.norm, streams),
            norm=self.norm, q=self.q, gamma=self.gamma,
            block=min(points_at_once(clf, x, self.batch), len(rows)),
        )  # fmt: skip
        yield walk
        for _ in range(self.regions):
            walk.step(lanes)
            yield walk


def region_solver(solver: WorkingSet | Accelerated, norm: Norm, streams: SampleRng) -> RegionSolver:
    """The solver as a `RegionWalk` calls it, for any norm."""

    def exact(
        polytopes: Polytopes, x: Tensor, ceiling: Tensor, guess: Tensor, lanes: Tensor
    ) -> Solved:
        assert isinstance(solver, WorkingSet)
        found = solver(polytopes, x, ceiling=ceiling, guess=guess)
        return Solved(found.iterates, found.multipliers, found.rows)

    def approximate(
        polytopes: Polytopes, x: Tensor, ceiling: Tensor, guess: Tensor, lanes: Tensor
    ) -> Solved:
        assert isinstance(solver, Accelerated)
        return Solved(solver(polytopes, x, streams.take(lanes), ceiling=ceiling).z[None])

    def programs(
        polytopes: Polytopes, x: Tensor, ceiling: Tensor, guess: Tensor, lanes: Tensor
    ) -> Solved:
        return Solved(LinearPrograms(norm=norm)(polytopes, x).z[None])

    if norm != L2:
        return programs
    return exact if isinstance(solver, WorkingSet) else approximate


def require_regions(clf: Classifier, x: Tensor, goal: Goal) -> None:
    """Raise an error that names the remedy unless there are linear regions to search.

    Raises `UnsupportedOperationError` for networks that are not piecewise affine, and `ValueError`
    for goals without decision constraints.
    """
    if not isinstance(goal, Misclassified | ClassifiedAs):
        raise ValueError(f"linear regions cannot be searched for {type(goal).__name__}")
    try:
        require_piecewise_affine(clf.graph(x.shape[1:]))
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(
            f"{error}; use attacks.Closest, which does without, or attacks.FAB"
        ) from error
