"""Rules of the tracer for activations, dropout and local response normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.graph import ops
from elbowroom.graph.builder import Builder, Ref
from elbowroom.graph.graph import UnsupportedOperationError

Function = Callable[[Tensor], Tensor]


def _piecewise(
    b: Builder, x: Ref, name: str, breaks: list[float], slopes: list[Any], intercepts: list[float]
) -> Ref:
    like = b.examples[x.index]
    table = [torch.as_tensor(slope, dtype=like.dtype, device=like.device) for slope in slopes]
    widest = sum(torch.zeros_like(slope) for slope in table)
    op = ops.PiecewiseAffine(
        name,
        torch.tensor(breaks, dtype=like.dtype, device=like.device),
        torch.stack([slope + widest for slope in table]),
        torch.tensor(intercepts, dtype=like.dtype, device=like.device),
    )
    return b.add(op, x)


def relu(b: Builder, x: Ref, inplace: bool = False) -> Ref:
    return _piecewise(b, x, "relu", [0.0], [0.0, 1.0], [0.0, 0.0])


def leaky_relu(b: Builder, x: Ref, negative_slope: float = 0.01, inplace: bool = False) -> Ref:
    return _piecewise(b, x, "leaky_relu", [0.0], [negative_slope, 1.0], [0.0, 0.0])


def hardtanh(
    b: Builder, x: Ref, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Ref:
    return _piecewise(
        b, x, "hardtanh", [min_val, max_val], [0.0, 1.0, 0.0], [min_val, 0.0, max_val]
    )


def clamp(b: Builder, x: Ref, min: float | None = None, max: float | None = None) -> Ref:
    if not all(bound is None or isinstance(bound, int | float) for bound in (min, max)):
        raise UnsupportedOperationError("clamping to tensors")
    if min is not None and max is not None:
        return hardtanh(b, x, min, max)
    if min is not None:
        return _piecewise(b, x, "clamp", [min], [0.0, 1.0], [min, 0.0])
    if max is not None:
        return _piecewise(b, x, "clamp", [max], [1.0, 0.0], [0.0, max])
    return x


def absolute(b: Builder, x: Ref) -> Ref:
    return _piecewise(b, x, "abs", [0.0], [-1.0, 1.0], [0.0, 0.0])


def prelu(b: Builder, x: Ref, weight: Tensor) -> Ref:
    shape = (-1, *[1] * (len(b.shape(x)) - 2)) if weight.numel() > 1 else ()
    slope = weight.detach().reshape(shape)
    return _piecewise(b, x, "prelu", [0.0], [slope, torch.ones_like(slope)], [0.0, 0.0])


def _smooth(
    b: Builder,
    x: Ref,
    name: str,
    function: Function,
    lipschitz: float,
    curvature: float,
    deviation: float = 0.0,
) -> Ref:
    at_zero = float(function(torch.zeros((), dtype=torch.float64)).abs())
    return b.add(ops.Smooth(name, function, lipschitz, curvature, at_zero, deviation), x)


def tanh(b: Builder, x: Ref) -> Ref:
    return _smooth(b, x, "tanh", torch.tanh, 1.0, 4 / (3 * math.sqrt(3)))


def sigmoid(b: Builder, x: Ref) -> Ref:
    return _smooth(b, x, "sigmoid", torch.sigmoid, 0.25, 1 / (6 * math.sqrt(3)))


def silu(b: Builder, x: Ref, inplace: bool = False) -> Ref:
    return _smooth(b, x, "silu", F.silu, 1.0999, 0.5)  # |silu'| <= 1.09984


def gelu(b: Builder, x: Ref, approximate: str = "none") -> Ref:
    # |gelu'| <= 1.12891, of the tanh form 1.12924; both are most curved at 0.
    function = partial(F.gelu, approximate=approximate)
    return _smooth(b, x, "gelu", function, 1.1293, math.sqrt(2 / math.pi))


def elu(b: Builder, x: Ref, alpha: float = 1.0, inplace: bool = False) -> Ref:
    curvature = 1.0 if alpha == 1 else math.inf  # else its slope jumps at 0
    return _smooth(b, x, "elu", partial(F.elu, alpha=alpha), max(1.0, abs(alpha)), curvature)


def softplus(b: Builder, x: Ref, beta: float = 1.0, threshold: float = 20.0) -> Ref:
    # PyTorch jumps to the identity at beta x = threshold.
    jump = math.log1p(math.exp(-threshold)) / beta
    function = partial(F.softplus, beta=beta, threshold=threshold)
    return _smooth(b, x, "softplus", function, 1.0, beta / 4, jump)


def dropout(
    b: Builder, x: Ref, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Ref:
    if training and p > 0:
        raise UnsupportedOperationError("dropout that stays random in evaluation mode")
    return x


def local_response_norm(
    b: Builder, x: Ref, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Ref:
    return b.add(ops.LocalResponseNorm(size, alpha, beta, k), x)


def relu6(b: Builder, x: Ref, inplace: bool = False) -> Ref:
    return hardtanh(b, x, 0.0, 6.0)
