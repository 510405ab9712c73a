"""A network of ReLUs as its linear region at a sample, plus what each unit adds on leaving it.

With `t` the move of a unit towards its break, `a >= 0` the distance to it, and `s = max(t - a, 0)`,
the unit's output is that of its piece at the sample plus `jump * s`. Everything else is affine in
the move `v` of the input and in the s of the units before, so that for a difference of logits

    f_y - f_j = margin + g v + c s,    t = T (v, s),    s (s - t + a) = 0, s >= 0, s >= t - a.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.certificates.magnitude import absolute_part
from elbowroom.certificates.relaxation import Relaxation
from elbowroom.graph.evaluate import select
from elbowroom.graph.graph import UnsupportedOperationError
from elbowroom.regions.envelopes import Envelope, Kind
from elbowroom.regions.substitution import Substitution
from elbowroom.regions.units import UnitEnvelope, Units

Pull = Callable[[int, Tensor], Tensor]

# Rows that are pulled back at a time.
CHUNK = 512


@dataclass(frozen=True)
class Deviations:
    """Of one sample with d features and n units that can leave their piece.

    moves:     T, `(n, d + n)`: strictly lower triangular in its last n columns.
    distance:  a, `(n,)`.
    rows:      `(K, d + n)`: g and c of every difference of logits.
    margin:    `(K,)`.
    moves_error, rows_error, distance_error, margin_error: bounds on the rounding of all these.
    """

    moves: Tensor
    distance: Tensor
    rows: Tensor
    margin: Tensor
    moves_error: Tensor
    distance_error: Tensor
    rows_error: Tensor
    margin_error: Tensor

    @property
    def features(self) -> int:
        return self.moves.shape[1] - len(self.moves)


def require_two_pieces(kind: Kind) -> Units:
    """Raise `UnsupportedOperationError` unless it is ReLU or the like, with a single break."""
    if isinstance(kind, Units) and len(kind.op.breaks) == 1:
        return kind
    raise UnsupportedOperationError(
        f"layer {kind.node.name!r} is a {kind.node.op.kind}; the semidefinite certificate is for "
        "activations of two pieces, such as ReLU: LinearRelaxation takes it"
    )


def deviations(relaxation: Relaxation, y: Tensor, radius: Tensor) -> Deviations:
    """Around the one sample of `relaxation`, of label `y` `(1,)`, valid within `radius` `(1,)`."""
    units = {index: require_two_pieces(kind) for index, kind in relaxation.kinds.items()}
    enclosure = relaxation.enclose(radius)
    settled = {
        index: kind.settled(enclosure.low[index], enclosure.high[index])
        for index, kind in units.items()
    }
    linear, absolute = _region(relaxation, units, settled)
    open_ = {index: (pieces < 0).flatten() for index, pieces in settled.items()}
    count = sum(int(mask.sum()) for mask in open_.values())
    features = relaxation.lower.numel()
    moves = relaxation.lower.new_zeros(count, features + count)
    moves_error = torch.zeros_like(moves)
    distance, distance_error = moves.new_zeros(count), moves.new_zeros(count)
    first = 0
    for index, kind in units.items():
        chosen = open_[index].nonzero().squeeze(1)
        source = kind.source.index
        z = relaxation.values[source].flatten()[chosen]
        away = z - kind.op.breaks[0]
        sign = torch.where(away > 0, -1.0, 1.0).to(z)
        share = relaxation.fine.shares[source]
        here = slice(first, first + len(chosen))
        distance[here] = away.abs()
        size = relaxation.magnitude(source).flatten()[chosen]
        distance_error[here] = share * size
        for start in range(0, len(chosen), CHUNK):
            some = chosen[start : start + CHUNK]
            rows = slice(first + start, first + start + len(some))
            one_hot = z.new_zeros(1, len(some), kind.entries)
            one_hot[0, torch.arange(len(some)), some] = 1.0
            one_hot = kind.transposed(one_hot)
            signs = sign[start : start + CHUNK, None]
            moves[rows] = signs * linear(source, one_hot)
            moves_error[rows] = share * absolute(source, one_hot)
        first += len(chosen)
    last = len(relaxation.graph.nodes) - 1
    pairs = relaxation.pairs(y)
    logits, share = relaxation.values[-1][0], relaxation.fine.shares[last]
    return Deviations(
        moves=moves,
        distance=distance,
        rows=linear(last, pairs),
        margin=logits[y] - logits,
        moves_error=moves_error,
        distance_error=distance_error,
        rows_error=share * absolute(last, pairs.abs()),
        margin_error=share * (pairs.abs() @ relaxation.magnitude(last)[0])[0],
    )


def _region(
    relaxation: Relaxation, units: dict[int, Units], settled: dict[int, Tensor]
) -> tuple[Pull, Pull]:
    """From rows of a node to `(R, d + n)` of the input and of all s; and the same of absolutes."""
    open_ = {index: (pieces < 0).flatten() for index, pieces in settled.items()}
    exact: dict[int, Envelope] = {}
    sizes: dict[int, Envelope] = {}
    jumps: dict[int, Tensor] = {}
    for index, kind in units.items():
        z = relaxation.values[kind.source.index]
        pieces = torch.where(settled[index] < 0, kind.pieces_at(z), settled[index])
        slope, intercept = (select(t, pieces) for t in (kind.op.slopes, kind.op.intercepts))
        exact[index] = UnitEnvelope((slope, intercept), (slope, intercept))
        none = torch.zeros_like(slope)
        sizes[index] = UnitEnvelope((slope.abs(), none), (slope.abs(), none))
        jump = (kind.op.slopes[1] - kind.op.slopes[0]).expand(z.shape[1:])
        jumps[index] = jump.flatten()[open_[index]]
    absolute = Substitution(absolute_part(relaxation.graph), units, relaxation.lower)

    def pull_with(substitution: Substitution, lines: dict[int, Envelope], size: bool) -> Pull:
        def pull(source: int, u: Tensor) -> Tensor:
            rows, _, seen = substitution.pull({source: u}, lines)
            parts = [rows[0]]
            for index, mask in open_.items():
                jump = jumps[index].abs() if size else jumps[index]
                there = seen.get(index)
                parts.append(
                    rows.new_zeros(u.shape[1], len(jump))
                    if there is None
                    else there[0].flatten(1)[:, mask] * jump
                )
            return torch.cat(parts, dim=1)

        return pull

    exact_pull = pull_with(relaxation.fine.substitution, exact, False)
    return exact_pull, pull_with(absolute, sizes, True)
