"""Rules of the tracer for layers: linear, convolution, batch norm, pooling."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from elbowroom.graph import activations, ops
from elbowroom.graph.arithmetic import affine
from elbowroom.graph.builder import Builder, Ref
from elbowroom.graph.graph import UnsupportedOperationError
from elbowroom.graph.signs import cannot_be_negative


def _sizes(value: int | tuple[int, ...], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


def linear(b: Builder, x: Ref, weight: Tensor, bias: Tensor | None = None) -> Ref:
    if len(b.shape(x)) != 2:
        raise UnsupportedOperationError("a linear layer on features that are not flattened")
    return b.add(ops.Linear(weight.detach(), None if bias is None else bias.detach()), x)


def conv(
    b: Builder,
    x: Ref,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Ref:
    dims = weight.ndim - 2
    stride, dilation = _sizes(stride, dims), _sizes(dilation, dims)
    if isinstance(padding, str):
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(t % 2 for t in total):
            raise UnsupportedOperationError("padding='same' with an even kernel")
        padding = tuple(t // 2 if padding == "same" else 0 for t in total)
    bias = None if bias is None else bias.detach()
    op = ops.Conv(weight.detach(), bias, stride, _sizes(padding, dims), dilation, groups)
    return b.add(op, x)


def conv_module(b: Builder, m: nn.Conv1d | nn.Conv2d, x: Ref) -> Ref:
    if m.padding_mode != "zeros":
        raise UnsupportedOperationError(f"padding_mode={m.padding_mode!r}; only zeros")
    return conv(b, x, m.weight, m.bias, m.stride, m.padding, m.dilation, m.groups)


def batch_norm(
    b: Builder,
    x: Ref,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Ref:
    if training or running_mean is None or running_var is None:
        raise UnsupportedOperationError("batch norm without running statistics")
    scale = (running_var.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.detach().double()
    centre = running_mean.double() * scale
    offset = torch.zeros_like(centre) if bias is None else bias.detach().double()
    channels = (-1, *[1] * (len(b.shape(x)) - 2))
    terms = (scale, offset - centre, offset.abs() + centre.abs())
    return affine(b, x, *(term.reshape(channels) for term in terms))


def batch_norm_module(b: Builder, m: nn.BatchNorm1d | nn.BatchNorm2d, x: Ref) -> Ref:
    return batch_norm(b, x, m.running_mean, m.running_var, m.weight, m.bias, eps=m.eps)


def max_pool(
    b: Builder,
    x: Ref,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Ref:
    if return_indices:
        raise UnsupportedOperationError("return_indices=True")
    dims = len(b.shape(x)) - 2
    kernel = _sizes(kernel_size, dims)
    return b.add(
        ops.MaxPool(
            kernel,
            _sizes(stride or kernel, dims),
            _sizes(padding, dims),
            _sizes(dilation, dims),
            ceil_mode,
        ),
        x,
    )


def max_pool_module(b: Builder, m: nn.MaxPool1d | nn.MaxPool2d, x: Ref) -> Ref:
    return max_pool(
        b, x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode, m.return_indices
    )


def avg_pool(
    b: Builder,
    x: Ref,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    padding: int | tuple[int, ...] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Ref:
    if divisor_override is not None:
        raise UnsupportedOperationError("divisor_override")
    dims = len(b.shape(x)) - 2
    kernel = _sizes(kernel_size, dims)
    return b.add(
        ops.AvgPool(
            kernel,
            _sizes(stride or kernel, dims),
            _sizes(padding, dims),
            ceil_mode,
            count_include_pad,
        ),
        x,
    )


def avg_pool_module(b: Builder, m: Any, x: Ref) -> Ref:
    divisor = getattr(m, "divisor_override", None)
    return avg_pool(
        b, x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad, divisor
    )


def lp_pool(
    b: Builder,
    x: Ref,
    norm_type: float,
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Ref:
    dims = len(b.shape(x)) - 2
    kernel, p = _sizes(kernel_size, dims), float(norm_type)
    stride = _sizes(stride or kernel, dims)
    if p == math.inf:
        return max_pool(b, activations.absolute(b, x), kernel, stride, ceil_mode=ceil_mode)
    if p == 1:  # PyTorch's sum has signs
        return affine(b, avg_pool(b, x, kernel, stride, 0, ceil_mode), math.prod(kernel), 0.0)
    if not p > 0:
        raise UnsupportedOperationError(f"Lp pooling with p={p:g}; p must be positive")
    if p % 2 and not cannot_be_negative(b.nodes, x.index):
        raise UnsupportedOperationError(
            f"Lp pooling with p={p:g} of inputs that can be negative, whose powers can have a sum "
            "without a root; put an activation such as ReLU before it, or take an even p"
        )
    return b.add(ops.LpPool(p, kernel, stride, ceil_mode), x)


def adaptive_avg_pool(b: Builder, x: Ref, output_size: Any) -> Ref:
    spatial = tuple(b.shape(x)[2:])
    wanted = output_size if isinstance(output_size, tuple) else (output_size,) * len(spatial)
    wanted = tuple(s if w is None else w for s, w in zip(spatial, wanted, strict=True))
    if any(s % w for s, w in zip(spatial, wanted, strict=True)):
        raise UnsupportedOperationError(
            f"adaptive pooling from {spatial} to {wanted}: unequal windows"
        )
    return avg_pool(b, x, tuple(s // w for s, w in zip(spatial, wanted, strict=True)))


def mean(b: Builder, x: Ref, dim: Any = None, keepdim: bool = False) -> Ref:
    ndim = len(b.shape(x))
    dims = sorted(d % ndim for d in ((dim,) if isinstance(dim, int) else dim or ()))
    if dims != list(range(2, ndim)) or ndim == 2:
        raise UnsupportedOperationError("a mean over anything but all spatial dimensions")
    pooled = avg_pool(b, x, tuple(b.shape(x)[2:]))
    return pooled if keepdim else b.add(ops.Reshape((b.shape(x)[1],)), pooled)
