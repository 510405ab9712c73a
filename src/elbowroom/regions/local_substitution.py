"""Back-substitution of single entries behind convolutions, each within its receptive field."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from elbowroom.graph.graph import Node
from elbowroom.graph.ops import ChannelAffine, Concat, Conv
from elbowroom.regions.envelopes import Envelope
from elbowroom.regions.receptive_fields import Window, sliding
from elbowroom.regions.substitution import Substitution
from elbowroom.regions.transposed_convolution import transposed_convolution
from elbowroom.results import Cost


class LocalSubstitution:
    """`Substitution.pull` for what the units of one curved node depend on, in windows in place of
    whole nodes.

    substitution: of the graph, in whose precision it is. fields: of the curved node
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
        self.graph, self.envelopes = substitution.graph, envelopes
        curved = self.graph.nodes[max(fields)]
        self.source, self.places = curved.inputs[0], curved.shape[1:]
        self.count = math.prod(self.places)
        # The numbers of an envelope `(B * places, numbers, C, *size)`; scale and shift
        # `(places, 2, C, *size)`; what is inside of a node `(places, 1, *size)`.
        self.lines: dict[int, Tensor] = {}
        self.inside: dict[int, Tensor] = {}
        for node in (self.graph.nodes[i] for i in fields if i <= self.source):
            if node.index in substitution.curved:
                self.lines[node.index] = self._windows(node, *envelopes[node.index].numbers)
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

    def pull(self, owner: Tensor, place: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `(N, S, C, *size)` and constants `(N, S)` that bound `u . source` from below.

        owner, place: `(N,)`, the samples, and the places of units of the curved node. u: `(N, S,
        C, *size)`, zero outside of the source. The rows are windows of the input.
        """
        window = owner * self.count + place
        lead = u.shape[:2]
        self.substitution.cost += Cost(vjp=lead.numel())
        like = self.substitution.like
        waiting = {self.source: u}
        constant = like.new_zeros(lead, dtype=torch.float64)
        for node in reversed(self.graph.nodes[1 : self.source + 1]):
            if node.index not in waiting:
                continue
            u = waiting.pop(node.index)
            op, before = sliding(node, like), self.fields[node.index]
            if op is not None:
                before = before.before(op)
            if node.index in self.substitution.curved:
                numbers = self.lines[node.index][window].unbind(1)
                v, added = self.envelopes[node.index].of(numbers).pull_windows(u)
                inputs, constant = [v], constant + added
            elif isinstance(node.op, ChannelAffine):
                scale, shift = self.lines[node.index][place].unbind(1)
                shifted = (u * shift[:, None]).flatten(2)
                constant = constant + shifted.sum(dim=2, dtype=torch.float64)
                inputs = [u * scale[:, None]]
            elif isinstance(op, Conv):
                if op.bias is not None:
                    sums = u.flatten(3).sum(dim=3, dtype=torch.float64)
                    constant = constant + sums @ op.bias.double()
                flat = transposed_convolution(u.flatten(0, 1), op)
                inputs = [flat.view(*lead, *flat.shape[1:])]
            elif isinstance(node.op, Concat):
                channels = [self.graph.nodes[i].shape[0] for i in node.inputs]
                inputs = list(torch.split(u, channels, dim=2))
            else:  # a sum
                inputs = [u] * len(node.inputs)
            for i, v in zip(node.inputs, inputs, strict=True):
                v = before.place(v, self.fields[i])
                if isinstance(op, Conv) and i in self.inside:
                    v = v * self.inside[i][place][:, None]
                waiting[i] = waiting[i] + v if i in waiting else v
        return waiting[0], constant
