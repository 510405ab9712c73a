"""Linear regions: their constraints, and projections onto them."""

from elbowroom.regions.accelerated import Accelerated, ApproximateProjection
from elbowroom.regions.linear_programs import LinearPrograms, ProgramResult
from elbowroom.regions.polytope import Polytopes, decision_towards
from elbowroom.regions.working_set import Projection, WorkingSet

__all__ = [
    "Accelerated",
    "ApproximateProjection",
    "LinearPrograms",
    "Polytopes",
    "ProgramResult",
    "Projection",
    "WorkingSet",
    "decision_towards",
]
