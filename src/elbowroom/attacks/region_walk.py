"""The walk from linear region to linear region that `LinearRegion` and `Closest` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from elbowroom.attacks.line_search import shorten_by_secants
from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.norms import L2, Norm, per_sample
from elbowroom.regions import Polytopes, decision_towards
from elbowroom.regions.nearby import sample_near
from elbowroom.regions.padded import in_blocks
from elbowroom.sampling import SampleRng

SECANTS = 8
GUESS = 48
JUST_BELOW = 1 - 1e-6


@dataclass(frozen=True)
class Solved:
    """What a solver has to say about P regions.

    candidates:  `(C, P, *shape)`, points to try, the last ones the best.
    multipliers: `(P, slots)`, which constraints hold the optimum, where that is known.
    rows:        `(P,)`, how many rows of the constraints had to be computed, where it is counted.
    """

    candidates: Tensor
    multipliers: Tensor | None = None
    rows: Tensor | None = None


class RegionSolver(Protocol):
    """Finds the nearest points of regions.

    polytopes, x: P regions, and the points `(P, *shape)` to come near to.
    ceiling:      `(P,)`: distances of no interest from there on.
    guess:        `(P, G)`: slots that held the optimum of a region nearby, `-1` for none.
    lanes:        `(P,)`: the lane of each.
    """

    def __call__(
        self, polytopes: Polytopes, x: Tensor, ceiling: Tensor, guess: Tensor, lanes: Tensor
    ) -> Solved: ...


class RegionWalk:
    """Several walks ("lanes") at once, each from a point of another class towards its sample.

    x:      `(L, *shape)`, the sample of each lane. goal: of each lane.
    points: `(L, *shape)`, where it starts; a lane whose start does not meet the goal stands still.
    groups: `(L,)`: lanes of one group look for the same thing: what cannot beat the best of
            them is not finished, and a region is visited once.
    rng:    one stream a lane. block: lanes worked on at a time.

    What is known of each lane: `point`, `distance` `(L,)` (float64, `inf` if it stands still),
    `towards` (the class whose boundary it is at), `regions` it has visited, `rows` of constraints
    that this took.
    """

    def __init__(
        self,
        clf: Classifier,
        x: Tensor,
        goal: Goal,
        points: Tensor,
        groups: Tensor,
        rng: SampleRng,
        solve: RegionSolver,
        *,
        norm: Norm = L2,
        q: float,
        gamma: float,
        block: int,
    ) -> None:
        self.clf, self.x, self.goal, self.groups, self.rng = clf, x, goal, groups, rng
        self.solve, self.norm, self.q, self.gamma, self.block = solve, norm, q, gamma, block
        self.point = points.clone()
        logits = clf.logits(points)
        self.alive = goal.met(logits)
        self.distance = torch.where(self.alive, norm.length(points - x), torch.inf)
        self.towards = self._rival(logits, goal)
        self.guess = torch.full((len(x), 0), -1, device=x.device)
        self.visited: list[set[tuple[int, int]]] = [set() for _ in range(len(x))]
        self.regions = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.rows = torch.zeros_like(self.regions)

    @staticmethod
    def _rival(logits: Tensor, goal: Goal) -> Tensor:
        """The class whose boundary a lane is at."""
        if isinstance(goal, ClassifiedAs):
            return goal.targets
        assert isinstance(goal, Misclassified)
        return logits.scatter(1, goal.labels[:, None], -torch.inf).argmax(dim=1)

    def best(self) -> tuple[Tensor, Tensor]:
        """`(G,)`: the distance of the best lane of each group, and which lane it is."""
        count = int(self.groups.max()) + 1
        nearest = self.distance.new_full((count,), torch.inf)
        nearest = nearest.scatter_reduce(0, self.groups, self.distance, "amin")
        lanes = torch.arange(len(self.x), device=self.x.device)
        first = lanes.new_full((count,), len(lanes))
        holds = self.distance == nearest[self.groups]
        first = first.scatter_reduce(0, self.groups[holds], lanes[holds], "amin")
        return nearest, first

    def step(self, lanes: Tensor) -> None:
        """Sample a region near the point of each of `lanes` and look for a nearer point in it."""
        lanes = lanes[self.alive[lanes]]
        # Of before the step: what a lane finds must not depend on which others share its block.
        ceiling = self.best()[0]
        for part in torch.split(lanes, self.block):
            if len(part):
                self._visit(part, ceiling)

    def _visit(self, lanes: Tensor, ceiling: Tensor) -> None:
        """As `step`, for lanes that fit into a block. ceiling: `(G,)`, of each group."""
        sampled = sample_near(
            self.clf, self.point[lanes], self.x[lanes], self.rng.take(lanes),
            q=self.q, gamma=self.gamma,
        )  # fmt: skip
        goal = self.goal.take(lanes)
        classes = self.towards[lanes]
        like = self.x.new_zeros(1, *self.clf.graph(self.x.shape[1:]).nodes[-1].shape)
        polytopes = Polytopes.at(
            self.clf, sampled, decision_towards(goal, classes, like), block=self.block
        )
        fresh = self._unvisited(polytopes, lanes)
        if not len(fresh):
            return
        polytopes, lanes = polytopes.take(fresh), lanes[fresh]
        self.regions[lanes] += 1
        solved = self.solve(
            polytopes, self.x[lanes], ceiling[self.groups[lanes]], self.guess[lanes], lanes
        )
        if solved.rows is not None:
            self.rows[lanes] += solved.rows
        if solved.multipliers is not None:
            self._remember(polytopes, lanes, solved.multipliers)
        self._offer(solved.candidates, lanes)

    def _unvisited(self, polytopes: Polytopes, lanes: Tensor) -> Tensor:
        """Positions of the lanes whose region, with its decision, is new to their group."""
        if not polytopes.pattern.pieces:
            keys = [0] * len(lanes)
        else:
            keys = polytopes.pattern.fingerprints().tolist()
        fresh = []
        for position, (lane, key) in enumerate(zip(lanes.tolist(), keys, strict=True)):
            visited = self.visited[int(self.groups[lane])]
            entry = (key, int(self.towards[lane]))
            if entry not in visited:
                visited.add(entry)
                fresh.append(position)
        return torch.tensor(fresh, dtype=torch.int64, device=lanes.device)

    def _remember(self, polytopes: Polytopes, lanes: Tensor, multipliers: Tensor) -> None:
        """Keep the constraints that held the optimum: they are a guess for regions nearby."""
        multipliers = multipliers[:, polytopes.decisions :]
        if self.guess.shape[1] == 0:
            width = min(GUESS, multipliers.shape[1])
            self.guess = torch.full((len(self.x), width), -1, device=self.x.device)
        values, slots = multipliers.topk(self.guess.shape[1], dim=1)
        new = torch.where(values > 0, slots + polytopes.decisions, -1)
        kept = (values > 0).any(dim=1, keepdim=True)
        self.guess[lanes] = torch.where(kept, new, self.guess[lanes])

    def _offer(self, candidates: Tensor, lanes: Tensor) -> None:
        """Search the line from each lane's sample through each of its `(C, P, *shape)` candidates.

        A candidate need not be of another class, as it may lie beyond its region; the line is
        followed up to the lane's best distance (LRA, end of 4.2: alpha >= 1).
        """
        x = self.x[lanes]
        rounds = len(candidates)
        length = torch.stack([self.norm.length(z - x) for z in candidates])
        new = torch.ones_like(length, dtype=torch.bool)
        for earlier in range(rounds - 1):
            same = (candidates[earlier + 1] == candidates[earlier]).flatten(1).all(dim=1)
            new[earlier + 1] = ~same
        useful = new & (length > 0) & (length < self.distance[lanes])
        round_, position = useful.nonzero(as_tuple=True)
        if not len(position):
            return
        which = lanes[position]
        found, distance = self._crossings(
            self.x[which], candidates[round_, position], self.distance[which], self.goal.take(which)
        )
        # The nearest candidate of each lane, the first one among equals.
        for row in distance.argsort(stable=True).tolist():
            lane = int(which[row])
            if distance[row] < self.distance[lane]:
                self.distance[lane] = distance[row]
                self.point[lane] = found[row]
        changed = torch.unique(which)
        self.towards[changed] = in_blocks(
            lambda rows: self._rival(self.clf.logits(self.point[rows]), self.goal.take(rows)),
            changed,
            self.block,
        )

    def _crossings(self, x: Tensor, z: Tensor, reach: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
        """Where the lines from `x` through `z` first meet the goal before the distance `reach`.

        A line that meets a face of the box goes on along it: it leads through `z`, as a straight
        one to where it is clipped would not.
        """
        stretch = (reach * JUST_BELOW / self.norm.length(z - x)).to(x.dtype)
        beyond = x + per_sample(stretch, x) * (z - x)
        far = self.clf.clamp(beyond)
        rows = torch.arange(len(x), device=x.device)
        met = in_blocks(lambda r: goal.take(r).met(self.clf.logits(far[r])), rows, self.block)
        found, distance = far, torch.full_like(reach, torch.inf)
        hits = met.nonzero().squeeze(1)
        if len(hits):
            points = in_blocks(
                lambda r: shorten_by_secants(self.clf, x[r], beyond[r], goal.take(r), SECANTS),
                hits,
                self.block,
            )
            found = found.index_copy(0, hits, points)
            sure = in_blocks(
                lambda r: goal.take(r).met(self.clf.logits(found[r])), hits, self.block
            )
            lengths = self.norm.length(points - x[hits])
            distance[hits] = torch.where(sure, lengths, torch.inf)
        return found, distance
