"""Layer by layer around the sample: Algorithm 5.1 of the Bounds thesis, corrected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from elbowroom.certificates.base import Certificate
from elbowroom.certificates.gain import Gain
from elbowroom.certificates.last_layers import last_layers
from elbowroom.certificates.margins import ARITHMETIC, Margins
from elbowroom.certificates.modulus import Modulus, largest_radius
from elbowroom.classifier import Classifier
from elbowroom.norms import L2, Norm


@dataclass(frozen=True, kw_only=True)
class LayerWise(Certificate):
    """The largest radius within which no layer can move far enough to change the decision.

    The last linear layer is exact (Bounds thesis, Theorem 3.6), the others are bounded around the
    sample (`elbowroom.certificates.modulus`): smooth activations to second order, as in Theorem
    4.2, units of a dense layer only where they can leave a flat piece, all else by operator norms.
    The last two dense layers are bounded together (`elbowroom.certificates.last_layers`).
    Never below `GlobalLipschitz`, and equal to it where no layer knows more; sound for the
    network as it is computed, as that is. Costs two forward passes.

    norm: L2 only.
    """

    norms: ClassVar[tuple[Norm, ...]] = (L2,)

    def bound(self, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
        margins = Margins.of(clf, x, y, L2)
        known = margins.known
        modulus = Modulus(known.exact, known.l2_gains, margins.values, margins.errors)
        last = known.l2_gains[-1]
        slopes = margins.slopes(Gain(L2, 1.0, last.base, last.pending))
        together = last_layers(
            known.exact, known.l2_gains, margins.values, margins.errors, margins.y
        )

        def safe(radius: Tensor) -> Tensor:
            changes = modulus(radius)
            change = slopes * changes[last.base][:, None]
            if together is not None:
                change = torch.minimum(change, together(changes))
            return (change + margins.growth * radius[:, None] <= margins.available).all(dim=1)

        with torch.no_grad():
            return largest_radius(safe, margins.radius()) * ARITHMETIC
