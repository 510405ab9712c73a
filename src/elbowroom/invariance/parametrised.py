"""The preimage of a network's features as a function of free parameters, and a descent in it.

Invariance thesis, section 3.4, with the inverse activation where it belongs (3.65 misplaces it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.graph import evaluate
from elbowroom.graph.graph import Graph, Node
from elbowroom.graph.ops import (
    AvgPool,
    ChannelAffine,
    Conv,
    Linear,
    PiecewiseAffine,
    Reshape,
    Smooth,
)
from elbowroom.invariance.layer_preimages import (
    AffinePreimage,
    BijectionPreimage,
    HeldReluPreimage,
    Kernel,
    LayerPreimage,
    dense_matrix,
    inverse_piecewise,
    inverse_smooth,
    is_relu,
)

LARGEST = 4096  # inputs of an affine layer, whose singular vectors are computed


class ParametrisedPreimage:
    """All inputs with given features, as images of parameters `(N, size)` (3.66).

    clf:    a chain of layers: affine ones that do not widen (linear, convolution, average pooling),
            per-channel affine ones, changes of shape, and activations with an inverse (leaky ReLU,
            PReLU, tanh, sigmoid, softplus, ELU), or ReLU.
    shape:  of one input.
    kernel: "basis" for the fewest parameters (as many as there are inputs more than features, if
            no ReLU is held), "projector" for as many as all affine layers have inputs.
    like:   `(N, *shape)`; needed with ReLU only: inputs whose active units are held. The inverse
            of ReLU jumps where a unit starts to be active, and inactive units would have to be met
            exactly, so that only the part of the preimage with the activity of `like` is reached:
            active units stay so, inactive ones keep any value `-|v|`. Batches then have N rows.
            Layers behind a ReLU have the parameters of the projector. Where fewer units are active
            than the next layer has outputs, that layer's preimage is empty for nearly all outputs,
            and most parameters give no point at all.

    sizes:  of each layer that has parameters, `(name, parameters)`, in the order of the network.
    size:   their sum.

    A network that widens, or whose inner layers are rank deficient, has inner features that no
    input gives: no unconstrained parameters run through its preimage. Raises `ValueError` naming
    the layer for that and for anything else that is not listed above.
    """

    def __init__(
        self,
        clf: Classifier,
        shape: Sequence[int],
        kernel: Kernel = "basis",
        like: Tensor | None = None,
    ) -> None:
        self.shape = tuple(shape)
        self.graph = clf.graph(self.shape).to(torch.float64)
        self._layers = _layers(self.graph, kernel, like)
        relu = any(isinstance(layer, HeldReluPreimage) for _, layer in self._layers)
        self._rows = len(like) if relu and like is not None else None
        self._free = [(node, layer) for node, layer in self._layers if layer.size]
        self.sizes = tuple((node.name, layer.size) for node, layer in self._free)
        self.size = sum(size for _, size in self.sizes)

    def features(self, x: Tensor) -> Tensor:
        """Features `(N, K)` of `x` `(N, *shape)`, in float64."""
        return evaluate.evaluate(self.graph, x.double())[-1]

    def point(self, targets: Tensor, parameters: Tensor) -> Tensor:
        """The inputs `(N, *shape)`, float64, with features `targets` `(N, K)`; differentiable.

        Every row of `parameters` `(N, size)` gives a point with exactly these features if all
        activations take every value, as leaky ReLU does. Otherwise some leave their range, or a
        held ReLU its activity: such rows are NaN. So are rows of targets that the last layer cannot
        give because it is rank deficient.
        """
        x, slack = self.relaxed(targets, parameters)
        there = x.flatten(1).isfinite().all(dim=1) & (slack >= 0).all(dim=1)
        return torch.where(there.reshape(-1, *[1] * len(self.shape)), x, torch.nan)

    def relaxed(self, targets: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """As `point`, but continued to where held units stop being active.

        Also returns the values `(N, S)` of the held active units, `inf` for the inactive ones; a
        row is in the preimage if none of them is negative and the point is finite.
        """
        if parameters.shape != (len(targets), self.size):
            raise ValueError(
                f"parameters must have shape ({len(targets)}, {self.size}), got "
                f"{tuple(parameters.shape)}"
            )
        if self._rows not in (None, len(targets)):
            raise ValueError(f"the units of {self._rows} inputs are held, got {len(targets)} rows")
        y = targets.double().flatten(1)
        slack = [y[:, :0]]
        end = self.size
        for _, layer in reversed(self._layers):
            v = parameters[:, end - layer.size : end]
            end -= layer.size
            if isinstance(layer, HeldReluPreimage):
                slack.append(torch.where(layer.active, y, torch.inf))
                y = layer.extended(y, v)
            else:
                y = layer.point(y, v)
        return y.reshape(-1, *self.shape), torch.cat(slack, dim=1)

    def parameters(self, x: Tensor) -> Tensor:
        """Parameters `(N, size)` of the inputs `x` `(N, *shape)`: `point(features(x), .) == x`.

        Raises `ValueError` for an input whose ReLUs are not active where those of `like` are.
        """
        found = []
        for (node, layer), z in zip(self._free, self.layer_inputs(x), strict=True):
            if isinstance(layer, HeldReluPreimage):
                differs = ((z > 0) != layer.active).any(dim=1)
                if bool(differs.any()):
                    raise ValueError(
                        f"sample {int(differs.nonzero()[0])} has other active units in layer "
                        f"{node.name!r} than the input that they were held for"
                    )
            found.append(layer.parameters(z))
        return torch.cat([x.double().flatten(1)[:, :0], *found], dim=1)

    def move(self, x: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
        """Parameters of `x` and their derivative along `direction`, both of shape `(N, *shape)`.

        Activity is not looked at: `x` may have other active units than `like`.
        """

        def read(x: Tensor) -> Tensor:
            pairs = zip(self._free, self.layer_inputs(x), strict=True)
            found = [layer.parameters(z) for (_, layer), z in pairs]
            return torch.cat([x.flatten(1)[:, :0], *found], dim=1)

        values, derivative = torch.func.jvp(read, (x,), (direction,))[:2]
        return values.detach(), derivative.detach()

    def layer_inputs(self, x: Tensor) -> list[Tensor]:
        """What the layers of `sizes` get, each `(N, features)`, when the network gets `x`."""
        values = evaluate.evaluate(self.graph, x.double())
        return [values[node.inputs[0]].flatten(1) for node, _ in self._free]


def _layers(graph: Graph, kernel: Kernel, like: Tensor | None) -> list[tuple[Node, LayerPreimage]]:
    """The preimages of all layers, in the order of the network."""
    values = None if like is None else evaluate.evaluate(graph, like.double())
    affine = [n.index for n in graph.nodes if isinstance(n.op, Linear | Conv | AvgPool)]
    layers: list[tuple[Node, LayerPreimage]] = []
    held: Tensor | None = None  # inputs of the node that inactive ReLUs hold
    for node in graph.nodes[1:]:
        before = graph.nodes[node.index - 1]
        if node.inputs != (before.index,):
            raise ValueError(f"{_named(node)} joins branches: its preimage is no chain of layers")
        at = None if values is None else values[before.index].flatten(1)
        if node.index in affine:
            layer: LayerPreimage = _affine(
                node, before.shape, graph, kernel, held, None if held is None else at
            )
            _require_surjective(node, cast(AffinePreimage, layer), last=node.index == affine[-1])
            held = None
        elif isinstance(node.op, PiecewiseAffine) and is_relu(node.op):
            if at is None:
                raise ValueError(
                    f"{_named(node)} is a ReLU, whose inverse is not continuous: pass like=, "
                    "inputs whose active units are to be held"
                )
            if held is not None:
                raise ValueError(f"{_named(node)} is a ReLU on a ReLU, with no layer in between")
            held = at <= 0
            layer = HeldReluPreimage(~held)
        else:
            layer = _bijection(node)
        layers.append((node, layer))
    return layers


def _affine(
    node: Node,
    shape: tuple[int, ...],
    graph: Graph,
    kernel: Kernel,
    held: Tensor | None,
    at: Tensor | None,
) -> AffinePreimage:
    inputs, outputs = math.prod(shape), math.prod(node.shape)
    if outputs > inputs:
        raise ValueError(
            f"{_named(node)} widens from {inputs} to {outputs} features: most of its outputs have "
            "no preimage, and those that have one form no affine space; only networks whose layers "
            "do not widen can be parametrised"
        )
    if inputs > LARGEST:
        raise ValueError(
            f"{_named(node)} has {inputs} inputs; its matrix is decomposed, for which {LARGEST} "
            "are the most"
        )
    bias = None if isinstance(node.op, AvgPool) else cast(Linear | Conv, node.op).bias
    if isinstance(node.op, Linear):
        return AffinePreimage(node.op.weight, bias, kernel, held, at)
    plain = node if bias is None else replace(node, op=replace(cast(Conv, node.op), bias=None))
    some = torch.zeros((), dtype=graph.dtype, device=_device(graph))
    weight = dense_matrix(lambda x: evaluate.TABLE[type(node.op)](plain, x), shape, some)
    if bias is not None:
        bias = bias.repeat_interleave(outputs // len(bias))
    return AffinePreimage(weight, bias, kernel, held, at)


def _require_surjective(node: Node, layer: AffinePreimage, *, last: bool) -> None:
    """Refuse an inner layer that cannot give all outputs, unless held inputs are the reason."""
    if not last and layer.held is None and int(layer.rank) < layer.outputs:
        raise ValueError(
            f"{_named(node)} has rank {int(layer.rank)} for {layer.outputs} outputs: the layers "
            "behind it would have to keep to its range"
        )


def _bijection(node: Node) -> BijectionPreimage:
    op = node.op
    if isinstance(op, Reshape):
        return BijectionPreimage(lambda y: y)
    if isinstance(op, ChannelAffine):
        scale = op.scale.expand(node.shape).flatten()
        shift = op.shift.expand(node.shape).flatten()
        if bool((scale == 0).any()):
            raise ValueError(f"{_named(node)} multiplies a feature by 0: it has no inverse")
        return BijectionPreimage(lambda y: (y - shift) / scale)
    try:
        if isinstance(op, PiecewiseAffine):
            return BijectionPreimage(inverse_piecewise(op, node.shape))
        if isinstance(op, Smooth):
            return BijectionPreimage(inverse_smooth(op))
    except ValueError as error:
        raise ValueError(f"{_named(node)}: {error}") from error
    raise ValueError(f"{_named(node)} has no parametrised preimage")


def _named(node: Node) -> str:
    return f"layer {node.name!r} ({node.op.kind})"


def _device(graph: Graph) -> torch.device:
    tensors = (v for n in graph.nodes for v in vars(n.op).values() if isinstance(v, Tensor))
    return next(tensors, torch.zeros(())).device
