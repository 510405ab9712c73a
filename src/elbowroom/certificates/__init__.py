"""Lower bounds: radii within which the decision provably cannot change."""

from elbowroom.certificates.base import Certificate
from elbowroom.certificates.branch_and_bound import BranchAndBound
from elbowroom.certificates.layer_wise import LayerWise
from elbowroom.certificates.linear_relaxation import LinearRelaxation
from elbowroom.certificates.lipschitz import GlobalLipschitz
from elbowroom.certificates.published_layer_wise import PublishedLayerWise
from elbowroom.certificates.region import Region
from elbowroom.certificates.semidefinite import Semidefinite

CERTIFICATES: dict[str, type[Certificate]] = {
    "global-lipschitz": GlobalLipschitz,
    "layer-wise": LayerWise,
    "linear-relaxation": LinearRelaxation,
    "semidefinite": Semidefinite,
    "region": Region,
    "branch-and-bound": BranchAndBound,
    "published-layer-wise": PublishedLayerWise,
}

__all__ = [
    "CERTIFICATES",
    "BranchAndBound",
    "Certificate",
    "GlobalLipschitz",
    "LayerWise",
    "LinearRelaxation",
    "PublishedLayerWise",
    "Region",
    "Semidefinite",
]
