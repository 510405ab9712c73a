"""What is an adversarial example if the true posterior is known (Manifold, Definition 1 and 3)?"""

from __future__ import annotations

from torch import Tensor


def is_adversarial(decisions: Tensor, y: Tensor, posterior: Tensor) -> Tensor:
    """`(N,)` bool: the decision is not `y`, though `y` is the likeliest class of the point.

    decisions, y: `(N,)`. posterior: `(N, K)`, the true p(y | x) at the perturbed points. Points
    whose true label has changed, or is a tie, are none.
    """
    own = posterior.gather(1, y[:, None])
    others = posterior.scatter(1, y[:, None], -1.0)
    return (decisions != y) & (own.squeeze(1) > others.amax(dim=1))
