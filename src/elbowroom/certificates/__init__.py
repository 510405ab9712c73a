"""Lower bounds: radii within which the decision provably cannot change."""

from elbowroom.certificates.base import Certificate
from elbowroom.certificates.layer_wise import LayerWise
from elbowroom.certificates.lipschitz import GlobalLipschitz

CERTIFICATES: dict[str, type[Certificate]] = {
    "global-lipschitz": GlobalLipschitz,
    "layer-wise": LayerWise,
}

__all__ = ["CERTIFICATES", "Certificate", "GlobalLipschitz", "LayerWise"]
