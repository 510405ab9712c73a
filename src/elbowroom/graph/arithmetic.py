"""Rules of the tracer for arithmetic with constants and for changes of shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from elbowroom.graph import ops
from elbowroom.graph.builder import Builder, Ref
from elbowroom.graph.graph import UnsupportedOperationError
from elbowroom.graph.normalize import Normalize, per_channel


def identity(b: Builder, x: Ref, *_: object, **__: object) -> Ref:
    return x


def _sample_constant(b: Builder, x: Ref, value: Tensor | float) -> Tensor:
    """A constant as a tensor that broadcasts against one sample of `x`."""
    like = b.examples[x.index]
    constant = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if constant.ndim == like.ndim and len(constant) == 1:
        constant = constant[0]
    if constant.ndim >= like.ndim or (like[0] * constant).shape != like.shape[1:]:
        raise UnsupportedOperationError("a constant that changes the shape of the tensor")
    return constant


def affine(
    b: Builder,
    x: Ref,
    scale: Tensor | float,
    shift: Tensor | float,
    magnitude: Tensor | float | None = None,
) -> Ref:
    """`scale x + shift`; `magnitude` bounds the terms of the shift, by default itself."""
    shift = _sample_constant(b, x, shift)
    size = shift.abs() if magnitude is None else _sample_constant(b, x, magnitude)
    return b.add(ops.ChannelAffine(_sample_constant(b, x, scale), shift, size), x)


def add(b: Builder, x: Any, y: Any, *, alpha: float = 1) -> Ref:
    if isinstance(x, Ref) and isinstance(y, Ref):
        if b.shape(x) != b.shape(y):
            raise UnsupportedOperationError("it adds tensors of different shapes")
        return b.add(ops.Add(), x, y if alpha == 1 else affine(b, y, alpha, 0.0))
    if isinstance(x, Ref):
        return affine(b, x, 1.0, alpha * y)
    return affine(b, y, alpha, x)


def sub(b: Builder, x: Any, y: Any, *, alpha: float = 1) -> Ref:
    return add(b, x, y, alpha=-alpha)


def mul(b: Builder, x: Any, y: Any) -> Ref:
    if isinstance(x, Ref) and isinstance(y, Ref):
        raise UnsupportedOperationError("a product of two tensors of the input is not affine")
    return affine(b, x, y, 0.0) if isinstance(x, Ref) else affine(b, y, x, 0.0)


def div(b: Builder, x: Any, y: Any) -> Ref:
    if isinstance(y, Ref):
        raise UnsupportedOperationError("a division by a tensor of the input is not affine")
    return affine(b, x, 1.0 / torch.as_tensor(y, dtype=torch.float64), 0.0)


def neg(b: Builder, x: Ref) -> Ref:
    return affine(b, x, -1.0, 0.0)


def normalize(b: Builder, module: Normalize, x: Ref) -> Ref:
    ndim = len(b.shape(x))
    scale = 1.0 / per_channel(module.std.double(), ndim)
    return affine(b, x, scale, -per_channel(module.mean.double(), ndim) * scale)


def concat(b: Builder, tensors: Any, dim: int = 0) -> Ref:
    dim %= len(b.shape(tensors[0]))
    if dim == 0:
        raise UnsupportedOperationError("it concatenates along the batch")
    return b.add(ops.Concat(dim), *tensors)


def _reshaped(b: Builder, x: Ref, value: Tensor) -> Ref:
    if value.shape[:1] != b.shape(x)[:1]:
        raise UnsupportedOperationError("it mixes the samples of a batch")
    return b.add(ops.Reshape(tuple(value.shape[1:])), x)


def reshape(b: Builder, x: Ref, *shape: Any) -> Ref:
    return _reshaped(b, x, b.examples[x.index].reshape(*shape))


def flatten(b: Builder, x: Ref, start_dim: int = 0, end_dim: int = -1) -> Ref:
    return _reshaped(b, x, b.examples[x.index].flatten(start_dim, end_dim))


def flatten_module(b: Builder, m: nn.Flatten, x: Ref) -> Ref:
    return flatten(b, x, m.start_dim, m.end_dim)


def unflatten_module(b: Builder, m: nn.Unflatten, x: Ref) -> Ref:
    return _reshaped(b, x, m(b.examples[x.index]))


def squeeze(b: Builder, x: Ref, *dim: int) -> Ref:
    return _reshaped(b, x, b.examples[x.index].squeeze(*dim))


def unsqueeze(b: Builder, x: Ref, dim: int) -> Ref:
    return _reshaped(b, x, b.examples[x.index].unsqueeze(dim))


def size(b: Builder, x: Ref, dim: int | None = None) -> Any:
    return b.shape(x) if dim is None else b.shape(x)[dim]


def attribute(b: Builder, x: Ref, name: str) -> Any:
    if name not in ("shape", "ndim", "dtype", "device"):
        raise UnsupportedOperationError(f"attribute {name!r}")
    return getattr(b.examples[x.index], name)
