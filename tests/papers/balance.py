"""Random networks decide most inputs alike; the figures need two classes at least."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def balanced(model: nn.Module, x: Tensor) -> nn.Module:
    """The network with a last layer that centres the logits at the inputs `x`."""
    head = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    with torch.no_grad():
        head.bias -= model(x).mean(dim=0)
    return model
