"""The linear regions of a batch as polytopes `A z <= b`, cut by decision constraints.

Sources: Croce, Rauber and Hein (LRA), section 2, eq. 7 and 8 (the region), eq. 10 and 11 (the
decision). `A` is never formed: products with it cost one pass of the network, chosen rows one
backward pass each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.goals import ClassifiedAs, Goal, Misclassified
from elbowroom.graph import AffineMap, Graph, Pattern, pattern
from elbowroom.regions.blocks import Block, DecisionBlock, region_blocks
from elbowroom.regions.padded import blocks
from elbowroom.results import Cost


class Polytopes:
    """One polytope `{z : A z <= b}` per sample: its linear region, cut by decision constraints.

    The constraints have numbers, called slots: the decision's first, then those of every unit in
    the order of the graph. A slot may be empty, e.g. a max pool's winner against itself.

    clf:      the classifier, which counts the passes.
    affine:   the affine maps of the regions.
    decision: `(N, J, K)`: J constraints `decision @ logits <= bound`; J may be 0.
    bound:    `(N, J)`, of the decision; 0 by default.
    block:    if given, the network sees exactly so many samples at a time, padded: results then
              do not depend, not even in the last bit, on which other samples there are.
    """

    def __init__(
        self,
        clf: Classifier,
        affine: AffineMap,
        decision: Tensor,
        block: int | None = None,
        bound: Tensor | None = None,
    ) -> None:
        self.clf = clf
        self.affine = affine
        self.decision = decision
        self.block = block
        self.bound = bound

    @classmethod
    def at(
        cls,
        clf: Classifier,
        z: Tensor,
        decision: Tensor | None = None,
        block: int | None = None,
        bound: Tensor | None = None,
    ) -> Polytopes:
        """The regions that the points `z` `(N, *shape)` lie in. One forward pass a sample.

        Raises `UnsupportedOperationError` for networks that are not piecewise affine.
        """
        clf.cost += Cost(forward=len(z))
        graph = clf.graph(z.shape[1:])
        if decision is None:
            decision = z.new_zeros(len(z), 0, *graph.nodes[-1].shape)
        with torch.no_grad():
            parts = [
                pattern(graph, z[rows]).take(torch.arange(real, device=z.device))
                for rows, real in blocks(len(z), block or len(z), z.device)
            ]
            return cls(clf, AffineMap(graph, Pattern.join(parts)), decision, block, bound)

    def __len__(self) -> int:
        return len(self.decision)

    @property
    def graph(self) -> Graph:
        return self.affine.graph

    @property
    def pattern(self) -> Pattern:
        return self.affine.regions

    @property
    def decisions(self) -> int:
        """How many slots, the first ones, belong to the decision."""
        return self.decision.shape[1]

    def take(self, rows: Tensor) -> Polytopes:
        """The polytopes of the samples `rows` (indices, repeats allowed)."""
        bound = None if self.bound is None else self.bound[rows]
        return Polytopes(self.clf, self.affine.take(rows), self.decision[rows], self.block, bound)

    def with_decision(self, decision: Tensor, bound: Tensor | None = None) -> Polytopes:
        """The same regions, cut by other constraints `decision @ logits <= bound`."""
        return Polytopes(self.clf, self.affine, decision, self.block, bound)

    def contains(self, z: Tensor) -> Tensor:
        """`(N,)` bool: whether the points `z` `(N, *shape)` have the regions' patterns."""
        self.clf.cost += Cost(forward=len(z))
        return self.pattern.same_as(pattern(self.graph, z))

    # -- the constraints ---------------------------------------------------------------------

    def _in_blocks(self, work: Callable[[Polytopes, Tensor], Tensor], given: Tensor) -> Tensor:
        """`work(self, given)`, done block by block if a block size is set."""
        if self.block is None or self.block == len(self):
            return work(self, given)
        parts = [
            work(self.take(rows), given[rows])[:real]
            for rows, real in blocks(len(self), self.block, given.device)
        ]
        return torch.cat(parts)

    @cached_property
    def blocks(self) -> list[Block]:
        last = len(self.graph.nodes) - 1
        decision = DecisionBlock(last, self.decisions, self.decision, self.bound)
        return [decision, *region_blocks(self.graph, self.pattern.pieces)]

    @cached_property
    def slots(self) -> int:
        """How many slots a sample has, empty ones included."""
        return sum(block.count for block in self.blocks)

    @property
    def offset(self) -> Tensor:
        """`(N, slots)`: the part of the excess beyond the nodes' values; `-inf` if empty."""
        return torch.cat([block.offset.to(self.graph.dtype) for block in self.blocks], dim=1)

    def count(self) -> Tensor:
        """`(N,)`: how many constraints each polytope has, empty slots not counted."""
        return torch.stack([(b.offset > -torch.inf).sum(dim=1) for b in self.blocks]).sum(dim=0)

    def excess(self, z: Tensor) -> Tensor:
        """`A z - b` `(N, slots)` at `z` `(N, *shape)`: positive where a constraint is violated.

        `-inf` in empty slots. One JVP a sample.
        """
        self.clf.cost += Cost(jvp=len(z))
        with torch.no_grad():
            return self._in_blocks(lambda some, z: some._push(some.affine.values(z), True), z)

    def push(self, v: Tensor) -> Tensor:
        """`A v` `(N, slots)` for directions `v` `(N, *shape)`; 0 in empty slots. One JVP."""
        self.clf.cost += Cost(jvp=len(v))
        with torch.no_grad():
            return self._in_blocks(lambda some, v: some._push(some.affine.tangents(v), False), v)

    def _push(self, values: Sequence[Tensor], with_offset: bool) -> Tensor:
        """`(N, slots)`, filled part by part: a large network has more slots than features."""
        product = values[0].new_empty(len(self), self.slots)
        counts = [block.count for block in self.blocks]
        for block, part in zip(self.blocks, torch.split(product, counts, dim=1), strict=True):
            part.copy_(block.push(values[block.source]))
            offset = block.offset
            if with_offset:
                part += offset
            else:
                part.masked_fill_(offset == -torch.inf, 0.0)
        return product

    def pull(self, mu: Tensor) -> Tensor:
        """`A' mu` `(N, *shape)` for multipliers `mu` `(N, slots)`, 0 in empty slots. One VJP."""
        self.clf.cost += Cost(vjp=len(mu))
        return self._in_blocks(Polytopes._pull, mu)

    def _pull(self, mu: Tensor) -> Tensor:
        cotangents: dict[int, Tensor] = {}
        parts = torch.split(mu, [block.count for block in self.blocks], dim=1)
        for block, part in zip(self.blocks, parts, strict=True):
            pulled = block.pull(part)
            earlier = cotangents.get(block.source)
            cotangents[block.source] = pulled if earlier is None else earlier + pulled
        return self.affine.vjp(cotangents)

    def rows(self, slots: Tensor) -> Tensor:
        """Rows `(N, R, *shape)` of `A` at `slots` `(N, R)`; zero for empty ones and for `-1`.

        One VJP a row, through the layers below its own only.
        """
        samples, per_sample = slots.shape
        flat = slots.flatten()
        owners = torch.arange(samples, device=slots.device).repeat_interleave(per_sample)
        rows = self.decision.new_zeros(len(flat), *self.graph.input_shape)
        first = 0
        for block in self.blocks:
            where = ((flat >= first) & (flat < first + block.count)).nonzero().squeeze(1)
            if len(where):
                there = block.offset[owners[where], flat[where] - first] > -torch.inf
                where = where[there]
            self.clf.cost += Cost(vjp=len(where))
            for chosen, real in blocks(len(where), self.rows_at_once, slots.device):
                owner, slot = owners[where[chosen]], flat[where[chosen]] - first
                one_hot = rows.new_zeros(len(owner), block.count).scatter_(1, slot[:, None], 1.0)
                cotangent = block.take(owner).pull(one_hot)
                product = self.affine.take(owner).vjp({block.source: cotangent})
                rows[where[chosen[:real]]] = product[:real]
            first += block.count
        return rows.view(samples, per_sample, *self.graph.input_shape)

    @property
    def rows_at_once(self) -> int:
        """How many rows one backward pass computes: as many as a block, or as there are."""
        return self.block or max(len(self), 1)


def equal_to(features: Tensor) -> tuple[Tensor, Tensor]:
    """Decision `(N, 2 K, K)` and bound `(N, 2 K)` that hold the logits at `features` `(N, K)`.

    Each equality is two inequalities (Invariance thesis, eq. 3.62 and 3.63).
    """
    unit = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
    decision = torch.cat([unit, -unit]).expand(len(features), -1, -1)
    return decision, torch.cat([features, -features], dim=1)


def decision_towards(goal: Goal, classes: Tensor, logits: Tensor) -> Tensor:
    """Decision constraints `(N, J, K)`, `decision @ logits <= 0`, that make a goal true.

    goal:    `Misclassified`: J = 1, class `classes[n]` beats the label (LRA, eq. 10).
             `ClassifiedAs`: J = K - 1, the target beats every other class (LRA, eq. 11);
             `classes` is not used.
    logits:  `(N, K)`, for their number, dtype and device only.

    Raises `ValueError` for other goals.
    """
    unit = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    if isinstance(goal, Misclassified):
        return (unit[goal.labels] - unit[classes])[:, None]
    if isinstance(goal, ClassifiedAs):
        others = torch.arange(logits.shape[1] - 1, device=logits.device)
        others = others + (others >= goal.targets[:, None])
        return unit[others] - unit[goal.targets][:, None]
    raise ValueError(
        f"linear regions are searched for Misclassified and ClassifiedAs, not {type(goal).__name__}"
    )
