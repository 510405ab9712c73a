"""The closed list of operations a network may consist of.

Soundness rests on this list: a tracer that meets anything else refuses, and an interpreter that
has no entry for an operation refuses. Tensors are detached; the batch dimension is never named.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Operation:
    """Base of the list."""

    @property
    def kind(self) -> str:
        """What messages call it: an activation by its own name."""
        return str(getattr(self, "name", type(self).__name__))


@dataclass(frozen=True, eq=False)
class Input(Operation):
    """The network's input."""


@dataclass(frozen=True, eq=False)
class Linear(Operation):
    """`x W' + b` on flat features; weight `(out, in)`, bias `(out,)` or None."""

    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class Conv(Operation):
    """One- or two-dimensional convolution with zero padding; weight `(out, in/groups, *kernel)`."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


@dataclass(frozen=True, eq=False)
class ChannelAffine(Operation):
    """`scale * x + shift`; all fields broadcast against a sample.

    Batch norm in evaluation mode, input normalisation, arithmetic with constants.

    magnitude: sum of the absolute terms that `shift` was made of; its rounding error is
               proportional to them even where they cancel.
    """

    scale: Tensor
    shift: Tensor
    magnitude: Tensor


@dataclass(frozen=True, eq=False)
class Add(Operation):
    """The sum of two nodes."""


@dataclass(frozen=True, eq=False)
class Concat(Operation):
    """Concatenation along `dim`, counted with the batch dimension as 0."""

    dim: int


@dataclass(frozen=True, eq=False)
class Reshape(Operation):
    """Each sample to `shape`, in row-major order."""

    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AvgPool(Operation):
    """One- or two-dimensional average pooling."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = True


@dataclass(frozen=True, eq=False)
class MaxPool(Operation):
    """One- or two-dimensional max pooling."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    ceil_mode: bool = False


@dataclass(frozen=True, eq=False)
class LpPool(Operation):
    """One- or two-dimensional Lp pooling: `(sum of x^p over a window)^(1/p)`, without padding.

    The tracer lets it pass only where that is a real number: p > 0, and even where inputs can be
    negative. PyTorch scales the sum of a partial window up to that of a whole one.
    """

    p: float
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    ceil_mode: bool = False


@dataclass(frozen=True, eq=False)
class PiecewiseAffine(Operation):
    """A continuous piecewise affine activation.

    Piece i covers `breaks[i-1] < z <= breaks[i]` and maps `z` to `slopes[i] z + intercepts[i]`.
    breaks `(B,)`; slopes and intercepts `(B + 1, ...)`, broadcasting against a sample after the
    first dimension (one slope per channel for PReLU).
    """

    name: str
    breaks: Tensor
    slopes: Tensor
    intercepts: Tensor


@dataclass(frozen=True, eq=False)
class Smooth(Operation):
    """A smooth elementwise activation: tanh, sigmoid, softplus, ...

    lipschitz: bound on its slope. curvature: on its second derivative; infinite with a kink.
    at_zero:   `|function(0)|`.
    deviation: by how much PyTorch's formula may differ from the smooth function.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    lipschitz: float
    curvature: float
    at_zero: float
    deviation: float


@dataclass(frozen=True, eq=False)
class LocalResponseNorm(Operation):
    """`x / (k + alpha / size * sum of squares of the `size` neighbouring channels)^beta`."""

    size: int
    alpha: float
    beta: float
    k: float
