"""On the manifold: inputs as decoded from latent codes, attacked there, and how far others lie."""

from elbowroom.manifold.attacks import (
    LATENT_ATTACKS,
    LatentAttack,
    LatentCarliniWagner,
    LatentPGD,
    OnManifoldResult,
    RandomCodes,
)
from elbowroom.manifold.decoder import Codes, Decoder
from elbowroom.manifold.fonts import Fonts
from elbowroom.manifold.generators import ByClass, Generator
from elbowroom.manifold.neighbours import Neighbours
from elbowroom.manifold.pixels import Pixels
from elbowroom.manifold.posterior import is_adversarial
from elbowroom.manifold.projection import Projection, project
from elbowroom.manifold.tangent import tangent_cosine
from elbowroom.manifold.transformations import Transformations

__all__ = [
    "LATENT_ATTACKS",
    "ByClass",
    "Codes",
    "Decoder",
    "Fonts",
    "Generator",
    "LatentAttack",
    "LatentCarliniWagner",
    "LatentPGD",
    "Neighbours",
    "OnManifoldResult",
    "Pixels",
    "Projection",
    "RandomCodes",
    "Transformations",
    "is_adversarial",
    "project",
    "tangent_cosine",
]
