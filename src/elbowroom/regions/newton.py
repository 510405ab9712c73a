"""Projection onto `{A z <= b}` in a box, for few constraints: Newton's method in the dual.

The dual of `min 1/2 |z - x|^2, A z <= b, l <= z <= u` over the multipliers `mu >= 0` is

    g(mu) = 1/2 |z - x|^2 + mu . (A z - b)   at   z(mu) = clip(x - A' mu, l, u),

concave, once differentiable with gradient `A z(mu) - b`, and piecewise quadratic. Every value of
it is a lower bound on the primal. A semismooth Newton step maximises the quadratic model with the
generalised Hessian `A D A'`, D the features that are not clipped, over all `mu >= 0`, by block
principal pivoting; the segment to its optimum never leaves `mu >= 0`, and costs only O(d) to
search. A few steps end exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Added to the Hessian of rows of unit length, which makes the steps proximal: the least, and what
# it is multiplied by where pivoting does not end.
DAMPING = 1e-9
MORE_DAMPING = 100.0
PIVOTS = 12
NEARLY_ZERO = 1e-10
BISECTIONS = 30
FEW = 24  # rows that a step is over, if no more are needed


@dataclass(frozen=True)
class DenseProjection:
    """Solutions of P small problems.

    z:     `(P, d)`, the points `z(mu)`.
    mu:    `(P, R)`, multipliers.
    value: `(P,)`, dual values: lower bounds on `1/2 |z - x|^2`.
    error: `(P,)`, largest violation of the optimality conditions, as a distance in input space.
    """

    z: Tensor
    mu: Tensor
    value: Tensor
    error: Tensor


def project_dense(
    x: Tensor,
    rows: Tensor,
    bounds: Tensor,
    lower: Tensor,
    upper: Tensor,
    mu: Tensor,
    *,
    ceiling: Tensor,
    tolerance: float = 1e-10,
    iterations: int = 40,
) -> DenseProjection:
    """Solve P problems at once.

    x:       `(P, d)`, float64. lower, upper: `(d,)`.
    rows, bounds: `A` `(P, R, d)` and `b` `(P, R)`. A zero row is ignored if `b >= 0`; otherwise it
             makes the problem infeasible.
    mu:      `(P, R)`, non-negative first guess.
    ceiling: `(P,)`: a problem is left as soon as its dual value exceeds this. With the primal
             value of any point beyond which nothing is of interest, that prunes; with the largest
             primal value in the box, it proves that nothing is feasible.
    tolerance: of the error, relative to the size of the box or of `x`.
    """
    length = torch.linalg.vector_norm(rows, dim=2)
    there = length > 0
    # Rows that are zero but for rounding: as unit rows, their bounds would dwarf all others.
    tiny = there & (length <= NEARLY_ZERO * length.amax(dim=1, keepdim=True))
    impossible = (~there & (bounds < 0)).any(dim=1)
    if bool(tiny.any()):
        least, most = _range_in_box(rows, lower, upper)
        impossible = impossible | (tiny & (least > bounds)).any(dim=1)
        there = there & ~(tiny & (most <= bounds))
        rows = torch.where(there[..., None], rows, 0.0)
    scale = torch.where(there, length, 1.0)
    A = rows / scale[..., None]
    b = torch.where(there, bounds / scale, 1.0)
    mu = torch.where(there, mu * scale, 0.0)
    small_enough = tolerance * x.abs().amax(dim=1).clamp(min=1.0)

    shift = torch.bmm(mu[:, None], A).squeeze(1)  # A' mu
    damping = torch.full_like(ceiling, DAMPING)
    running = torch.ones_like(impossible)
    for iteration in range(iterations + 1):
        unclipped = x - shift
        z = torch.clamp(unclipped, lower, upper)
        gradient = torch.bmm(z[:, None], A.transpose(1, 2)).squeeze(1) - b
        value = 0.5 * (z - x).square().sum(dim=1) + (mu * gradient).sum(dim=1)
        error = torch.where(mu > 0, gradient.abs(), gradient.clamp(min=0)).amax(dim=1)
        running = running & (error > small_enough) & (value <= ceiling) & ~impossible
        if iteration == iterations or not bool(running.any()):
            break
        free = ((unclipped > lower) & (unclipped < upper)).to(A.dtype)
        step, ended = _newton_step(A, free, gradient, mu, damping)
        damping = torch.where(ended, damping / MORE_DAMPING, damping * MORE_DAMPING)
        damping = damping.clamp(DAMPING, 1.0)
        # Pivoting may have ended early; a gradient step always ascends, as R bounds the Hessian.
        ascends = (step * gradient).sum(dim=1) > 0
        small = (mu + gradient / A.shape[1]).clamp(min=0) - mu
        step = torch.where(ascends[:, None], step, small)
        step = torch.where(running[:, None], step, 0.0)
        slope = torch.bmm(step[:, None], A).squeeze(1)  # A' step
        t = along_segment(x, shift, slope, (step * b).sum(dim=1), lower, upper)
        mu = (mu + t[:, None] * step).clamp(min=0)
        shift = shift + t[:, None] * slope
    value = torch.where(impossible, torch.inf, value)
    return DenseProjection(z, mu / scale, value, error)


def _newton_step(
    A: Tensor, free: Tensor, gradient: Tensor, mu: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor]:
    """Steps `(P, R)` to the optima of the quadratic models, and `(P,)` whether they are reached.

    Few rows hold an optimum. The model is therefore of rows with a multiplier, of violated ones,
    and of those nearest to it, `FEW` in all, as long as so many will do.
    """
    held = (mu > 0) | (gradient > 0)
    if mu.shape[1] <= FEW:
        return _step_of_all(A, free, gradient, mu, damping)
    many = held.sum(dim=1) > FEW
    step, ended = torch.zeros_like(mu), torch.zeros_like(many)
    if not bool(many.all()):
        chosen = torch.where(held, torch.inf, gradient).topk(FEW, dim=1).indices
        rows = torch.arange(len(A), device=A.device)[:, None]
        some = (A[rows, chosen], free, gradient.gather(1, chosen), mu.gather(1, chosen), damping)
        part, ended = _step_of_all(*some)
        step.scatter_(1, chosen, part)
    if bool(many.any()):
        # For the others too, and left unused: shapes, and so last bits, do not depend on them.
        full, reached = _step_of_all(A, free, gradient, mu, damping)
        step = torch.where(many[:, None], full, step)
        ended = torch.where(many, reached, ended)
    return step, ended


def _step_of_all(
    A: Tensor, free: Tensor, gradient: Tensor, mu: Tensor, damping: Tensor
) -> tuple[Tensor, Tensor]:
    """As `_newton_step`, of all rows `A` `(P, R, d)`."""
    H = torch.bmm(A * free[:, None], A.transpose(1, 2))
    H.diagonal(dim1=1, dim2=2).add_(damping[:, None])
    c = gradient + torch.bmm(H, mu[..., None]).squeeze(2)
    target, ended = non_negative_minimum(H, c, mu > 0)
    return target - mu, ended


def _range_in_box(rows: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Least and largest values `(P, R)` of the rows in the box."""
    at_lower = torch.where(rows == 0, 0.0, rows * lower)
    at_upper = torch.where(rows == 0, 0.0, rows * upper)
    least, most = torch.minimum(at_lower, at_upper), torch.maximum(at_lower, at_upper)
    return least.sum(dim=2), most.sum(dim=2)


def along_segment(
    x: Tensor,
    shift: Tensor,
    slope: Tensor,
    offset: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    slack: Tensor | float = 0.0,
) -> Tensor:
    """`(P,)`: where in (0, 1] the dual is largest along a segment; it is concave.

    Its derivative at t is `slope . z(t) - offset`, at `z(t) = clip(x - shift - t slope)`. From
    `-slack` on it counts as rising.
    """

    def rises(t: Tensor) -> Tensor:
        z = torch.clamp(x - shift - t[:, None] * slope, lower, upper)
        return (slope * z).sum(dim=1) >= offset - slack

    low, high = torch.zeros_like(offset), torch.ones_like(offset)
    done = rises(high)
    low = torch.where(done, high, low)
    for _ in range(BISECTIONS):
        if bool(done.all()):
            break
        # Geometric at first: the model can overshoot by many orders of magnitude.
        middle = torch.where(low > 0, (low + high) / 2, high / 8)
        up = rises(middle)
        low = torch.where(up & ~done, middle, low)
        high = torch.where(up | done, high, middle)
        done = done | ((high - low) <= 0.02 * high)
    return torch.where(low > 0, low, high)


def non_negative_minimum(H: Tensor, c: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """`argmin 1/2 v' H v - c . v` over `v >= 0`, P problems at once, and where it was reached.

    H: `(P, R, R)`, positive definite. c: `(P, R)`. positive: `(P, R)` bool, a first guess.
    Block principal pivoting with the backup rule (Kim and Park 2011): all indices that violate
    their condition change sides, or the largest one only when that has not helped three times.
    """
    count = c.shape[1]
    if count == 0:
        return c, torch.ones(len(c), dtype=torch.bool, device=c.device)
    indices = torch.arange(count, device=c.device)
    number = fewest = torch.full((len(c),), count + 1, device=c.device)
    tries = torch.full_like(fewest, 3)
    tolerance = 1e-9 * c.abs().amax(dim=1, keepdim=True)
    solution = torch.zeros_like(c)
    for _ in range(PIVOTS):
        both = positive[:, :, None] & positive[:, None, :]
        masked = torch.where(both, H, 0.0)
        masked.diagonal(dim1=1, dim2=2).add_((~positive).to(H.dtype))
        factor = torch.linalg.cholesky_ex(masked).L
        right = torch.where(positive, c, 0.0)
        solution = torch.cholesky_solve(right[..., None], factor).squeeze(2)
        rest = torch.bmm(H, solution[..., None]).squeeze(2) - c
        negative = solution < -1e-9 * solution.abs().amax(dim=1, keepdim=True)
        wrong = torch.where(positive, negative, rest < -tolerance)
        number = wrong.sum(dim=1)
        if not bool(number.any()):
            break
        better = number < fewest
        fewest = torch.minimum(fewest, number)
        tries = torch.where(better, 3, tries - 1)
        last = (indices * wrong).amax(dim=1, keepdim=True)
        change = torch.where((better | (tries >= 0))[:, None], wrong, wrong & (indices == last))
        positive = positive ^ change
    return solution.clamp(min=0).nan_to_num(0.0, 0.0, 0.0), number == 0
