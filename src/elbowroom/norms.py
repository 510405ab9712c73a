"""The norms that perturbations are measured in: length, projection, dual, steepest direction.

Every function works on batches: the first dimension counts samples, the rest is one sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `(N,)` so that it broadcasts against `(N, *shape)`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Norm:
    """An Lp norm with p in {1, 2, inf}. Use the ready-made `L1`, `L2` and `Linf`."""

    p: float

    def __post_init__(self) -> None:
        if self.p not in (1.0, 2.0, math.inf):
            raise ValueError(f"supported norms are L1, L2 and Linf, not p={self.p}")

    @staticmethod
    def parse(name: str | Norm) -> Norm:
        """`"l1"`, `"L2"`, `"linf"`, ... to the norm of that name."""
        if isinstance(name, Norm):
            return name
        found = {"l1": L1, "l2": L2, "linf": Linf}.get(name.lower())
        if found is None:
            raise ValueError(f"unknown norm {name!r}; choose L1, L2 or Linf")
        return found

    @property
    def dual(self) -> Norm:
        """The norm q with 1/p + 1/q = 1: `|<u, v>| <= p(u) q(v)`."""
        return {1.0: Linf, 2.0: L2, math.inf: L1}[self.p]

    def largest_l2(self, features: int) -> float:
        """The largest L2 length of a vector of `features` entries whose length is 1."""
        return math.sqrt(features) if self.p == math.inf else 1.0

    def length(self, v: Tensor) -> Tensor:
        """Lengths `(N,)` of the rows of `v` `(N, *shape)`, accumulated in float64."""
        flat: Tensor = v.flatten(1)
        lengths: Tensor = torch.linalg.vector_norm(flat, ord=self.p, dim=1, dtype=torch.float64)
        return lengths

    def project(self, v: Tensor, radius: Tensor) -> Tensor:
        """The Euclidean projection of `v` `(N, *shape)` onto the balls of `radius` `(N,)`."""
        radius = radius.to(v.dtype)
        if self.p == math.inf:
            bound = per_sample(radius, v)
            return torch.maximum(torch.minimum(v, bound), -bound)
        length = self.length(v).to(v.dtype)
        if self.p == 2:
            scale = (radius / length.clamp(min=torch.finfo(v.dtype).tiny)).clamp(max=1.0)
            return v * per_sample(scale, v)
        return torch.where(per_sample(length <= radius, v), v, _project_l1(v, radius))

    def steepest(self, g: Tensor) -> Tensor:
        """The vector of unit length with the largest inner product with `g`.

        L2: `g/|g|`; Linf: the sign of `g`; L1: the sign of its largest entry. Zero where `g` is.
        """
        if self.p == math.inf:
            return g.sign()
        if self.p == 2:
            # Scaled first: squares of entries below 1e-23 underflow in float32.
            largest = per_sample(g.flatten(1).abs().amax(dim=1), g)
            g = g / torch.where(largest > 0, largest, 1.0)
            length = per_sample(self.length(g).to(g.dtype), g)
            return g / torch.where(length > 0, length, 1.0)
        flat = g.flatten(1)
        largest_index = flat.abs().argmax(dim=1, keepdim=True)
        unit = torch.zeros_like(flat).scatter(1, largest_index, 1.0)
        return (unit * flat.sign()).view_as(g)

    def __str__(self) -> str:
        return "Linf" if self.p == math.inf else f"L{self.p:.0f}"


def _project_l1(v: Tensor, radius: Tensor) -> Tensor:
    """Projection onto the L1 sphere by soft thresholding (Duchi et al. 2008, Figure 1)."""
    magnitude = v.flatten(1).abs()
    ordered = magnitude.sort(dim=1, descending=True).values
    count = torch.arange(1, ordered.shape[1] + 1, device=v.device, dtype=v.dtype)
    thresholds = (ordered.cumsum(dim=1) - radius[:, None]) / count
    active = (ordered > thresholds).sum(dim=1, keepdim=True).clamp(min=1)
    threshold = thresholds.gather(1, active - 1).clamp(min=0)
    return (v.flatten(1).sign() * (magnitude - threshold).clamp(min=0)).view_as(v)


L1 = Norm(1.0)
L2 = Norm(2.0)
Linf = Norm(math.inf)
