"""Too invariant: inputs that look different and get the same logits."""

from elbowroom.invariance.adam import AdamOnLogits
from elbowroom.invariance.base import Inversion

INVERSIONS: dict[str, type[Inversion]] = {"adam": AdamOnLogits}

__all__ = ["INVERSIONS", "AdamOnLogits", "Inversion"]
