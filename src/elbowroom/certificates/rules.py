"""The layer bounds that certificates are made of, by the certificate's registered name."""

from __future__ import annotations

from collections.abc import Sequence

from elbowroom.certificates.hunt import LayerRule
from elbowroom.certificates.published_families import PUBLISHED_RULES
from elbowroom.certificates.sound_families import LIPSCHITZ_RULES, MODULUS_RULES

LAYER_RULES: dict[str, Sequence[LayerRule]] = {
    "global-lipschitz": LIPSCHITZ_RULES,
    "layer-wise": MODULUS_RULES,
    "published-layer-wise": PUBLISHED_RULES,
}
