"""Too invariant: inputs that look different and get the same logits."""

from elbowroom.invariance.adam import AdamOnLogits
from elbowroom.invariance.base import Inversion
from elbowroom.invariance.equi_confidence import EquiConfidence
from elbowroom.invariance.logit_space import LogitSpaceAttack
from elbowroom.invariance.nspgd import NSPGD
from elbowroom.invariance.null_space_step import NullSpaceStep

INVERSIONS: dict[str, type[Inversion]] = {"adam": AdamOnLogits}

__all__ = [
    "INVERSIONS",
    "NSPGD",
    "AdamOnLogits",
    "EquiConfidence",
    "Inversion",
    "LogitSpaceAttack",
    "NullSpaceStep",
]
