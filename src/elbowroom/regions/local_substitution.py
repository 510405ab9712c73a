"""Back-substitution of single units behind convolutions, each within its receptive field."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from elbowroom.graph.graph import Node
from elbowroom.graph.ops import ChannelAffine, Concat
from elbowroom.regions.envelopes import Envelope
from elbowroom.regions.receptive_fields import Window, as_convolution
from elbowroom.regions.substitution import Substitution
from elbowroom.regions.transposed_convolution import transposed_convolution
from elbowroom.regions.units import UnitEnvelope
from elbowroom.results import Cost


class LocalSubstitution:
    """`Substitution.pull` for the units of one node, in windows in place of whole nodes.

    substitution: of the graph, in whose precision it is. fields: of the node `index`
    (`receptive_fields`). envelopes: those of the nodes before it.

    The lines of a unit's window are gathered once and for all; outside of a node they are zero, as
    are all rows.
    """

    def __init__(
        self,
        substitution: Substitution,
        fields: Mapping[int, Window],
        envelopes: Mapping[int, Envelope],
    ) -> None:
        self.substitution, self.fields = substitution, fields
        self.graph, self.index = substitution.graph, max(fields)
        self.channels, *places = self.graph.nodes[self.index].shape
        self.places, self.count = tuple(places), math.prod(places)
        # Slopes and intercepts `(B * places, 4, C, *size)`, below and above; scale and shift
        # `(places, 2, C, *size)`; what is inside of a node `(places, 1, *size)`.
        self.lines: dict[int, Tensor] = {}
        self.inside: dict[int, Tensor] = {}
        for node in (self.graph.nodes[i] for i in fields):
            if node.index in substitution.curved:
                envelope = cast(UnitEnvelope, envelopes[node.index])
                self.lines[node.index] = self._windows(node, *envelope.below, *envelope.above)
            elif isinstance(node.op, ChannelAffine):
                parts = (part.expand(1, *node.shape) for part in (node.op.scale, node.op.shift))
                self.lines[node.index] = self._windows(node, *parts)
            else:
                self.inside[node.index] = self.gather(
                    node.index, substitution.like.new_ones(1, 1, *node.shape[1:])
                )

    def _windows(self, node: Node, *values: Tensor) -> Tensor:
        """`(B * places, len(values), C, *size)` of values `(B, *shape)`."""
        found = self.gather(node.index, torch.cat(values, dim=1))
        return found.view(len(found), len(values), *node.shape[:1], *found.shape[2:])

    def gather(self, index: int, values: Tensor) -> Tensor:
        """The windows `(B * places, C, *size)` in the node `index` of values `(B, C, *shape)`."""
        return self.fields[index].gather(values, self.places).contiguous()

    def pull(self, owner: Tensor, unit: Tensor, signs: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Rows `(N, S, C, *size)` and constants `(N, S)` that bound `sign * unit` from below.

        owner, unit: `(N,)`, the samples, and the units in their node. The rows are windows of the
        input.
        """
        place = unit % self.count
        window = owner * self.count + place
        lead = (len(unit), len(signs))
        self.substitution.cost += Cost(vjp=math.prod(lead))
        like = self.substitution.like
        u = like.new_zeros(len(unit), self.channels, *[1] * len(self.places))
        u[torch.arange(len(unit), device=unit.device), unit // self.count] = 1.0
        u = torch.stack([sign * u for sign in signs], dim=1)
        waiting = {self.index: u}
        constant = like.new_zeros(lead, dtype=torch.float64)
        for node in reversed(self.graph.nodes[1 : self.index + 1]):
            if node.index not in waiting:
                continue
            u = waiting.pop(node.index)
            before = self.fields[node.index]
            conv = as_convolution(node, like)
            if node.index in self.substitution.curved:
                below, below_rest, above, above_rest = self.lines[node.index][window].unbind(1)
                lines = UnitEnvelope((below, below_rest), (above, above_rest))
                v, added = lines.pull(u)
                inputs, constant = [v], constant + added
            elif isinstance(node.op, ChannelAffine):
                scale, shift = self.lines[node.index][place].unbind(1)
                shifted = (u * shift[:, None]).flatten(2)
                constant = constant + shifted.sum(dim=2, dtype=torch.float64)
                inputs = [u * scale[:, None]]
            elif conv is not None:
                if conv.bias is not None:
                    sums = u.flatten(3).sum(dim=3, dtype=torch.float64)
                    constant = constant + sums @ conv.bias.double()
                flat = transposed_convolution(u.flatten(0, 1), conv)
                inputs, before = [flat.view(*lead, *flat.shape[1:])], before.before(conv)
            elif isinstance(node.op, Concat):
                channels = [self.graph.nodes[i].shape[0] for i in node.inputs]
                inputs = list(torch.split(u, channels, dim=2))
            else:  # a sum
                inputs = [u] * len(node.inputs)
            for i, v in zip(node.inputs, inputs, strict=True):
                v = before.place(v, self.fields[i])
                if conv is not None and i in self.inside:
                    v = v * self.inside[i][place][:, None]
                waiting[i] = waiting[i] + v if i in waiting else v
        return waiting[0], constant
