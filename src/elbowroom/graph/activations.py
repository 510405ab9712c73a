"""Rules of the tracer for activations, dropout and local response normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from elbowroom.graph import ops
from elbowroom.graph.builder import Builder, Ref
from elbowroom.graph.graph import UnsupportedOperationError

Rule = Callable[..., Any]


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


def smooth(name: str, function: Callable[..., Tensor], *options: str) -> Rule:
    """A rule for a function or, with the names of its options, for the module of that kind."""

    def rule(b: Builder, *args: Any, **kwargs: Any) -> Ref:
        if isinstance(args[0], nn.Module):
            kwargs = {option: getattr(args[0], option) for option in options}
            args = args[1:]
        x, rest = args[0], args[1:]
        kwargs.pop("inplace", None)
        return b.add(ops.Smooth(name, lambda z: function(z, *rest, **kwargs)), x)

    return rule


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
