"""Too invariant: inputs that look different and get the same logits."""

from elbowroom.invariance.adam import AdamOnLogits
from elbowroom.invariance.base import Inversion
from elbowroom.invariance.equi_confidence import EquiConfidence
from elbowroom.invariance.exact import ExactInversion
from elbowroom.invariance.guides import constant_images, mean_image, uniform_noise
from elbowroom.invariance.linear_region import LinearRegionInversion
from elbowroom.invariance.logit_space import LogitSpaceAttack
from elbowroom.invariance.nspgd import NSPGD
from elbowroom.invariance.null_space_step import NullSpaceStep
from elbowroom.invariance.parametrised import ParametrisedPreimage
from elbowroom.invariance.parametrised_descent import ParametrisedDescent
from elbowroom.invariance.paths import (
    Chain,
    PathCheck,
    arc_length,
    chain,
    check_path,
    resample,
    sparsify,
)
from elbowroom.invariance.pgd import PGDOnLogits
from elbowroom.invariance.preimage_descent import PreimageDescent
from elbowroom.invariance.targets import Approach, Interpolation, Reach, interpolate_logits, reach

INVERSIONS: dict[str, type[Inversion]] = {
    "adam": AdamOnLogits,
    "linear-region": LinearRegionInversion,
    "parametrised": ParametrisedDescent,
    "pgd": PGDOnLogits,
    "preimage-descent": PreimageDescent,
}

__all__ = [
    "INVERSIONS",
    "NSPGD",
    "AdamOnLogits",
    "Approach",
    "Chain",
    "EquiConfidence",
    "ExactInversion",
    "Interpolation",
    "Inversion",
    "LinearRegionInversion",
    "LogitSpaceAttack",
    "NullSpaceStep",
    "PGDOnLogits",
    "ParametrisedDescent",
    "ParametrisedPreimage",
    "PathCheck",
    "PreimageDescent",
    "Reach",
    "arc_length",
    "chain",
    "check_path",
    "constant_images",
    "interpolate_logits",
    "mean_image",
    "reach",
    "resample",
    "sparsify",
    "uniform_noise",
]
