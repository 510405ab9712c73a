"""The confidence in a class, and a quantity with its gradient's direction that never saturates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Rounding of the logits changes with the size of the batch: a bound on the confidence is kept
# with so much room that it holds for whoever computes it later.
ROUNDING_ULPS = 16


def confidence(logits: Tensor, classes: Tensor) -> Tensor:
    """`(N,)`, float64: the softmax probabilities of `classes` `(N,)`, from logits `(N, K)`."""
    probabilities: Tensor = logits.double().softmax(dim=1)
    return probabilities.gather(1, classes[:, None]).squeeze(1)


def rounding(logits: Tensor) -> Tensor:
    """`(N,)`, float64: by how much a confidence can differ in another batch."""
    largest = logits.abs().amax(dim=1).double()
    return ROUNDING_ULPS * torch.finfo(logits.dtype).eps * largest.clamp(min=1.0)


def log_odds(classes: Tensor) -> Callable[[Tensor], Tensor]:
    """From logits `(N, K)` to `log(p / (1 - p))` `(N,)`, `p` the confidences in `classes` `(N,)`.

    Its gradient has the direction of that of `p` (`grad p = p (1 - p) grad log-odds`), but does
    not vanish where the softmax saturates. In float32 `p` rounds to 1 once its logit leads by 17,
    and then neither `grad p` nor `grad log p` knows the logit of the class any more.
    """

    def odds(logits: Tensor) -> Tensor:
        own = logits.gather(1, classes[:, None]).squeeze(1)
        others: Tensor = logits.scatter(1, classes[:, None], -torch.inf).logsumexp(dim=1)
        return own - others

    return odds
