"""Which calls of PyTorch mean which operation: three tables, for modules, functions, methods.

A rule gets the `Builder`, then the call's own arguments with tensors that depend on the input
replaced by `Ref`s. It adds nodes and returns a `Ref`, or a constant such as a size. A new layer
is one rule and one entry here, and an entry in the table of each interpreter.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from elbowroom.graph import activations, arithmetic, layers
from elbowroom.graph.normalize import Normalize

Rule = Callable[..., Any]


def _with_options(rule: Rule, options: tuple[str, ...]) -> Rule:
    return lambda b, m, x: rule(b, x, *(getattr(m, option) for option in options))


# Activations: the function, the module, and the module's attributes that are its options.
_ACTIVATIONS: list[tuple[Rule, Any, Any, tuple[str, ...]]] = [
    (activations.relu, F.relu, nn.ReLU, ()),
    (activations.relu6, F.relu6, nn.ReLU6, ()),
    (activations.leaky_relu, F.leaky_relu, nn.LeakyReLU, ("negative_slope",)),
    (activations.hardtanh, F.hardtanh, nn.Hardtanh, ("min_val", "max_val")),
    (activations.prelu, F.prelu, nn.PReLU, ("weight",)),
    (activations.tanh, torch.tanh, nn.Tanh, ()),
    (activations.sigmoid, torch.sigmoid, nn.Sigmoid, ()),
    (activations.silu, F.silu, nn.SiLU, ()),
    (activations.gelu, F.gelu, nn.GELU, ("approximate",)),
    (activations.elu, F.elu, nn.ELU, ("alpha",)),
    (activations.softplus, F.softplus, nn.Softplus, ("beta", "threshold")),
]

MODULES: dict[Any, Rule] = {
    Normalize: arithmetic.normalize,
    nn.Linear: _with_options(layers.linear, ("weight", "bias")),
    nn.Conv1d: layers.conv_module,
    nn.Conv2d: layers.conv_module,
    nn.BatchNorm1d: layers.batch_norm_module,
    nn.BatchNorm2d: layers.batch_norm_module,
    nn.MaxPool1d: layers.max_pool_module,
    nn.MaxPool2d: layers.max_pool_module,
    nn.AvgPool1d: layers.avg_pool_module,
    nn.AvgPool2d: layers.avg_pool_module,
    nn.LPPool1d: _with_options(layers.lp_pool, ("norm_type", "kernel_size", "stride", "ceil_mode")),
    nn.LPPool2d: _with_options(layers.lp_pool, ("norm_type", "kernel_size", "stride", "ceil_mode")),
    nn.AdaptiveAvgPool1d: _with_options(layers.adaptive_avg_pool, ("output_size",)),
    nn.AdaptiveAvgPool2d: _with_options(layers.adaptive_avg_pool, ("output_size",)),
    nn.Flatten: arithmetic.flatten_module,
    nn.Unflatten: arithmetic.unflatten_module,
    nn.Identity: lambda b, m, x: x,
    nn.Dropout: lambda b, m, x: x,
    nn.Dropout1d: lambda b, m, x: x,
    nn.Dropout2d: lambda b, m, x: x,
    nn.LocalResponseNorm: _with_options(
        activations.local_response_norm, ("size", "alpha", "beta", "k")
    ),
    **{module: _with_options(rule, options) for rule, _, module, options in _ACTIVATIONS},
}

FUNCTIONS: dict[Any, Rule] = {
    operator.add: arithmetic.add,
    operator.iadd: arithmetic.add,
    torch.add: arithmetic.add,
    operator.sub: arithmetic.sub,
    operator.isub: arithmetic.sub,
    torch.sub: arithmetic.sub,
    operator.mul: arithmetic.mul,
    operator.imul: arithmetic.mul,
    torch.mul: arithmetic.mul,
    operator.truediv: arithmetic.div,
    operator.itruediv: arithmetic.div,
    torch.div: arithmetic.div,
    operator.neg: arithmetic.neg,
    torch.neg: arithmetic.neg,
    F.linear: layers.linear,
    F.conv1d: layers.conv,
    F.conv2d: layers.conv,
    F.batch_norm: layers.batch_norm,
    F.max_pool1d: layers.max_pool,
    F.max_pool2d: layers.max_pool,
    torch.max_pool1d: layers.max_pool,
    torch.max_pool2d: layers.max_pool,
    F.avg_pool1d: layers.avg_pool,
    F.avg_pool2d: layers.avg_pool,
    F.lp_pool1d: layers.lp_pool,
    F.lp_pool2d: layers.lp_pool,
    F.adaptive_avg_pool1d: layers.adaptive_avg_pool,
    F.adaptive_avg_pool2d: layers.adaptive_avg_pool,
    torch.mean: layers.mean,
    torch.cat: arithmetic.concat,
    torch.concat: arithmetic.concat,
    torch.flatten: arithmetic.flatten,
    torch.reshape: arithmetic.reshape,
    torch.squeeze: arithmetic.squeeze,
    torch.unsqueeze: arithmetic.unsqueeze,
    getattr: arithmetic.attribute,
    torch.relu: activations.relu,
    torch.clamp: activations.clamp,
    torch.abs: activations.absolute,
    F.dropout: activations.dropout,
    F.dropout2d: activations.dropout,
    F.local_response_norm: activations.local_response_norm,
    **{function: rule for rule, function, _, _ in _ACTIVATIONS},
    F.tanh: activations.tanh,
    F.sigmoid: activations.sigmoid,
}

METHODS: dict[str, Rule] = {
    "add": arithmetic.add,
    "sub": arithmetic.sub,
    "mul": arithmetic.mul,
    "div": arithmetic.div,
    "neg": arithmetic.neg,
    "mean": layers.mean,
    "flatten": arithmetic.flatten,
    "reshape": arithmetic.reshape,
    "view": arithmetic.reshape,
    "squeeze": arithmetic.squeeze,
    "unsqueeze": arithmetic.unsqueeze,
    "size": arithmetic.size,
    "dim": lambda b, x: len(b.shape(x)),
    "contiguous": arithmetic.identity,
    "clone": arithmetic.identity,
    "relu": activations.relu,
    "relu_": activations.relu,
    "clamp": activations.clamp,
    "abs": activations.absolute,
    "tanh": activations.tanh,
    "sigmoid": activations.sigmoid,
}
