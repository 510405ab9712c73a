"""The shortest move onto an affine subspace in a box, for few equations: Newton in the dual.

The dual of `min 1/2 |v|^2, J v = r, l <= v <= u` over the multipliers `m` of the K equations is
`1/2 |v|^2 + m . (r - J v)` at `v(m) = clip(J' m, l, u)`: concave, with gradient `r - J v`. Newton
steps with the generalised Hessian `J D J'`, D the features that are not clipped, cost O(K^2 d)
each; a few of them end at rounding. As in `elbowroom.regions.newton`, which has inequalities,
searching the segment costs only O(d).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from elbowroom.regions.newton import along_segment
from elbowroom.regions.working_set import LINE

STEPS = 25
FULL = 0.1


def shortest_move(
    J: Tensor,
    r: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    stiffness: float,
    tolerance: float,
    guess: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`argmin |v|` over `J v = r`, `lower <= v <= upper`, for N problems at once.

    J: `(N, K, d)`. r: `(N, K)`. lower, upper: `(N, d)`, may be infinite. All float64.
    guess:     `(N, K)`, multipliers to begin with, e.g. of a similar problem.
    stiffness: half of this, times the squared violations of the equations, is added to
               `1/2 |v|^2`, the rows scaled to length 1: so there is always one answer, also
               where the equations contradict each other or the box. Where they do not, they hold
               to the size of the multipliers over the stiffness.
    tolerance: of the optimality conditions, relative to the largest of `r`, rows scaled.

    Returns v `(N, d)` and its multipliers `(N, K)`.
    """
    scale = torch.linalg.vector_norm(J, dim=2)
    scale = torch.where(scale > 0, scale, 1.0)
    J, r = J / scale[..., None], r / scale
    # The violations are moves, too, of no bounds.
    samples, count, features = J.shape
    eye = torch.eye(count, dtype=r.dtype, device=r.device) / stiffness**0.5
    J = torch.cat([J, eye.expand(samples, -1, -1)], dim=2)
    # Whole cache lines: BLAS sums others in an order that depends on the problem's place.
    J = F.pad(J, (0, -J.shape[2] % LINE, 0, -count % LINE))
    r = F.pad(r, (0, -count % LINE))
    added = J.shape[2] - features
    lower = F.pad(lower, (0, added), value=-torch.inf)
    upper = F.pad(upper, (0, added), value=torch.inf)
    zero = torch.zeros_like(lower)
    small = tolerance * r.abs().amax(dim=1)
    multipliers = torch.zeros_like(r)
    if guess is not None:
        multipliers[:, :count] = guess * scale
    free = torch.bmm(multipliers[:, None], J).squeeze(1)  # J' m
    for _ in range(STEPS):
        v = torch.clamp(free, lower, upper)
        # This order of a product is the one that processors are fast in.
        rest = r - torch.bmm(v[:, None], J.transpose(1, 2)).squeeze(1)
        running = rest.abs().amax(dim=1) > small
        if not bool(running.any()):
            break
        inside = ((free > lower) & (free < upper)).to(r.dtype)
        hessian = torch.bmm(J * inside[:, None], J.transpose(1, 2))
        hessian.diagonal(dim1=1, dim2=2)[:, count:] = 1.0
        factor = torch.linalg.cholesky_ex(hessian).L
        step = torch.cholesky_solve(rest[..., None], factor).squeeze(2)
        step = torch.where(running[:, None] & step.isfinite(), step, 0.0)
        slope = torch.bmm(step[:, None], J).squeeze(1)  # J' step
        # A full step that the dual hardly falls at the end of is taken: rounding decides nothing.
        slack = FULL * (step * rest).sum(dim=1)
        offset = -(step * r).sum(dim=1)
        share = along_segment(zero, -free, -slope, offset, lower, upper, slack=slack)
        multipliers = multipliers + share[:, None] * step
        free = free + share[:, None] * slope
    return torch.clamp(free, lower, upper)[:, :features], multipliers[:, :count] / scale
