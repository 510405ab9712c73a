"""The network as a traced graph, and small interpreters over it."""

from elbowroom.graph.affine import AffineMap
from elbowroom.graph.graph import Graph, Node, UnsupportedOperationError
from elbowroom.graph.pattern import Pattern, pattern
from elbowroom.graph.trace import trace

__all__ = [
    "AffineMap",
    "Graph",
    "Node",
    "Pattern",
    "UnsupportedOperationError",
    "pattern",
    "trace",
]
