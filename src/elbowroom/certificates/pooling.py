"""Guaranteed Lipschitz constants of pooling layers."""

from __future__ import annotations

import math

import torch

from elbowroom.certificates.operator_norms import SAFETY
from elbowroom.graph.evaluate import AVG_POOL
from elbowroom.graph.graph import UnsupportedOperationError
from elbowroom.graph.ops import AvgPool, LpPool, MaxPool
from elbowroom.norms import L1, L2, Linf, Norm


def pool_overlap(op: MaxPool | LpPool) -> int:
    """The number of windows of a pooling that one input can belong to (rho)."""
    dilations = op.dilation if isinstance(op, MaxPool) else (1,) * len(op.kernel)
    counts = [
        min(kernel, -(-((kernel - 1) * dilation + 1) // stride))
        for kernel, stride, dilation in zip(op.kernel, op.stride, dilations, strict=True)
    ]
    return math.prod(counts)


def lp_pool_norm(op: LpPool, shape: tuple[int, ...], norm: Norm) -> float:
    """A Lipschitz constant of Lp pooling for p >= 1, by Minkowski's inequality.

    With k inputs in a window and m of them inside the sample, a window is `(k/m)^(1/p)` times an
    Lp norm of m numbers. Raises `UnsupportedOperationError` for p < 1.
    """
    p, whole = op.p, math.prod(op.kernel)
    if p < 1:
        raise UnsupportedOperationError(
            f"Lp pooling with p={p:g} < 1 has no Lipschitz constant: it is infinitely steep where "
            "inputs are 0"
        )
    inside = 1
    spatial = zip(shape[-len(op.kernel) :], op.kernel, op.stride, strict=True)
    for size, kernel, stride in spatial:
        rest = -(size - kernel) % stride if op.ceil_mode else 0
        inside *= kernel - rest if rest < kernel else kernel  # the last window may be partial
    windows = pool_overlap(op)
    # The largest Lp norm of m numbers whose `norm` is 1, times the scale.
    widest = {L1: 0.0, L2: max(0.0, 1 / p - 1 / 2), Linf: 1 / p}[norm]
    steepest = math.pow(whole / inside, 1 / p) * math.pow(inside, widest)
    together = {L1: float(windows), L2: math.sqrt(windows), Linf: 1.0}[norm]
    return steepest * together * SAFETY


def average_sums(op: AvgPool, shape: tuple[int, ...]) -> tuple[float, float]:
    """Largest column and row sum of the pooling's matrix, padding and partial windows included."""
    ones = torch.ones(1, *shape, dtype=torch.float64, requires_grad=True)
    apply = AVG_POOL[len(op.kernel)]
    with torch.enable_grad():
        rows = apply(ones, op.kernel, op.stride, op.padding, op.ceil_mode, op.count_include_pad)
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    return float(columns.max()), float(rows.detach().max())


def pool_norm(op: AvgPool, shape: tuple[int, ...], norm: Norm) -> float:
    """An upper bound on average pooling's operator norm; exact for L1 and Linf."""
    columns, rows = average_sums(op, shape)
    return {L1: columns, L2: math.sqrt(columns * rows), Linf: rows}[norm] * SAFETY
