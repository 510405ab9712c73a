"""Initial weights."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def he_normal(module: Module) -> Module:
    """Draw the weights as He et al. 2015 (2.2, by fan-out) and set the biases to zero, in place.

    Batch norm keeps the scale 1 and shift 0 it starts with.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
