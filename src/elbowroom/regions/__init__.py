"""Linear regions: their constraints, projections onto them, and exact distances through them."""

from elbowroom.regions.accelerated import Accelerated, ApproximateProjection
from elbowroom.regions.exact import ExactDistance
from elbowroom.regions.linear_programs import LinearPrograms, ProgramResult
from elbowroom.regions.polyhedra import Polyhedron, PolyhedronUnion
from elbowroom.regions.polytope import Polytopes, decision_towards, equal_to
from elbowroom.regions.preimages import ExactPreimage, LinearRegions, decision_region
from elbowroom.regions.working_set import Projection, WorkingSet

__all__ = [
    "Accelerated",
    "ApproximateProjection",
    "ExactDistance",
    "ExactPreimage",
    "LinearPrograms",
    "LinearRegions",
    "Polyhedron",
    "PolyhedronUnion",
    "Polytopes",
    "ProgramResult",
    "Projection",
    "WorkingSet",
    "decision_region",
    "decision_towards",
    "equal_to",
]
