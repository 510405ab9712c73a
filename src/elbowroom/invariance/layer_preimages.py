"""The preimage of one layer: every input with a given output, as a function of free parameters.

Invariance thesis, section 3.4.1. All layers work on flat samples `(N, features)` in float64. What
has no preimage is never replaced by something near it: it becomes NaN.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from elbowroom.graph import evaluate
from elbowroom.graph.ops import PiecewiseAffine, Smooth

Kernel = Literal["basis", "projector"]

OUTSIDE = 1e-11  # of the range, relative to the size of y and b: beyond rounding in float64


class LayerPreimage(ABC):
    """`point(y, v)` runs through the preimage of `y` `(N, out)` as `v` `(N, size)` does.

    size: number of parameters for one sample.
    """

    size: int = 0

    @abstractmethod
    def point(self, y: Tensor, v: Tensor) -> Tensor:
        """Inputs `(N, in)`, differentiable in `y` and `v`; NaN where `y` has no preimage."""

    def parameters(self, x: Tensor) -> Tensor:
        """`v` `(N, size)` with `point(y, v) == x`, for the output `y` of `x` `(N, in)`."""
        return x[:, :0]


class AffinePreimage(LayerPreimage):
    """`{x : W x + b = y} = W^+ (y - b) + ker W` (Theorem 3.4.5, Proposition 3.4.6).

    weight: `(out, in)`, float64. bias: `(out,)`, or None.
    kernel: "basis" runs through the kernel by an orthonormal basis (Lemma 3.4.7), with as many
            parameters as it has dimensions; "projector" by `I - W^+ W`, with one for each input.
    held:   `(N, in)` bool, inputs that may not move from their values in `at` `(N, in)`. The
            kernel then differs between samples and is run through by its projector.

    Singular values up to `max(out, in) * eps` times the largest count as zero, the usual numerical
    rank. rank: `()`, or `(N,)` with held inputs.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        kernel: Kernel = "basis",
        held: Tensor | None = None,
        at: Tensor | None = None,
    ) -> None:
        if kernel not in ("basis", "projector"):
            raise ValueError(f"kernel must be basis or projector, not {kernel!r}")
        if (held is None) != (at is None):
            raise ValueError("held inputs need the values they are held at, and values a mask")
        self.outputs, inputs = weight.shape
        self.offset = weight.new_zeros(self.outputs) if bias is None else bias
        self.held, self.at = held, at
        basis = kernel == "basis" and held is None
        if held is not None and at is not None:
            self.offset = self.offset + torch.where(held, at, 0.0) @ weight.T
            weight = torch.where(held[:, None], 0.0, weight)
        U, s, Vt = torch.linalg.svd(weight, full_matrices=basis)
        largest = s.amax(dim=-1, keepdim=True)
        kept = s > max(self.outputs, inputs) * torch.finfo(s.dtype).eps * largest
        self.rank = kept.sum(dim=-1)
        count = s.shape[-1]
        self._image = U[..., :count] * kept[..., None, :]
        self._rows = Vt[..., :count, :] * kept[..., None]
        self._inverse_singular = torch.where(kept, 1 / torch.where(kept, s, 1.0), 0.0)
        self._basis = Vt[int(self.rank) :] if basis else None
        self.size = inputs if self._basis is None else len(self._basis)

    def residual(self, y: Tensor) -> Tensor:
        """`(N,)`: the distance of `y` `(N, out)` from the range of the layer."""
        c = y - self.offset
        inside = _times(_times(c, self._image), self._image.mT)
        distance: Tensor = torch.linalg.vector_norm(c - inside, dim=1)
        return distance

    def point(self, y: Tensor, v: Tensor) -> Tensor:
        coordinates = _times(y - self.offset, self._image) * self._inverse_singular
        x = _times(coordinates, self._rows) + self._in_kernel(v)
        if self.held is not None and self.at is not None:
            x = torch.where(self.held, self.at, x)
        if bool((self.rank == self.outputs).all()):
            return x
        with torch.no_grad():
            size = (y.square().sum(dim=1) + self.offset.square().sum(dim=-1)).sqrt()
            outside = self.residual(y) > OUTSIDE * size
        return torch.where(outside[:, None], torch.nan, x)

    def _in_kernel(self, v: Tensor) -> Tensor:
        if self._basis is not None:
            return _times(v, self._basis)
        return v - _times(_times(v, self._rows.mT), self._rows)

    def parameters(self, x: Tensor) -> Tensor:
        if self._basis is not None:
            return _times(x, self._basis.T)
        return self._in_kernel(x if self.held is None else torch.where(self.held, 0.0, x))


def _times(v: Tensor, matrix: Tensor) -> Tensor:
    """Rows `v` `(N, a)` times one matrix `(a, b)`, or one each `(N, a, b)`."""
    return v @ matrix if matrix.ndim == 2 else torch.bmm(v[:, None], matrix).squeeze(1)


class BijectionPreimage(LayerPreimage):
    """An invertible elementwise layer: one point, no parameters.

    inverse: of each entry; NaN or infinite outside of the layer's range.
    """

    def __init__(self, inverse: Callable[[Tensor], Tensor]) -> None:
        self.inverse = inverse

    def point(self, y: Tensor, v: Tensor) -> Tensor:
        x = self.inverse(y)
        return torch.where(x.isfinite(), x, torch.nan)


class ReluPreimage(LayerPreimage):
    """`y_i` where `y_i > 0`, `-|v_i|` where `y_i = 0`, nothing where `y_i < 0` (3.67-3.68)."""

    def __init__(self, features: int) -> None:
        self.size = features

    def point(self, y: Tensor, v: Tensor) -> Tensor:
        return torch.where(y > 0, y, torch.where(y == 0, -v.abs(), torch.nan))

    def parameters(self, x: Tensor) -> Tensor:
        return (-x).clamp(min=0)


class HeldReluPreimage(ReluPreimage):
    """The same, where it is known beforehand which units are active: there it is continuous.

    active: `(N, features)` bool. The other units need `y_i = 0`, whose rounding is forgiven.
    """

    def __init__(self, active: Tensor) -> None:
        super().__init__(active.shape[1])
        self.active = active

    def point(self, y: Tensor, v: Tensor) -> Tensor:
        return torch.where(self.active & (y < 0), torch.nan, self.extended(y, v))

    def extended(self, y: Tensor, v: Tensor) -> Tensor:
        """As `point`, but active units keep a negative `y_i`."""
        off = y.abs() > OUTSIDE * (1 + y.abs().amax(dim=1, keepdim=True))
        return torch.where(self.active, y, torch.where(off, torch.nan, -v.abs()))


def is_relu(op: PiecewiseAffine) -> bool:
    """Whether the activation is `max(z, 0)`, under whatever name."""
    return (
        op.breaks.tolist() == [0.0]
        and not bool(op.intercepts.any())
        and not bool(op.slopes[0].any())
        and bool((op.slopes[1] == 1).all())
    )


def inverse_piecewise(op: PiecewiseAffine, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """The inverse of an increasing piecewise affine activation on samples of `shape`, flattened.

    Raises `ValueError` if a slope is not positive.
    """
    if not bool((op.slopes > 0).all()):
        raise ValueError("it has a slope that is not positive and cannot be inverted")

    def flat(table: Tensor) -> Tensor:
        table = table.reshape(len(table), *[1] * (len(shape) + 1 - table.ndim), *table.shape[1:])
        return table.expand(len(table), *shape).flatten(1)

    slopes, intercepts = flat(op.slopes), flat(op.intercepts)
    heights = slopes[:-1] * op.breaks[:, None] + intercepts[:-1]

    def inverse(y: Tensor) -> Tensor:
        pieces = (y[:, None] > heights).sum(dim=1)
        return (y - evaluate.select(intercepts, pieces)) / evaluate.select(slopes, pieces)

    return inverse


def inverse_smooth(op: Smooth) -> Callable[[Tensor], Tensor]:
    """The inverse of tanh, sigmoid, softplus or ELU; NaN or infinite outside of its range.

    Raises `ValueError` for other activations, which are not monotonic.
    """
    options = op.function.keywords if isinstance(op.function, partial) else {}
    if op.name == "tanh":
        return torch.atanh
    if op.name == "sigmoid":
        return torch.logit
    if op.name == "softplus":
        return partial(_inverse_softplus, **options)
    if op.name == "elu" and options["alpha"] > 0:
        return partial(_inverse_elu, **options)
    raise ValueError("it cannot be inverted")


def _inverse_softplus(y: Tensor, beta: float, threshold: float) -> Tensor:
    # PyTorch's softplus is the identity above the threshold.
    high = beta * y > threshold
    small = torch.where(high, 1.0, beta * y)
    return torch.where(high, y, (small + torch.log(-torch.expm1(-small))) / beta)


def _inverse_elu(y: Tensor, alpha: float) -> Tensor:
    low = torch.log1p(torch.where(y > 0, 0.0, y) / alpha)
    return torch.where(y > 0, y, low)


def dense_matrix(apply: Callable[[Tensor], Tensor], shape: tuple[int, ...], like: Tensor) -> Tensor:
    """The matrix `(out, in)` of the linear map `apply` on samples of `shape`, flattened."""
    count = math.prod(shape)
    unit = torch.eye(count, dtype=like.dtype, device=like.device)
    return apply(unit.reshape(count, *shape)).flatten(1).T
