"""How far can an input move before a network changes its mind, or without it noticing?"""

from elbowroom.classifier import Classifier
from elbowroom.norms import L1, L2, Linf, Norm

__version__ = "0.1.0"

__all__ = ["L1", "L2", "Classifier", "Linf", "Norm", "__version__"]
