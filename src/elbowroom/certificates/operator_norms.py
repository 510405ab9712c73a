"""Guaranteed upper bounds on the norms of linear layers.

Power iteration approaches an operator norm from below and is of no use here. All arithmetic is
float64; the factor `SAFETY` covers its rounding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.graph.evaluate import CONV
from elbowroom.graph.ops import Conv
from elbowroom.norms import L1, L2, Norm

SAFETY = 1 + 1e-9
LARGEST_EIGENPROBLEM = 128
GRAM_ITERATIONS = 5


def dense_norm(weight: Tensor, norm: Norm) -> float:
    """The norm of `x -> W x` from `norm` to `norm`; exact up to rounding. weight `(out, in)`."""
    weight = weight.double()
    if norm == L2:
        return float(torch.linalg.matrix_norm(weight, ord=2)) * SAFETY
    sums = weight.abs().sum(dim=0 if norm == L1 else 1)
    return float(sums.max()) * SAFETY


def conv_norm(op: Conv, shape: tuple[int, ...], norm: Norm) -> float:
    """An upper bound on the norm of the zero-padded convolution of samples of `shape`.

    L1 and Linf are exact. L2 is the smaller of Schur's bound and the largest singular value over
    all frequencies of the circular convolution that contains the padded one.
    """
    columns, rows = absolute_sums(op, shape)
    if norm == L2:
        return min(math.sqrt(columns * rows) * SAFETY, _fourier_norm(op, shape))
    return (columns if norm == L1 else rows) * SAFETY


def absolute_sums(op: Conv, shape: tuple[int, ...]) -> tuple[float, float]:
    """Largest column sum and largest row sum of the convolution's absolute matrix.

    One forward and one transposed pass of `|W|` over ones; Schur's test makes
    `sqrt(columns * rows)` a bound on the L2 norm, of `|W|` too.
    """
    weight = op.weight.double().abs()
    ones = torch.ones(1, *shape, dtype=torch.float64, device=weight.device, requires_grad=True)
    apply = CONV[len(op.stride)]
    with torch.enable_grad():
        rows = apply(ones, weight, None, op.stride, op.padding, op.dilation, op.groups)
        (columns,) = torch.autograd.grad(rows.sum(), ones)
    return float(columns.max()), float(rows.detach().max())


def _fourier_norm(op: Conv, shape: tuple[int, ...]) -> float:
    weight = op.weight.double()
    stride, padding, dilation = op.stride, op.padding, op.dilation
    if weight.ndim == 3:  # one dimension is two, the other of size 1
        weight = weight.unsqueeze(2)
        shape = (shape[0], 1, shape[1])
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    blocks = [
        -(-(size + 2 * pad) // step)
        for size, pad, step in zip(shape[1:], padding, stride, strict=True)
    ]
    largest = 0.0
    for group in weight.chunk(op.groups):
        phases = _polyphase(group, stride, dilation)
        largest = max(largest, _largest_singular_value(phases, blocks))
    return largest * SAFETY


def _polyphase(weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]) -> Tensor:
    """A strided kernel as an unstrided one on `stride` times as many channels per dimension.

    Grouping inputs by their position modulo the stride turns `y[o] = sum_t w[t] x[s o + t]` into
    `y[o] = sum_b sum_phase w[s b + phase] x_phase[o + b]`.
    """
    out, inputs, *kernel = weight.shape
    (sh, sw), (dh, dw) = stride, dilation
    height, width = (kernel[0] - 1) * dh + 1, (kernel[1] - 1) * dw + 1
    dilated = weight.new_zeros(out, inputs, height, width)
    dilated[:, :, ::dh, ::dw] = weight
    dilated = F.pad(dilated, (0, -width % sw, 0, -height % sh))
    split = dilated.reshape(out, inputs, -(-height // sh), sh, -(-width // sw), sw)
    return split.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def _largest_singular_value(kernel: Tensor, blocks: list[int]) -> float:
    """Over all frequencies of the circular convolution on a grid of `blocks` positions."""
    height, width = blocks
    largest = 0.0
    rows = torch.arange(kernel.shape[2], dtype=torch.float64, device=kernel.device)
    for frequency in range(height):  # one row of frequencies at a time keeps memory small
        phase = torch.exp(-2j * math.pi * frequency / height * rows)
        row = torch.einsum("oibw,b->oiw", kernel.to(phase.dtype), phase)
        # Negative frequencies are the conjugates of positive ones of the opposite row.
        symbols = torch.fft.fft(row, n=width, dim=2)[..., : width // 2 + 1].permute(2, 0, 1)
        largest = max(largest, _bound_of_symbols(symbols))
    return largest


def _bound_of_symbols(symbols: Tensor) -> float:
    """An upper bound on the largest singular value of a stack of matrices."""
    if symbols.shape[1] > symbols.shape[2]:
        symbols = symbols.mH
    gram = symbols @ symbols.mH
    if gram.shape[-1] <= LARGEST_EIGENPROBLEM:
        return math.sqrt(max(float(torch.linalg.eigvalsh(gram)[..., -1].max()), 0.0))
    # Gram iteration: |A| <= |(A A')^(2^k)|_F^(1/2^(k+1)), from above for every k.
    scale = torch.linalg.matrix_norm(gram).clamp(min=1e-300)
    log_norm = scale.log()
    for step in range(GRAM_ITERATIONS):
        gram = gram / scale[:, None, None]
        gram = gram @ gram
        scale = torch.linalg.matrix_norm(gram).clamp(min=1e-300)
        log_norm = log_norm + scale.log() / 2 ** (step + 1)
    return math.exp(float(log_norm.max()) / 2)
