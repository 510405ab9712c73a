"""Noise of a given size: what a perturbation of that size looks like if it means nothing.

Two perturbations of one norm can look very different (Invariance thesis, Fig. 2.6, after Tramer et
al. 2020): one turns a goldfinch into a pineapple, noise of the same norm is hardly seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.norms import L2, Norm, per_sample
from elbowroom.perception.distance import require_images
from elbowroom.sampling import SampleRng

HALVINGS = 100  # of the interval the amplitude is in: to the last bit of float64

Bound = float | Tensor


@dataclass(frozen=True)
class Noise:
    """Noisy images.

    noisy:    `(N, *shape)`, inside the bounds.
    distance: `(N,)`, float64, to the original.
    exact:    `(N,)` bool: the distance is what was asked for, up to rounding. False where no
              image within the bounds is so far away: `noisy` is the farthest one then.
    """

    noisy: Tensor
    distance: Tensor
    exact: Tensor


def matched_noise(
    x: Tensor,
    size: Tensor | float,
    *,
    norm: Norm = L2,
    bounds: tuple[Bound, Bound] = (0.0, 1.0),
    rng: SampleRng | None = None,
) -> Noise:
    """Noise whose length in `norm` is `size` after it has been cut to the input bounds.

    x:    images `(N, *shape)`.
    size: `(N,)` or one for all: `norm.length(perturbed - x)` to match a perturbation.
    rng:  one stream per image; seed 0 and indices 0..N-1 by default.

    All features are drawn independently: normal for L2, Laplace for L1, uniform for Linf, so
    that without bounds every direction of the norm's sphere is equally likely. The result is
    `clamp(x + t noise)` with the amplitude t that gives the size. Where cutting leaves too little
    whatever t is, random features have their noise's sign turned towards the farther bound, no
    more of them than needed. Raises `ValueError` for images outside the bounds and for sizes that
    are negative or not finite.
    """
    require_images(x)
    rng = rng or SampleRng(0, range(len(x)))
    if len(rng) != len(x):
        raise ValueError(f"{len(rng)} random streams for {len(x)} images")
    size = torch.as_tensor(size, dtype=torch.float64, device=x.device).expand(len(x))
    if not bool((size.isfinite() & (size >= 0)).all()):
        raise ValueError("sizes must be finite and at least 0")
    lower, upper = (torch.as_tensor(bound, device=x.device).to(x.dtype) for bound in bounds)
    if not bool(((x >= lower) & (x <= upper)).all()):
        raise ValueError("images must lie inside the bounds; pass the right bounds")
    flat = x.double().flatten(1)
    # More room than this is never used; and so the room is finite where the bounds are not.
    enough = per_sample(2 * size, x)
    up = torch.minimum(upper.double() - x.double(), enough).flatten(1)
    down = torch.minimum(x.double() - lower.double(), enough).flatten(1)
    noise = _draw(torch.empty_like(flat), norm, rng)
    order = rng.uniform(flat).argsort(dim=1)
    noise, reach = _turned(noise, up, down, size, norm, order)
    change = _cut(noise, up, down, _amplitude(noise, up, down, size, norm))
    corner = torch.where(noise > 0, up, -down)
    change = torch.where((size < reach)[:, None], change, corner)
    noisy = (flat + change).view_as(x).to(x.dtype)
    noisy = torch.maximum(torch.minimum(noisy, upper), lower)
    distance = norm.length(noisy.double() - x.double())
    # What the corner of the box rounds to is still the size asked for.
    slack = 1e-12 * size
    return Noise(noisy, distance, size <= reach + slack)


def _draw(like: Tensor, norm: Norm, rng: SampleRng) -> Tensor:
    if norm.p == 2:
        return rng.normal(like)
    uniform = 2 * rng.uniform(like) - 1  # in [-1, 1)
    if norm.p == math.inf:
        return uniform
    return -uniform.sign() * torch.log1p(-uniform.abs().clamp(max=1 - 2**-53))


def _turned(
    noise: Tensor, up: Tensor, down: Tensor, size: Tensor, norm: Norm, order: Tensor
) -> tuple[Tensor, Tensor]:
    """`noise` with signs turned until the box lets it grow to `size`, and how far that is."""
    near = torch.where(noise > 0, up, down)
    far = torch.maximum(up, down)
    # The reach after the first k features of `order` have been turned, k = 0..D.
    gains = far.gather(1, order)
    if norm.p == math.inf:
        start = near.amax(dim=1, keepdim=True)
        reach = torch.cat([start, torch.maximum(gains.cummax(dim=1).values, start)], dim=1)
    else:
        start = near.pow(norm.p).sum(dim=1, keepdim=True)
        gains = gains.pow(norm.p) - near.gather(1, order).pow(norm.p)
        reach = torch.cat([start, start + gains.cumsum(dim=1)], dim=1).pow(1 / norm.p)
    short = reach < size[:, None]
    turns = short.sum(dim=1).clamp(max=noise.shape[1])
    place = order.argsort(dim=1)
    towards_far = torch.where(up >= down, noise.abs(), -noise.abs())
    noise = torch.where(place < turns[:, None], towards_far, noise)
    return noise, norm.length(torch.where(noise > 0, up, down))


def _cut(noise: Tensor, up: Tensor, down: Tensor, amplitude: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(amplitude[:, None] * noise, up), -down)


def _amplitude(noise: Tensor, up: Tensor, down: Tensor, size: Tensor, norm: Norm) -> Tensor:
    """The amplitude `(N,)` at which the cut noise has length `size`, by bisection.

    The length grows with the amplitude, up to that of the corner the noise points at.
    """
    room = torch.where(noise > 0, up, down)
    low = torch.zeros_like(size)
    high = (room / noise.abs().clamp(min=torch.finfo(noise.dtype).tiny)).amax(dim=1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        enough = norm.length(_cut(noise, up, down, middle)) >= size
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return high
