"""What the methods return: frozen records of tensors, one row per sample.

Distances are float64, in the input's own units.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from elbowroom.norms import Norm


@dataclass(frozen=True)
class Cost:
    """What a call spent on the whole batch.

    Passes are counted per sample: a forward pass of a batch of 8 counts 8. `jvp` and `vjp` are
    products with the Jacobian beyond those counted as backward passes.
    """

    forward: int = 0
    backward: int = 0
    jvp: int = 0
    vjp: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forward + other.forward,
            self.backward + other.backward,
            self.jvp + other.jvp,
            self.vjp + other.vjp,
            self.seconds + other.seconds,
        )

    def __sub__(self, other: Cost) -> Cost:
        return Cost(
            self.forward - other.forward,
            self.backward - other.backward,
            self.jvp - other.jvp,
            self.vjp - other.vjp,
            self.seconds - other.seconds,
        )


@dataclass(frozen=True)
class AttackResult:
    """Upper bounds on the distance to the decision boundary.

    adversarial: `(N, *shape)`; the best point found, also where the attack failed.
    distance:    `(N,)`, to the original in `norm`; `inf` where the attack failed.
    success:     `(N,)` bool, re-checked by a plain forward pass.
    """

    adversarial: Tensor
    distance: Tensor
    success: Tensor
    norm: Norm
    cost: Cost


@dataclass(frozen=True)
class CertificateResult:
    """Lower bounds on the distance to the decision boundary.

    radius: `(N,)`; no point nearer than this in `norm`, and inside the input bounds, changes
            the decision. 0 where the sample is misclassified.
    sound:  whether that is a theorem. `published_*` formulas kept for comparison say False.
    """

    radius: Tensor
    sound: bool
    norm: Norm
    cost: Cost


@dataclass(frozen=True)
class InversionResult:
    """Points with the logits of `start`, close to `toward`.

    example:       `(N, *shape)`; the closest feasible point known, at worst `start` itself.
    distance:      `(N,)`, L2 to `toward`; `inf` where even `start` is not reproducibly feasible
                   (a randomised model).
    distance_linf: `(N,)`, the same in Linf.
    feature_mse:   `(N,)`, mean squared difference between its logits and the wanted ones.
    success:       `(N,)` bool: `feature_mse` is within the tolerance of the method.
    """

    example: Tensor
    distance: Tensor
    distance_linf: Tensor
    feature_mse: Tensor
    success: Tensor
    cost: Cost


@dataclass(frozen=True)
class ExactResult:
    """Two-sided bounds on the L2 distance to the decision boundary, equal when finished.

    lower:    `(N,)`: no point of the input box that meets the goal is nearer.
    upper:    `(N,)`: the distance of `point`; `inf` where none is known, or none exists.
    point:    `(N, *shape)`, float64: meets the goal; the sample itself where none is known.
    finished: `(N,)` bool: `lower` and `upper` agree to the relative gap asked for.
    regions:  `(N,)`: sets of linear regions that were bounded on the way.
    """

    lower: Tensor
    upper: Tensor
    point: Tensor
    finished: Tensor
    regions: Tensor
    cost: Cost
