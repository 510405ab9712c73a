"""Linear regions as explicit matrices, and projections onto them by independent solvers."""

from __future__ import annotations

import itertools
import math
from typing import cast

import numpy as np
import torch
from scipy.optimize import linprog, minimize
from torch import Tensor, nn
from torch.nn import functional as F

import nets
from elbowroom import Classifier
from elbowroom.graph import evaluate
from elbowroom.graph.graph import Node
from elbowroom.graph.ops import MaxPool, PiecewiseAffine

try:
    import daqp
except ImportError:  # in the extra `bench`
    daqp = None


def pooled() -> nn.Module:
    """Max pooling with overlap and padding, partly of values that tie at zero."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2, stride=1), nn.Conv2d(3, 4, 3, padding=1),
        nn.MaxPool2d(3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


class Aligned(nn.Module):
    """Rows of 32 bytes throughout: BLAS sums the others in an order that their place decides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(1, 8, 3), nn.Linear(128, 16), nn.Linear(16, 8)

    def forward(self, x):
        x = F.hardtanh(F.max_pool2d(self.conv(x), 3, stride=2, padding=1))
        return self.head(F.relu(self.hidden(x.flatten(1))))


def classifier(name: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Classifier:
    """One of `nets.PIECEWISE_AFFINE`, or `pooled`, with random weights but classes in balance."""
    if name == "pooled":
        torch.manual_seed(seed)
        model = pooled().double()
    else:
        model = nets.make(name, seed)[0]
    last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(500, *shape_of(name), generator=generator, dtype=torch.float64)
    outputs: list[Tensor] = []
    with last.register_forward_hook(lambda _m, _i, o: outputs.append(o.detach())), torch.no_grad():
        model(points)
        last.bias -= outputs[0].mean(dim=0)
    return Classifier(model.to(dtype))


def shape_of(name: str) -> tuple[int, ...]:
    return (1, 8, 8) if name == "pooled" else nets.PIECEWISE_AFFINE[name][1]


NAMES = (*nets.PIECEWISE_AFFINE, "pooled")


def explicit(clf: Classifier, z: Tensor, decision: Tensor) -> tuple[Tensor, Tensor]:
    """`A` `(S, d)` and `b` `(S,)` of the region of `z` `(1, *shape)`, slot by slot.

    decision: `(J, K)`. An empty slot has a zero row and `b = inf`.
    """
    graph = clf.graph(z.shape[1:])
    count = z.numel()

    def nodes(flat: Tensor) -> tuple[Tensor, ...]:
        return tuple(v.flatten() for v in evaluate.evaluate(graph, flat.view_as(z)))

    values = nodes(z.flatten())
    jacobians = torch.autograd.functional.jacobian(nodes, z.flatten())
    A = [decision @ jacobians[-1]]
    excess = [(decision @ values[-1]).masked_fill((decision == 0).all(dim=1), -torch.inf)]
    for node in graph.nodes:
        if not isinstance(node.op, PiecewiseAffine | MaxPool):
            continue
        source = node.inputs[0]
        if isinstance(node.op, PiecewiseAffine):
            matrix, shift = _pieces(node.op, values[source])
        else:
            matrix, shift = _windows(graph.nodes[source], node, values[source])
        A.append(torch.where(shift.isfinite()[:, None], matrix @ jacobians[source], 0.0))
        excess.append(matrix @ values[source] + shift)
    rows, over = torch.cat(A), torch.cat(excess)
    assert rows.shape[1] == count
    return rows, rows @ z.flatten() - over


def _pieces(op: PiecewiseAffine, values: Tensor) -> tuple[Tensor, Tensor]:
    """The constraints of units: all upper breaks, then all lower ones; one side only for two."""
    ends = [-math.inf, *op.breaks.tolist(), math.inf]
    piece = [next(i for i, e in enumerate(ends[1:]) if v <= e) for v in values.tolist()]
    above = torch.tensor([ends[p + 1] for p in piece], dtype=values.dtype)
    below = torch.tensor([ends[p] for p in piece], dtype=values.dtype)
    eye = torch.eye(len(values), dtype=values.dtype)
    if len(op.breaks) > 1:
        return torch.cat([eye, -eye]), torch.cat([-above, below])
    sign = torch.where(above.isfinite(), 1.0, -1.0).to(values.dtype)
    return sign[:, None] * eye, -sign * float(op.breaks[0])


def _windows(source: Node, node: Node, values: Tensor) -> tuple[Tensor, Tensor]:
    """The constraints of windows, member by member in row-major order."""
    op = cast(MaxPool, node.op)
    spatial = len(op.kernel)
    number = torch.arange(len(values)).view(source.shape)
    rows, shift = [], []
    lead = itertools.product(*(range(n) for n in source.shape[:-spatial]))
    for channel in lead:
        for place in itertools.product(*(range(n) for n in node.shape[-spatial:])):
            members = []
            for offset in itertools.product(*(range(k) for k in op.kernel)):
                at = [
                    p * s - pad + o * d
                    for p, s, pad, o, d in zip(
                        place, op.stride, op.padding, offset, op.dilation, strict=True
                    )
                ]
                there = all(0 <= a < n for a, n in zip(at, source.shape[-spatial:], strict=True))
                members.append(int(number[(*channel, *at)]) if there else -1)
            winner = max((m for m in members if m >= 0), key=lambda m: float(values[m]))
            for member in members:
                row = values.new_zeros(len(values))
                empty = member in (-1, winner)
                if not empty:
                    row[member], row[winner] = 1.0, -1.0
                rows.append(row)
                shift.append(-math.inf if empty else 0.0)
    return torch.stack(rows), values.new_tensor(shift)


# -- projections --------------------------------------------------------------------------------


def by_daqp(
    x: np.ndarray, A: np.ndarray, b: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, float] | None:
    """The nearest point of `{A z <= b}` in the box to `x`, and its distance; None if infeasible."""
    A, b = unit_rows(A, b)
    if A is None:
        return None
    features = len(x)
    high = np.concatenate([upper - x, b - A @ x])
    low = np.concatenate([lower - x, np.full(len(b), -1e30)])
    moved, _, flag, _ = daqp.solve(
        np.eye(features), np.zeros(features), np.ascontiguousarray(A), high, low,
        np.zeros(len(high), dtype=np.int32), primal_tol=1e-10,
    )  # fmt: skip
    if flag == -1:
        return None
    assert flag == 1, f"DAQP ended with {flag}"
    return x + moved, float(np.linalg.norm(moved))


def by_slsqp(
    x: np.ndarray, A: np.ndarray, b: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, float] | None:
    """As `by_daqp`, with SciPy; small problems only."""
    A, b = unit_rows(A, b)
    box = list(zip(lower, upper, strict=True))
    if A is None:
        return None
    feasible = linprog(np.zeros(len(x)), A_ub=A, b_ub=b, bounds=box, method="highs")
    if feasible.x is None:
        return None
    found = minimize(
        lambda z: 0.5 * np.sum((z - x) ** 2), feasible.x, jac=lambda z: z - x, bounds=box,
        constraints={"type": "ineq", "fun": lambda z: b - A @ z, "jac": lambda z: -A},
        method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    return found.x, float(np.linalg.norm(found.x - x))


def unit_rows(A: np.ndarray, b: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """Rows of unit length, without zero ones; None where a zero row cannot be satisfied."""
    length = np.linalg.norm(A, axis=1)
    zero = length <= 1e-13
    if np.any(zero & (b < -1e-12)):
        return None, b
    keep = ~zero & np.isfinite(b)
    return A[keep] / length[keep, None], b[keep] / length[keep]


def by_program(
    x: np.ndarray, A: np.ndarray, b: np.ndarray, lower: np.ndarray, upper: np.ndarray, p: float
) -> float:
    """The distance of `x` from `{A z <= b}` in the box, in L1 or Linf; inf if infeasible."""
    A, b = unit_rows(A, b)
    if A is None:
        return math.inf
    d = len(x)
    # Variables: z, and the size of each change (L1) or of all (Linf).
    sizes = 1 if math.isinf(p) else d
    per_feature = np.ones((d, 1)) if math.isinf(p) else np.eye(d)
    eye = np.eye(d)
    matrix = np.block([[A, np.zeros((len(A), sizes))], [eye, -per_feature], [-eye, -per_feature]])
    right = np.concatenate([b, x, -x])
    cost = np.concatenate([np.zeros(d), np.ones(sizes)])
    limits = [*zip(lower, upper, strict=True), *[(0, None)] * sizes]
    found = linprog(cost, A_ub=matrix, b_ub=right, bounds=limits, method="highs")
    return math.inf if found.x is None else float(found.fun)
