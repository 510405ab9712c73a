"""Trace a network once into a graph of known operations.

`torch.fx` follows the model's own code, with `nn` modules as leaves; every call it records is
translated by one entry of the tables in `elbowroom.graph.translate`. What has no entry is an
error that names the layer, never a silent guess, and the finished graph is compared with the
model on random points before anyone may rely on it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from elbowroom.graph.builder import Builder, Ref
from elbowroom.graph.evaluate import evaluate
from elbowroom.graph.graph import Graph, UnsupportedOperationError
from elbowroom.graph.normalize import Normalize
from elbowroom.graph.translate import FUNCTIONS, METHODS, MODULES

EXAMPLES = 3  # an odd batch size, so that a batch dimension is not mistaken for a channel


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Normalize) or super().is_leaf_module(m, module_qualified_name)


def trace(
    model: nn.Module,
    shape: Sequence[int],
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Graph:
    """The graph of `model` (in evaluation mode) for samples of `shape`.

    Raises `UnsupportedOperationError` naming the layer that is not on the closed list of
    operations, or that makes the graph disagree with the model.
    """
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(EXAMPLES, *shape, generator=generator, dtype=torch.float64)
    example = example.to(dtype=dtype, device=device)
    try:
        traced = _Tracer().trace(model)
    except Exception as error:
        raise UnsupportedOperationError(
            f"{type(model).__name__} cannot be traced ({error}); its forward pass must not "
            "depend on the values of tensors"
        ) from error
    with torch.no_grad():
        graph = _translate(model, traced, example)
        _check_agreement(model, graph, example)
    return graph


def _translate(model: nn.Module, traced: fx.Graph, example: Tensor) -> Graph:
    builder = Builder(example)
    modules = dict(model.named_modules())
    known: dict[fx.Node, Any] = {}
    for node in traced.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: known[n])
        if node.op == "placeholder":
            known[node] = _placeholder(node, builder)
        elif node.op == "get_attr":
            known[node] = operator.attrgetter(node.target)(model).detach()
        elif node.op == "output":
            return _finish(builder, args[0])
        else:
            known[node] = _call(builder, modules, node, args, kwargs)
    raise AssertionError("a torch.fx graph ends with an output node")


def _placeholder(node: fx.Node, builder: Builder) -> object:
    if builder.input_taken:
        if node.args:
            return node.args[0]
        raise UnsupportedOperationError(
            f"the model's forward pass needs a second argument {node.target!r}; wrap it in a "
            "module of the input alone"
        )
    builder.input_taken = True
    return Ref(0)


def _call(
    builder: Builder,
    modules: dict[str, nn.Module],
    node: fx.Node,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> object:
    if node.op == "call_module":
        module = modules[str(node.target)]
        kind: Any = type_before_parametrizations(module)
        rule, where, args = MODULES.get(kind), str(node.target), (module, *args)
        what = kind.__name__
    elif node.op == "call_method":
        rule, where, what = METHODS.get(str(node.target)), node.name, f".{node.target}()"
    else:
        if callable(node.target) and not _mentions_input(args, kwargs):
            return node.target(*args, **kwargs)  # arithmetic on sizes and constants
        rule, where = FUNCTIONS.get(node.target), node.name
        what = f"{getattr(node.target, '__name__', node.target)}()"
    builder.name = where
    if rule is None:
        raise UnsupportedOperationError(
            f"layer {where!r} ({what}) is not supported; see docs/architecture.md for the list "
            "of operations"
        )
    try:
        return rule(builder, *args, **kwargs)
    except (TypeError, UnsupportedOperationError) as error:
        raise UnsupportedOperationError(f"layer {where!r} ({what}): {error}") from error


def _mentions_input(*arguments: object) -> bool:
    found: list[Ref] = []

    def look(argument: Any) -> Any:
        if isinstance(argument, Ref):
            found.append(argument)
        return argument

    fx.node.map_aggregate(cast(Any, arguments), look)
    return bool(found)


def _finish(builder: Builder, output: object) -> Graph:
    if not isinstance(output, Ref):
        raise UnsupportedOperationError(
            "the model must return one tensor that depends on its input"
        )
    if output.index != len(builder.nodes) - 1:
        raise UnsupportedOperationError(
            f"layer {builder.nodes[-1].name!r} is computed after the model's output and not used"
        )
    return Graph(tuple(builder.nodes), builder.examples[0].dtype)


def _check_agreement(model: nn.Module, graph: Graph, example: Tensor) -> None:
    expected: Tensor = model(example)
    found = evaluate(graph, example)[-1]
    if expected.shape != found.shape:
        raise UnsupportedOperationError("the traced graph's output differs in shape from the model")
    error = float((expected - found).abs().max())
    allowed = 1e4 * torch.finfo(example.dtype).eps * max(1.0, float(expected.abs().max()))
    if not math.isfinite(error) or error > allowed:
        raise UnsupportedOperationError(
            f"the traced graph differs from the model by {error:.3g} at a random point; a layer "
            "behaves otherwise than its type says (a hook, perhaps, or a random operation)"
        )
