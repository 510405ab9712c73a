"""How far can an input move before a network changes its mind, or without it noticing?"""

from elbowroom import attacks, certificates, data, invariance, models, regions
from elbowroom.audit import Card
from elbowroom.audit.compare import compare
from elbowroom.classifier import Classifier
from elbowroom.job import audit
from elbowroom.norms import L1, L2, Linf, Norm
from elbowroom.version import __version__

__all__ = [
    "L1",
    "L2",
    "Card",
    "Classifier",
    "Linf",
    "Norm",
    "__version__",
    "attacks",
    "audit",
    "certificates",
    "compare",
    "data",
    "invariance",
    "models",
    "regions",
]
