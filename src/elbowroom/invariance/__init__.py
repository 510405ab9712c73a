"""Too invariant: inputs that look different and get the same logits."""

from elbowroom.invariance.adam import AdamOnLogits
from elbowroom.invariance.base import Inversion
from elbowroom.invariance.equi_confidence import EquiConfidence
from elbowroom.invariance.exact import ExactInversion
from elbowroom.invariance.linear_region import LinearRegionInversion
from elbowroom.invariance.logit_space import LogitSpaceAttack
from elbowroom.invariance.nspgd import NSPGD
from elbowroom.invariance.null_space_step import NullSpaceStep
from elbowroom.invariance.parametrised import ParametrisedPreimage
from elbowroom.invariance.parametrised_descent import ParametrisedDescent
from elbowroom.invariance.preimage_descent import PreimageDescent

INVERSIONS: dict[str, type[Inversion]] = {
    "adam": AdamOnLogits,
    "parametrised": ParametrisedDescent,
    "preimage-descent": PreimageDescent,
}

__all__ = [
    "INVERSIONS",
    "NSPGD",
    "AdamOnLogits",
    "EquiConfidence",
    "ExactInversion",
    "Inversion",
    "LinearRegionInversion",
    "LogitSpaceAttack",
    "NullSpaceStep",
    "ParametrisedDescent",
    "ParametrisedPreimage",
    "PreimageDescent",
]
