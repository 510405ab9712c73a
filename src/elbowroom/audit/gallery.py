"""The samples that a report shows, with what was found for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
EXHIBITS = 9
PATHS = 4
ON_MANIFOLD = 6


@dataclass(frozen=True)
class SensitivityExample:
    """A sample and the nearest point that is decided otherwise. Arrays have a sample's shape."""

    index: int
    original: Array
    label: str
    adversarial: Array
    decision: str  # at `adversarial`
    distance: float  # in the audit's norm
    radius: float  # certified, same norm; 0 without a certificate
    method: str  # the attack that found it


@dataclass(frozen=True)
class InvarianceExample:
    """Two images with (almost) the same logits: `target` and `example`, made from `toward`."""

    index: int
    target: Array
    target_label: str
    toward: Array
    toward_label: str
    example: Array
    distance: float  # L2 between `example` and `toward`
    feature_mse: float
    target_logits: Array  # (K,)
    example_logits: Array  # (K,)


@dataclass(frozen=True)
class OnManifoldExample:
    """A sample and an input on the data manifold near it that is decided otherwise.

    distance: L2 between what the two codes are decoded to. latent_distance: between the codes, in
    the norm of the attack.
    """

    index: int
    original: Array
    label: str
    adversarial: Array
    decision: str
    distance: float
    latent_distance: float


@dataclass(frozen=True)
class PathExample:
    """A walk from a sample towards its partner, every point of it with the sample's logits.

    points: `(P, *shape)`, the sample first. distance: `(P,)`, L2 to the partner.
    decisions: at the points. feature_mse: `(P,)`. nearest: distance of the example of this pair.
    """

    index: int
    label: str
    toward_label: str
    points: Array
    distance: NDArray[np.float64]
    decisions: list[str]
    feature_mse: NDArray[np.float64]
    nearest: float


@dataclass(frozen=True)
class Exhibits:
    """What the page shows besides the summary.

    bounds: lower and upper end of the grey scale for drawing.
    attacked, certified: for every rightly classified sample, the distance of the nearest example
        (inf where no attack succeeded) and the certified radius.
    invariance: distance of every pair that succeeded (nearer than the sample itself).
    """

    bounds: tuple[float, float]
    attacked: NDArray[np.float64]
    certified: NDArray[np.float64]
    invariance: NDArray[np.float64]
    sensitivity_examples: list[SensitivityExample]
    invariance_examples: list[InvarianceExample]
    paths: list[PathExample] = field(default_factory=list)
    on_manifold_examples: list[OnManifoldExample] = field(default_factory=list)
