"""Bounds on a network over balls in the box, where the pieces of some units are decided.

Every constraint on the units or on the logits of a partial region is linear in the values of a
node. Pulled back through the network, with `Envelope`s for undecided units, it becomes a row of
the input that holds on all of the partial region. When nothing is undecided, the rows are those of
the linear region itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, UnsupportedOperationError
from elbowroom.graph.ops import MaxPool, PiecewiseAffine
from elbowroom.regions.balls import least_in_balls
from elbowroom.regions.blocks import Block, DecisionBlock, UnitBlock, region_blocks
from elbowroom.regions.envelopes import Envelope, Kind
from elbowroom.regions.partial import Partial, Rows, padded_indices
from elbowroom.regions.substitution import Substitution
from elbowroom.regions.units import Units
from elbowroom.regions.windows import Windows
from elbowroom.results import Cost


class RelaxedNetwork:
    """A graph in float64, the box `lower`, `upper` `(*shape)`, and bounds over balls in the box.

    x:    `(1, *shape)`, the sample that it is used for.
    cost: passes of the network so far; a row is a VJP.

    Raises `UnsupportedOperationError` for networks that are not piecewise affine.
    """

    def __init__(self, graph: Graph, lower: Tensor, upper: Tensor, x: Tensor) -> None:
        self.graph, self.lower, self.upper = graph, lower, upper
        self.kinds = kinds(graph, x)
        for node in graph.nodes[1:]:
            if node.index not in self.kinds and type(node.op) not in evaluate.LINEAR_TABLE:
                raise UnsupportedOperationError(
                    f"layer {node.name!r} ({node.op.kind}) is not piecewise affine: "
                    "the network has no linear regions"
                )
        self.units = _slices({index: kind.units for index, kind in self.kinds.items()})
        self.entries = _slices({index: kind.entries for index, kind in self.kinds.items()})
        self.substitution = Substitution(graph, self.kinds, lower)
        self.forward = Cost()

    @property
    def cost(self) -> Cost:
        return self.forward + self.substitution.cost

    def values(self, z: Tensor) -> list[Tensor]:
        """Every node at the points `z` `(B, *shape)`."""
        self.forward += Cost(forward=len(z))
        return evaluate.evaluate(self.graph, z)

    # -- partial regions -----------------------------------------------------------------------

    def undecided(self, decision: Tensor, centre: Tensor, radius: Tensor) -> Partial:
        """Partial regions in which nothing is decided, `decision` `(B, J, K)`."""
        count = len(centre)
        units = sum(kind.units for kind in self.kinds.values())
        entries = sum(kind.entries for kind in self.kinds.values())
        infinite = centre.new_full((count, entries), torch.inf)
        pieces = torch.full((count, units), -1, device=centre.device)
        return Partial(pieces, pieces > 0, -infinite, infinite, decision, centre, radius)

    def at(self, z: Tensor, decision: Tensor) -> Partial:
        """The linear regions of the points `z` `(B, *shape)`, every unit a constraint."""
        values = self.values(z)
        pieces = [
            kind.pieces_at(values[kind.source.index]).flatten(1) for kind in self.kinds.values()
        ]
        inputs = [kind.quantities(values[kind.source.index]) for kind in self.kinds.values()]
        empty = z.new_zeros(len(z), 0)
        flat, known = torch.cat([empty.long(), *pieces], 1), torch.cat([empty, *inputs], 1)
        radius = z.new_zeros(len(z))
        return Partial(flat, flat >= 0, known, known, decision, z, radius)

    def per_node(self, flat: Tensor) -> dict[int, Tensor]:
        """`(B, T)` as `(B, *shape)` by node."""
        return {i: flat[:, at].view(-1, *self.kinds[i].node.shape) for i, at in self.units.items()}

    def tightened(self, partial: Partial) -> tuple[Partial, dict[int, Envelope]]:
        """Bounds over the balls, layer by layer; units that stay on one piece become decided."""
        values = self.values(partial.centre)
        pieces, low, high = partial.pieces.clone(), partial.low.clone(), partial.high.clone()
        envelopes: dict[int, Envelope] = {}
        for index, kind in self.kinds.items():
            mine, entries = pieces[:, self.units[index]], self.entries[index]
            open_ = mine < 0
            if bool(open_.any()):
                wanted = padded_indices(kind.entries_of(open_))
                below, above = self._bounds(kind, wanted, envelopes, partial)
                where, there = wanted.clamp(min=0), wanted >= 0
                below = torch.where(there, below, -torch.inf)
                above = torch.where(there, above, torch.inf)
                low[:, entries].scatter_reduce_(1, where, below, "amax")
                high[:, entries].scatter_reduce_(1, where, above, "amin")
            a, b = low[:, entries], high[:, entries]
            possible = kind.possible(a, b)
            settled = open_ & (possible.sum(dim=2) <= 1)
            mine = torch.where(settled, possible.int().argmax(dim=2), mine)
            pieces[:, self.units[index]] = mine
            centre = values[kind.source.index]
            envelopes[index] = kind.envelope(mine.view(-1, *kind.node.shape), a, b, centre)
        return replace(partial, pieces=pieces, low=low, high=high), envelopes

    def _bounds(
        self, kind: Kind, wanted: Tensor, envelopes: Mapping[int, Envelope], partial: Partial
    ) -> tuple[Tensor, Tensor]:
        """Bounds `(B, R)` on the entries `wanted` `(B, R)`, -1 for none."""
        one_hot = self.lower.new_zeros(*wanted.shape, kind.entries)
        one_hot.scatter_(2, wanted.clamp(min=0)[..., None], (wanted >= 0)[..., None].double())
        both = kind.transposed(torch.cat([one_hot, -one_hot], dim=1))
        rows, constant, _ = self.substitution.pull({kind.source.index: both}, envelopes)
        box = (self.lower.flatten(), self.upper.flatten())
        least = least_in_balls(rows, partial.centre.flatten(1), partial.radius, *box) + constant
        below, above = least.chunk(2, dim=1)
        return below, -above

    def possible(self, partial: Partial, unit: Tensor) -> tuple[Tensor, Tensor]:
        """All pieces that one unit `(B,)` of each partial region can be on: regions, and pieces."""
        owners, pieces = [], []
        for index, kind in self.kinds.items():
            at, entries = self.units[index], self.entries[index]
            mine = ((unit >= at.start) & (unit < at.stop)).nonzero().squeeze(1)
            possible = kind.possible(partial.low[mine, entries], partial.high[mine, entries])
            table = possible[torch.arange(len(mine), device=mine.device), unit[mine] - at.start]
            row, piece = table.nonzero(as_tuple=True)
            owners.append(mine[row])
            pieces.append(piece)
        return torch.cat(owners), torch.cat(pieces)

    def loosest(
        self,
        partial: Partial,
        envelopes: Mapping[int, Envelope],
        rows: Rows,
        multipliers: Tensor,
        z: Tensor,
    ) -> Tensor:
        """`(B,)`: the undecided unit whose lines add most to the excess of `rows` at `z`.

        multipliers: `(B, R)`, the weights of the rows; the decision's count a little in any case.
        """
        weights = multipliers.clone()
        weights[:, : partial.decision.shape[1]] += 1e-6 * weights.amax(dim=1, keepdim=True) + 1e-30
        values = self.values(z)
        scores = []
        for index, kind in self.kinds.items():
            score = torch.zeros_like(values[index])
            u = rows.cotangents.get(index)
            if u is not None:
                below, above = envelopes[index].slack(values[kind.source.index], values[index])
                w = weights.view(*weights.shape, *[1] * len(kind.node.shape))
                score = (w * u.clamp(min=0)).sum(dim=1) * below
                score = score - (w * u.clamp(max=0)).sum(dim=1) * above
            scores.append(score.flatten(1))
        return torch.where(partial.pieces < 0, torch.cat(scores, dim=1), -1.0).argmax(dim=1)

    # -- rows ----------------------------------------------------------------------------------

    def blocks(self, partial: Partial) -> list[Block]:
        """The constraints of decided pieces, numbered as in `Polytopes`."""
        pieces = {
            index: self.kinds[index].as_pattern(values)
            for index, values in self.per_node(partial.pieces.clamp(min=0)).items()
        }
        last, count = len(self.graph.nodes) - 1, partial.decision.shape[1]
        decision = DecisionBlock(last, count, partial.decision)
        return [decision, *region_blocks(self.graph, pieces)]

    def rows(self, partial: Partial, envelopes: Mapping[int, Envelope]) -> Rows:
        """The decision and the constraints of the branched units; the decision's come first."""
        blocks = self.blocks(partial)
        offset = torch.cat([block.offset for block in blocks], dim=1)
        present = offset > -torch.inf
        first = blocks[0].count
        for block, at in zip(blocks[1:], self.units.values(), strict=True):
            branched = partial.branched[:, at]
            copies = block.count // branched.shape[1]
            # The sides of units follow each other, the members of a window are together.
            if isinstance(block, UnitBlock):
                owned = branched.repeat(1, copies)
            else:
                owned = branched.repeat_interleave(copies, dim=1)
            present[:, first : first + block.count] &= owned
            first += block.count
        slots = padded_indices(present)
        cotangents: dict[int, Tensor] = {}
        first = 0
        owner = torch.arange(len(partial), device=slots.device).repeat_interleave(slots.shape[1])
        for block in blocks:
            mine = (slots >= first) & (slots < first + block.count)
            if bool(mine.any()):
                one_hot = offset.new_zeros(*slots.shape, block.count)
                place = (slots - first).clamp(0, block.count - 1)[..., None]
                one_hot.scatter_(2, place, mine[..., None].double())
                pulled = block.take(owner).pull(one_hot.flatten(0, 1))
                pulled = pulled.view(*slots.shape, *pulled.shape[1:])
                earlier = cotangents.get(block.source)
                cotangents[block.source] = pulled if earlier is None else earlier + pulled
            first += block.count
        rows, constant, seen = self.substitution.pull(cotangents, envelopes)
        known = offset.gather(1, slots.clamp(min=0))
        constant = torch.where(slots >= 0, constant + known, -1.0)
        return Rows(rows, constant, slots, offset.shape[1], seen)


def kinds(graph: Graph, x: Tensor) -> dict[int, Kind]:
    """One `Kind` for each node with pieces, by its index; x: `(1, *shape)`, or one
    sample `(B, *shape)` for each row of a batch, for the references of windows.
    """
    values = evaluate.evaluate(graph, x)
    found: dict[int, Kind] = {}
    for node in graph.nodes:
        if isinstance(node.op, PiecewiseAffine):
            found[node.index] = Units(graph, node)
        elif isinstance(node.op, MaxPool):
            found[node.index] = Windows(graph, node, values[node.inputs[0]])
    return found


def _slices(sizes: Mapping[int, int]) -> dict[int, slice]:
    slices, first = {}, 0
    for index, size in sizes.items():
        slices[index] = slice(first, first + size)
        first += size
    return slices
