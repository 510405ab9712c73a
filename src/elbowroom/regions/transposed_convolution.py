"""Transposed convolutions and pooling: what outputs owe to each of their inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.graph.evaluate import CONV
from elbowroom.graph.ops import Conv, MaxPool

CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d}
# Whose float32 convolutions are direct sums; without it PyTorch may take NNPACK's transforms.
ONEDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def transposed_convolution(u: Tensor, op: Conv) -> Tensor:
    """From `(N, out, *size)` to `(N, in, *full)`, padding included: `full` is
    `(size - 1) * stride + (kernel - 1) * dilation + 1`.
    """
    plain = all(d == 1 for d in op.dilation)
    if plain and op.groups == 1 and math.prod(u.shape[2:]) == 1:
        return (u.flatten(1) @ op.weight.flatten(1)).view(len(u), *op.weight.shape[1:])
    if plain and u.dtype == torch.float32 and u.device.type == "cpu" and ONEDNN:
        return _polyphase(u, op)
    apply = CONV_TRANSPOSE[len(op.stride)]
    return apply(u, op.weight, None, op.stride, 0, 0, op.groups, op.dilation)


def transposed_pooling(parts: Sequence[Tensor], op: MaxPool) -> Tensor:
    """From what the k members of all windows get, `(..., *size)` for each member, to their sums
    `(..., *full)`, padding included as in `transposed_convolution`.
    """
    dims = len(op.kernel)
    lead, size = parts[0].shape[:-dims], parts[0].shape[-dims:]
    steps = list(zip(size, op.stride, op.dilation, strict=True))
    last = (k - 1 for k in op.kernel)
    full = parts[0].new_zeros(
        *lead, *((n - 1) * s + m * d + 1 for m, (n, s, d) in zip(last, steps, strict=True))
    )
    for member, part in zip(product(*map(range, op.kernel)), parts, strict=True):
        places = zip(member, steps, strict=True)
        at = [slice(m * d, m * d + (n - 1) * s + 1, s) for m, (n, s, d) in places]
        full[tuple([slice(None)] * len(lead) + at)] += part
    return full


def without_padding(full: Tensor, padding: Sequence[int], size: Sequence[int]) -> Tensor:
    """`(..., *full)` less the padding before it, and as long as `size`: inputs behind the last
    window get zero.
    """
    lengths = zip(size, full.shape[-len(size) :], padding, strict=True)
    pads = [n for length, m, p in lengths for n in (length - m + p, -p)]
    return F.pad(full, pads[::-1])


def _polyphase(u: Tensor, op: Conv) -> Tensor:
    """One convolution without strides for every phase of the stride, and the phases interleaved.

    The same sums (sub-pixel convolution, Shi et al. 2016), several times faster than oneDNN's
    transposed convolutions, which have no fast path for strides.
    """
    kernel, stride, dims = op.weight.shape[2:], op.stride, len(op.stride)
    taps = [-(-k // s) for k, s in zip(kernel, stride, strict=True)]
    rest = [t * s - k for t, s, k in zip(taps, stride, kernel, strict=True)]
    weight = F.pad(op.weight, [n for r in reversed(rest) for n in (0, r)])
    split = [n for pair in zip(taps, stride, strict=True) for n in pair]
    # (groups, out, in, tap, phase, tap, phase) to (groups, in, phase, phase, out, tap, tap)
    weight = weight.reshape(op.groups, -1, op.weight.shape[1], *split)
    at_taps, at_phases = range(3, 3 + 2 * dims, 2), range(4, 4 + 2 * dims, 2)
    weight = weight.permute(0, 2, *at_phases, 1, *at_taps).flip(*range(3 + dims, 3 + 2 * dims))
    weight = weight.flatten(0, 1 + dims)
    apply = CONV[dims]
    padding = [t - 1 for t in taps]
    phases = apply(u, weight, None, 1, padding, 1, op.groups)
    channels, size = op.groups * op.weight.shape[1], phases.shape[2:]
    phases = phases.view(len(u), channels, *stride, *size)
    # (N, in, phase, phase, place, place) to (N, in, place, phase, place, phase)
    order = [n for d in range(dims) for n in (2 + dims + d, 2 + d)]
    full = phases.permute(0, 1, *order).reshape(
        len(u), channels, *(n * s for n, s in zip(size, stride, strict=True))
    )
    return F.pad(full, [n for r in reversed(rest) for n in (0, -r)]) if any(rest) else full
