"""Too sensitive: attacks, each an upper bound on the distance to the decision boundary."""

from elbowroom.attacks.apgd import APGD
from elbowroom.attacks.base import Attack
from elbowroom.attacks.boundary_walk import BoundaryWalk
from elbowroom.attacks.carlini_wagner import CarliniWagner
from elbowroom.attacks.closest import Closest
from elbowroom.attacks.ddn import DDN
from elbowroom.attacks.deepfool import DeepFool
from elbowroom.attacks.fab import FAB
from elbowroom.attacks.fast_gradient import FGS, FGV
from elbowroom.attacks.fmn import FMN
from elbowroom.attacks.hot_cold import HotCold
from elbowroom.attacks.iterative import IterativePerturbation
from elbowroom.attacks.lbfgs import LBFGS
from elbowroom.attacks.linear_region import LinearRegion
from elbowroom.attacks.pgd import PGD
from elbowroom.attacks.starts import NearestPoints, Towards
from elbowroom.attacks.transfer import Transfer

ATTACKS: dict[str, type[Attack]] = {
    "fgs": FGS,
    "fgv": FGV,
    "pgd": PGD,
    "apgd": APGD,
    "deepfool": DeepFool,
    "ddn": DDN,
    "carlini-wagner": CarliniWagner,
    "fmn": FMN,
    "fab": FAB,
    "linear-region": LinearRegion,
    "closest": Closest,
    "boundary-walk": BoundaryWalk,
    "hot-cold": HotCold,
    "iterative": IterativePerturbation,
    "lbfgs": LBFGS,
}

__all__ = [
    "APGD",
    "ATTACKS",
    "DDN",
    "FAB",
    "FGS",
    "FGV",
    "FMN",
    "LBFGS",
    "PGD",
    "Attack",
    "BoundaryWalk",
    "CarliniWagner",
    "Closest",
    "DeepFool",
    "HotCold",
    "IterativePerturbation",
    "LinearRegion",
    "NearestPoints",
    "Towards",
    "Transfer",
]
