"""Collects the nodes of a graph while a model is being traced."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.graph import ops
from elbowroom.graph.evaluate import TABLE
from elbowroom.graph.graph import Node, UnsupportedOperationError


@dataclass(frozen=True)
class Ref:
    """A tensor that depends on the input: the output of a node."""

    index: int


class Builder:
    """Collects nodes, and keeps an example value of each to know shapes."""

    def __init__(self, example: Tensor) -> None:
        self.name = "input"
        self.input_taken = False
        self.nodes = [Node(0, "input", ops.Input(), (), tuple(example.shape[1:]))]
        self.examples = [example]

    def add(self, op: ops.Operation, *inputs: Ref) -> Ref:
        for ref in inputs:
            if not isinstance(ref, Ref):
                raise UnsupportedOperationError("a constant where a tensor of the input should be")
        values = [self.examples[ref.index] for ref in inputs]
        index = len(self.nodes)
        probe = Node(index, self.name, op, tuple(ref.index for ref in inputs), ())
        value: Tensor = TABLE[type(op)](probe, *values)
        if value.shape[:1] != self.examples[0].shape[:1]:
            raise UnsupportedOperationError("it mixes the samples of a batch")
        self.nodes.append(Node(index, self.name, op, probe.inputs, tuple(value.shape[1:])))
        self.examples.append(value)
        return Ref(index)

    def shape(self, ref: Ref) -> torch.Size:
        return self.examples[ref.index].shape
