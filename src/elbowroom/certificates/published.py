"""The layer bounds of the Bounds thesis as they are printed. They are kept for comparison.

None of them but Theorem 3.6 may be relied on: each docstring says what is wrong with it, and
`elbowroom.certificates.hunt` finds counterexamples. `LayerWise` is what holds in their place.
Everywhere `kappa` `(N,)` is the robustness of the next layer, and the result `(N,)` the claimed
length of a perturbation of this layer's input; all in float64 and L2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.graph.ops import LocalResponseNorm
from elbowroom.norms import L2, per_sample

_AT = math.log(2 + math.sqrt(3)) / 2
# Table 4.1 as printed: bounds on first and second derivatives. That of tanh is half of the true
# 4 / (3 sqrt 3); that of ReLU is the 1 which section 4.3.1 puts in the place of 0.
PUBLISHED_DERIVATIVES = {
    "sigmoid": (1 / 4, (5 - 3 * math.sqrt(3)) / (30 * math.sqrt(3) - 54)),
    "tanh": (1.0, math.sinh(_AT) / math.cosh(_AT) ** 3),
    "softplus": (1.0, 1 / 4),
    "relu": (1.0, 1.0),
}


def published_linear(logits: Tensor, weight: Tensor, y: Tensor) -> Tensor:
    """Theorem 3.6: the distance of the last hidden values to the nearest decision hyperplane.

    logits `(N, K)`, weight `(K, d)`, y `(N,)`. Sound, and exact.
    """
    gap = (logits.gather(1, y[:, None]) - logits).abs()
    distance = (
        gap / L2.length((weight[:, None] - weight[None]).flatten(0, 1)).view(len(weight), -1)[y]
    )
    return distance.scatter(1, y[:, None], torch.inf).amin(dim=1)


def published_m(weights: Sequence[Tensor], activations: Sequence[str]) -> float:
    """Algorithm 4.1: M, a bound on all second derivatives of the hidden layers of an MLP.

    weights `(units, inputs)` and activations (names of `PUBLISHED_DERIVATIVES`), first layer
    first. No bound with the printed constants of tanh and ReLU.
    """
    m, n = 0.0, 1.0
    for weight, activation in zip(weights, activations, strict=True):
        first, second = PUBLISHED_DERIVATIVES[activation]
        s = float(weight.abs().sum(dim=1).max())
        m, n = second * n**2 * s**2 + first * m * s, first * n * s
    return m


def published_dense(kappa: Tensor, jacobian: Tensor, units: int, m: float) -> Tensor:
    """Theorem 4.2: `(sqrt(|J|^2 + 2 M sqrt(n) kappa) - |J|) / (M sqrt n)`.

    jacobian `(N,)`: the spectral norm |J| of the hidden layers at the sample. units: n.
    m: what bounds the second derivatives. Not a certificate: Theorem A.1 loses the factor d
    between `|r|_1^2` and `|r|^2`, so it fails with the largest second derivative for M; with the
    larger M of Algorithm 4.1 it fails by the constants of Table 4.1.
    """
    bend = m * math.sqrt(units)
    # The printed difference, times sum over sum: it cancels where kappa is small.
    return 2 * kappa / (jacobian + (jacobian.square() + 2 * bend * kappa).sqrt())


def published_convolution(kappa: Tensor, weight: Tensor) -> Tensor:
    """Theorem 5.1, with the ReLU behind it: `kappa / |W|_F`; weight `(out, in, *kernel)`.

    Not a certificate: windows that overlap use an input several times (Lemma A.4 forgets it).
    """
    return kappa / float(weight.double().norm())


def published_pooling(kappa: Tensor, size: int) -> Tensor:
    """Theorem 5.3, max and average pooling: `kappa / t` for an output of `size` t x t.

    Not a certificate as printed: its proof starts from the change of a norm, and average pooling
    over partial windows is not covered. True up to that, and loose.
    """
    return kappa / size


def published_lp_pooling(kappa: Tensor, size: int, kernel: int, p: float) -> Tensor:
    """Theorem 5.3, Lp pooling over q x q windows (`kernel` q): `kappa / (t q^(2/p))`.

    Not a certificate: for p < 1, which it allows, Lp "norms" have no triangle inequality (Lemma
    A.6).
    """
    return kappa / (size * math.pow(kernel, 2 / p))


def published_batch_norm(
    kappa: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
) -> Tensor:
    """Theorem 5.6: `max_j min(|rho_1j|, |rho_2j|)`; variance with its epsilon.

    x `(N, *shape)`, the others broadcast against it. Not a certificate: the most sensitive
    feature is enough to change the output, so `max_j` had to be `min_j`.
    """
    output = gamma * (x - mean) / variance.sqrt() + beta
    total = 2 * kappa * L2.length(output) + kappa.square()
    psi = per_sample(total / x[0].numel(), x)
    phi = gamma / variance
    chi = 2 * gamma * (x - mean) + 2 * beta * variance.sqrt()
    root = ((phi * chi).square() + 4 * phi * gamma * psi).sqrt()
    # The smaller of |rho_1| and |rho_2|; its numerator again without the cancellation.
    delta = 2 * psi / (root + (phi * chi).abs())
    return delta.flatten(1).amax(dim=1)


def published_response_norm(kappa: Tensor, x: Tensor, op: LocalResponseNorm) -> Tensor:
    """Theorem 5.9 with the M of Lemma 5.11; x `(N, channels, *spatial)`. alpha is `op.alpha / n`.

    Not a certificate, with the printed maximum or a minimum: M holds at the size of the input
    itself, and the perturbed one is larger.
    """
    alpha, beta, k = op.alpha / op.size, op.beta, op.k
    squares = _neighbours(x.square(), op.size)
    base = k + alpha * squares
    output = x * base.pow(-beta)
    slope = 2 * x * alpha * beta * base.pow(-beta - 1)
    gradient = (slope.square() * squares + base.pow(-beta).square()) - 2 * slope * output
    largest = x.flatten(1).abs().amax(dim=1)
    curved = largest.square() * alpha * (beta + 1) * k ** (-beta - 2) + k ** (-beta - 1)
    m = 4 * largest * alpha * beta * curved + 2 * largest * alpha * beta * k ** (-beta - 1)
    needed = (L2.length(output) + kappa) / math.sqrt(x[0].numel())
    delta = output.abs() - per_sample(needed, x)
    root = (gradient - 2 * per_sample(m, x) * delta).clamp(min=0).sqrt()
    claimed = -2 * delta / (gradient.clamp(min=0).sqrt() + root)
    return torch.where(delta < 0, claimed, -torch.inf).flatten(1).amax(dim=1)


def _neighbours(squares: Tensor, size: int) -> Tensor:
    """Sums over `size` neighbouring channels, as PyTorch's layer takes them."""
    padded = F.pad(squares.flatten(2)[:, None], (0, 0, size // 2, (size - 1) // 2))
    return (size * F.avg_pool2d(padded, (size, 1), stride=1)).view_as(squares)
