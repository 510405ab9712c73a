"""Bounds on the entries of a curved node over balls in the box, by back-substitution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.norms import Norm
from elbowroom.regions.balls import least_in_balls
from elbowroom.regions.envelopes import Envelope, Kind
from elbowroom.regions.local_substitution import LocalSubstitution
from elbowroom.regions.partial import padded_indices
from elbowroom.regions.receptive_fields import Window, receptive_fields
from elbowroom.regions.substitution import Substitution

# Numbers that the windows of a layer's units may take up at a time.
MEMORY = 2**25
# Numbers in the rows, whole ones or windows, that are pulled back at a time, so that most stay in
# a processor's cache.
WHOLE, CACHED = 2**21, 2**19


@dataclass(frozen=True)
class Balls:
    """B balls, `x` `(B, *shape)` and `radius` `(B,)` in `norm`, in the box `lower`, `upper`."""

    x: Tensor
    radius: Tensor
    lower: Tensor
    upper: Tensor
    norm: Norm

    def least(self, rows: Tensor) -> Tensor:
        """Lower bounds `(B, R)` on linear functions `rows` `(B, R, d)` of the input."""
        x, lower, upper = self.x.flatten(1), self.lower.flatten(), self.upper.flatten()
        return least_in_balls(rows, x, self.radius, lower, upper, norm=self.norm)


def entry_bounds(
    substitution: Substitution,
    kind: Kind,
    mask: Tensor,
    lines: Mapping[int, Envelope],
    balls: Balls,
) -> tuple[Tensor, Tensor]:
    """Bounds `(B, entries)` on the entries of `mask` `(B, entries)`, infinite for the others.

    lines: those of the curved nodes before `kind`, in the precision of `substitution`. The
    rounding of the rows is not accounted for.
    """
    graph, source = substitution.graph, kind.source.index
    fields = receptive_fields(graph, kind.node.index)
    below = balls.radius.new_full(mask.shape, -torch.inf)
    above = torch.full_like(below, torch.inf)
    if fields is not None:
        owner, entry = mask.nonzero(as_tuple=True)
        found = _local(substitution, kind, fields, owner, entry, lines, balls)
        below[owner, entry], above[owner, entry] = found
        return below, above
    wanted = padded_indices(mask)
    widest = 2 * max(math.prod(node.shape) for node in graph.nodes[: source + 1])
    at_once = max(1, WHOLE // (len(wanted) * widest))
    for some in torch.split(wanted, at_once, dim=1):
        least, most = _dense(substitution, kind, some, lines, balls)
        where, there = some.clamp(min=0), some >= 0
        below.scatter_reduce_(1, where, torch.where(there, least, -torch.inf), "amax")
        above.scatter_reduce_(1, where, torch.where(there, most, torch.inf), "amin")
    return below, above


def _dense(
    substitution: Substitution,
    kind: Kind,
    wanted: Tensor,
    lines: Mapping[int, Envelope],
    balls: Balls,
) -> tuple[Tensor, Tensor]:
    """Bounds `(B, R)` on the entries `wanted` `(B, R)`, -1 for none."""
    one_hot = substitution.like.new_zeros(*wanted.shape, kind.entries)
    there = (wanted >= 0)[..., None].to(one_hot.dtype)
    one_hot.scatter_(2, wanted.clamp(min=0)[..., None], there)
    units = kind.transposed(one_hot)
    found = []
    for part in (units, -units) if lines else (units,):
        rows, constant, _ = substitution.pull({kind.source.index: part}, lines)
        rows = rows.double()
        found.append(balls.least(rows) + constant)
        if not lines:  # without curved layers below, the same row bounds from above
            found.append(balls.least(-rows) - constant)
    return found[0], -found[1]


def _local(
    substitution: Substitution,
    kind: Kind,
    fields: Mapping[int, Window],
    owner: Tensor,
    entry: Tensor,
    lines: Mapping[int, Envelope],
    balls: Balls,
) -> tuple[Tensor, Tensor]:
    """Bounds `(N,)` on single entries behind convolutions: numbers `entry` of samples `owner`."""
    graph, x = substitution.graph, balls.x
    places = math.prod(kind.node.shape[1:])
    sizes = [graph.nodes[i].shape[0] * math.prod(window.size) for i, window in fields.items()]
    curved = {i: lines[i] for i in fields if i in lines}
    numbers = max([2, *(len(envelope.numbers) for envelope in curved.values())])
    samples = max(1, MEMORY // (numbers * places * sum(sizes)))
    at_once = max(1, CACHED // (2 * max(sizes)))
    below, above = balls.radius.new_empty(2, len(owner))
    for first in range(0, len(x), samples):
        some = slice(first, first + samples)
        mine = ((owner >= some.start) & (owner < some.stop)).nonzero().squeeze(1)
        some_lines = {i: envelope.take(some) for i, envelope in curved.items()}
        local = LocalSubstitution(substitution, fields, some_lines)
        centre, lower, upper = (
            local.gather(0, part).flatten(1)[:, None]
            for part in (x[some], balls.lower[None], balls.upper[None])
        )
        for part in torch.split(mine, at_once):
            here = owner[part] - first
            place, u = kind.in_windows(owner[part], entry[part], substitution.like)
            both = [u, -u] if curved else [u]
            rows, constant = local.pull(here, place, torch.stack(both, dim=1))
            rows = rows.flatten(2).double()
            if not curved:
                rows, constant = torch.cat([rows, -rows], 1), torch.cat([constant, -constant], 1)
            ball = (centre[here * places + place], balls.radius[owner[part]])
            box = (lower[place], upper[place])
            found = least_in_balls(rows, *ball, *box, norm=balls.norm) + constant
            below[part], above[part] = found[:, 0], -found[:, 1]
    return below, above
