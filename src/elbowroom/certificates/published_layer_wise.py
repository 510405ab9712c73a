"""Algorithm 5.1 of the Bounds thesis as it is printed, for comparison with what holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from elbowroom.certificates import published
from elbowroom.certificates.base import Certificate
from elbowroom.classifier import Classifier
from elbowroom.graph.evaluate import evaluate
from elbowroom.graph.graph import Graph, Node, UnsupportedOperationError
from elbowroom.graph.ops import (
    AvgPool,
    ChannelAffine,
    Conv,
    Linear,
    LocalResponseNorm,
    LpPool,
    MaxPool,
    PiecewiseAffine,
    Reshape,
    Smooth,
)
from elbowroom.norms import L2, Norm
from elbowroom.results import Cost

AT_ONCE = 64  # samples whose Jacobians are in memory


@dataclass(frozen=True, kw_only=True)
class PublishedLayerWise(Certificate):
    """The thesis's bound, chained backwards from the logits. Not a certificate: it can be too long.

    The dense layers at the end are one step, by Theorem 4.2; before them come convolutions (5.1),
    pooling (5.3), batch norm and other per-channel affine layers (5.6), local response
    normalisation (5.9), ReLU and flattening, which leave the bound as it is. What is wrong with
    each is told in `elbowroom.certificates.published`; besides, the chain takes a change of the
    norm for the length of a change. Rounding is not accounted for. Networks that are no chain, and
    layers the thesis has no formula for, are refused.

    norm: L2 only.
    """

    sound: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = (L2,)

    def bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        graph = clf.graph(tuple(x.shape[1:])).to(torch.float64)
        head = _head(graph)
        values = evaluate(graph, x.double())
        clf.cost += Cost(forward=len(x))
        last = cast(Linear, graph.nodes[-1].op)
        kappa = published.published_linear(values[-1], last.weight, y)
        if len(head) > 1:
            kappa = _dense(clf, head, values, kappa)
        for node in reversed(graph.nodes[1 : head[0].index]):
            kappa = _backwards(node, values[node.inputs[0]], kappa)
        return kappa


def _head(graph: Graph) -> list[Node]:
    """The dense layers at the end: linear, activation, linear, ..., linear."""
    for node in graph.nodes[1:]:
        if node.inputs != (node.index - 1,):
            raise _refused(node, "Algorithm 5.1 is for chains of layers, without branches")
    if not isinstance(graph.nodes[-1].op, Linear):
        raise _refused(graph.nodes[-1], "Algorithm 5.1 needs a linear layer at the end")
    head = [graph.nodes[-1]]
    for activation, layer in zip(graph.nodes[-2:0:-2], graph.nodes[-3:0:-2], strict=False):
        active = isinstance(activation.op, PiecewiseAffine | Smooth)
        if not (active and isinstance(layer.op, Linear)):
            break
        if activation.op.kind not in published.PUBLISHED_DERIVATIVES:
            raise _refused(activation, "Table 4.1 has no bounds on its derivatives")
        if activation.op.kind == "softplus" and cast(Smooth, activation.op).curvature != 1 / 4:
            raise _refused(activation, "Table 4.1 has softplus with beta=1 only")
        head = [layer, activation, *head]
    return head


def _dense(
    clf: Classifier, head: Sequence[Node], values: Sequence[Tensor], kappa: Tensor
) -> Tensor:
    """Theorem 4.2 for the layers `head`, with the Jacobian of the last hidden one."""
    layers, activations = head[:-1:2], head[1::2]
    weights = [cast(Linear, node.op).weight for node in layers]
    m = published.published_m(weights, [node.op.kind for node in activations])
    units = len(weights[-1])
    clf.cost += Cost(vjp=len(kappa) * units)
    norms = []
    for rows in torch.split(torch.arange(len(kappa), device=kappa.device), AT_ONCE):
        jacobian = torch.eye(weights[0].shape[1], dtype=torch.float64, device=kappa.device)[None]
        for weight, activation in zip(weights, activations, strict=True):
            slopes = _slopes(activation, values[activation.inputs[0]][rows])
            jacobian = slopes[:, :, None] * (weight @ jacobian)
        norms.append(torch.linalg.matrix_norm(jacobian, ord=2))
    return published.published_dense(kappa, torch.cat(norms), units, m)


def _slopes(node: Node, z: Tensor) -> Tensor:
    if isinstance(node.op, PiecewiseAffine):
        return (z > 0).double()  # ReLU: 0 at the kink, as in the thesis
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        return torch.autograd.grad(cast(Smooth, node.op).function(z).sum(), z)[0]


def _backwards(node: Node, x: Tensor, kappa: Tensor) -> Tensor:
    """The bound before the layer `node`, whose input is `x`, from the one behind it."""
    op = node.op
    if isinstance(op, Reshape) or op.kind == "relu":
        return kappa
    if isinstance(op, Conv):
        return published.published_convolution(kappa, op.weight)
    if isinstance(op, MaxPool | AvgPool):
        return published.published_pooling(kappa, _side(node, node.shape[1:]))
    if isinstance(op, LpPool):
        side, kernel = _side(node, node.shape[1:]), _side(node, op.kernel)
        return published.published_lp_pooling(kappa, side, kernel, op.p)
    if isinstance(op, ChannelAffine):
        ones = torch.ones_like(op.scale)
        return published.published_batch_norm(
            kappa, x, op.scale, op.shift, torch.zeros_like(op.scale), ones
        )
    if isinstance(op, LocalResponseNorm):
        return published.published_response_norm(kappa, x, op)
    raise _refused(node, "the thesis has no formula for it there")


def _side(node: Node, sizes: Sequence[int]) -> int:
    if len(sizes) != 2 or sizes[0] != sizes[1]:
        raise _refused(node, "Theorem 5.3 is for square windows and square feature maps")
    return sizes[0]


def _refused(node: Node, reason: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(f"layer {node.name!r} ({node.op.kind}): {reason}")
