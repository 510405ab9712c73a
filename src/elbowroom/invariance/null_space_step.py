"""One step in the null space of a two-layer ReLU network: every logit stays exactly as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.graph import Graph, Node
from elbowroom.graph.evaluate import evaluate
from elbowroom.graph.ops import ChannelAffine, Linear, PiecewiseAffine, Reshape
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.norms import L2
from elbowroom.results import NullSpaceStepResult


@dataclass(frozen=True, eq=False)
class TwoLayer:
    """`W2 relu(W1 x + b1) + b2` on flattened samples: W1 `(h, n)`, W2 `(K, h)`, float64."""

    W1: Tensor
    b1: Tensor
    W2: Tensor
    b2: Tensor

    @classmethod
    def of(cls, graph: Graph) -> TwoLayer:
        """The layers of `graph`; normalisation of the input becomes part of the first.

        Raises `ValueError` naming the layer that does not fit.
        """
        graph = graph.to(torch.float64)
        features = math.prod(graph.input_shape)
        scale = torch.ones(graph.input_shape, dtype=torch.float64, device=_device(graph))
        shift = torch.zeros_like(scale)
        layers: list[Node] = []
        for node in graph.nodes[1:]:
            op = node.op
            if isinstance(op, Reshape) and not layers:
                scale, shift = scale.reshape(op.shape), shift.reshape(op.shape)
            elif isinstance(op, ChannelAffine) and not layers:
                scale, shift = scale * op.scale, shift * op.scale + op.shift
            elif len(layers) < 3 and _fits(node, len(layers)):
                layers.append(node)
            else:
                raise _refusal(node)
        if len(layers) < 3:
            raise _refusal(graph.nodes[-1])
        first, last = cast(Linear, layers[0].op), cast(Linear, layers[2].op)
        return cls(
            W1=(first.weight * scale.flatten()).reshape(-1, features),
            b1=first.weight @ shift.flatten() + _bias(first),
            W2=last.weight,
            b2=_bias(last),
        )


def _fits(node: Node, place: int) -> bool:
    if place == 1:
        return isinstance(node.op, PiecewiseAffine) and node.op.name == "relu"
    return isinstance(node.op, Linear)


def _refusal(node: Node) -> ValueError:
    return ValueError(
        "the null space step is for networks linear - ReLU - linear; layer "
        f"{node.name!r} ({node.op.kind}) does not fit. For others use NSPGD"
    )


def _bias(op: Linear) -> Tensor:
    return op.weight.new_zeros(len(op.weight)) if op.bias is None else op.bias


def _device(graph: Graph) -> torch.device:
    weights = (node.op.weight for node in graph.nodes if isinstance(node.op, Linear))
    return next((weight.device for weight in weights), torch.device("cpu"))


@dataclass(frozen=True, kw_only=True)
class NullSpaceStep:
    """Project the difference of two inputs onto the directions that move no logit.

    NSPGD, section 4, for networks `W2 relu(W1 x + b1) + b2`. While no hidden unit changes sign,
    the logits move by `W2+ W1+ r`, with the columns and rows of the active units; so the step `r`
    is orthogonal to these K rows, and to the rows of `W1` of the units that are *held*, because
    they could change sign. The projection is the nearest such step; it keeps the logits to
    rounding, however long it is. The input box plays no part in it.

    threshold: which units are held. "exact": those that would change sign under the projected
               step itself, one after the other until none does. "worst-case": every unit whose
               value is at most `t = w |r|_1`, with `w` the largest weight of `W1` (the paper,
               corrected: `|W1 r|_inf <= w |r|_1`, where it has the L1 norm on the left, which is
               false; and since a projected step can be longer in L1 than the difference, `t` is
               raised until the step keeps to it). "per-unit worst-case": unit i at most at
               `|w_i| |r|`, both L2, the tightest bound that knows no more of the step than its
               length.
    reach:     the share of the difference that is asked for: with worst cases a short step often
               exists where a long one does not.
    """

    threshold: Literal["exact", "worst-case", "per-unit worst-case"] = "exact"
    reach: float = 1.0

    def __post_init__(self) -> None:
        check_hyperparameters(self)
        if not 0 < self.reach <= 1:
            raise ValueError(f"reach must lie in (0, 1], not {self.reach}")

    def __call__(
        self, clf: Classifier | nn.Module, *, start: Tensor, toward: Tensor
    ) -> NullSpaceStepResult:
        """Step from `start` towards `toward`, both `(N, *shape)`; everything in float64.

        Raises `ValueError` for inputs that `Classifier.validate` refuses, and for other networks,
        naming the layer.
        """
        clf = as_classifier(clf)
        if start.shape != toward.shape:
            raise ValueError(
                f"start and toward must have one shape, got {tuple(start.shape)} and "
                f"{tuple(toward.shape)}"
            )
        start, _ = clf.validate(start)
        toward, _ = clf.validate(toward)
        graph = clf.graph(start.shape[1:]).to(torch.float64)
        with clf.metered() as spent:
            net = TwoLayer.of(graph)
            x, rest = start.double(), toward.double() - start.double()
            values = x.flatten(1) @ net.W1.T + net.b1
            move, held, dimension = self._project(net, values, self.reach * rest.flatten(1))
            example = x + move.view_as(x)
            before, after = evaluate(graph, x), evaluate(graph, example)
            flipped = (values > 0) != (example.flatten(1) @ net.W1.T + net.b1 > 0)
            return NullSpaceStepResult(
                example=example,
                distance=L2.length(example - toward.double()),
                distance_start=L2.length(rest),
                dimension=dimension,
                held=held.sum(dim=1),
                flipped=flipped.sum(dim=1),
                logit_change=(after[-1] - before[-1]).abs().amax(dim=1),
                outside=_excess(clf, example),
                cost=spent(),
            )

    def _project(
        self, net: TwoLayer, values: Tensor, wish: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The step `(N, n)`, the units held `(N, h)`, and the dimension of their null space."""
        logit_rows = (net.W2 * (values > 0)[:, None]) @ net.W1
        held = torch.zeros_like(values, dtype=torch.bool)
        if self.threshold == "per-unit worst-case":
            reach = L2.length(net.W1) * L2.length(wish)[:, None]
            held = values.abs() <= reach
        step, dimension = _onto_null_space(wish, net.W1, held, logit_rows)
        while self.threshold != "per-unit worst-case":
            if self.threshold == "exact":
                more = (values > 0) != (values + step @ net.W1.T > 0)
            else:
                # The bound has to hold for the step taken: units are held before it is known.
                length = torch.maximum(step.abs().sum(dim=1), wish.abs().sum(dim=1))
                more = values.abs() <= net.W1.abs().max() * length[:, None]
            if not bool((more & ~held).any()):
                break
            held = held | more
            step, dimension = _onto_null_space(wish, net.W1, held, logit_rows)
        return step, held, dimension


def _onto_null_space(
    wish: Tensor, W1: Tensor, held: Tensor, logit_rows: Tensor
) -> tuple[Tensor, Tensor]:
    """The nearest vectors `(N, n)` to `wish` that no row sees, and the dimension they lie in.

    The rows are those of `W1` that are `held` `(N, h)`, and `logit_rows` `(N, K, n)`.
    """
    most = int(held.sum(dim=1).amax())
    first, units = held.to(wish.dtype).topk(most, dim=1)
    rows = torch.cat([W1[units] * first[..., None], logit_rows], dim=1)
    # Rows of one length: what is called zero below must not depend on their scale.
    length = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
    rows = rows / torch.where(length > 0, length, 1.0)
    _, singular, basis = torch.linalg.svd(rows, full_matrices=False)
    tiny = torch.finfo(rows.dtype).eps * max(rows.shape[1:]) * singular[:, :1]
    seen = singular > tiny
    basis = basis * seen[..., None]
    step = wish
    for _ in range(2):  # the second time removes what rounding left
        step = step - torch.einsum("nri,nr->ni", basis, torch.einsum("nri,ni->nr", basis, step))
    dimension = wish.shape[1] - seen.sum(dim=1)
    return torch.where((dimension > 0)[:, None], step, 0.0), dimension


def _excess(clf: Classifier, example: Tensor) -> Tensor:
    """`(N,)`: the largest excess of a feature over the input bounds."""
    over = torch.maximum(example - clf.upper.double(), clf.lower.double() - example)
    return over.flatten(1).amax(dim=1).clamp(min=0)
