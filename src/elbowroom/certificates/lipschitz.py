"""A bound on the slope of the whole network, layer by layer: the simplest sound certificate.

If every difference of logits `f_y - f_j` changes by at most `L_j` per unit of distance, the
decision cannot change within `min_j (f_y - f_j)(x) / L_j` (Tsuzuku, Sato and Sugiyama 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from elbowroom.certificates.base import Certificate
from elbowroom.certificates.margins import ARITHMETIC, Margins
from elbowroom.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class GlobalLipschitz(Certificate):
    """Margin over a global Lipschitz constant, a product of the layers' operator norms.

    Sound for the network as it is computed in its own floating-point precision, whatever the
    order of summation: every radius is reduced by a bound on the rounding of all layers (see
    `elbowroom.certificates.rounding` for what that assumes of convolutions on GPUs). Fast,
    and exact for linear classifiers; for deep ones a product of norms is far from tight.

    norm: L1, L2 or Linf.
    """

    def bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        return Margins.of(clf, x, y, self.norm).radius() * ARITHMETIC
