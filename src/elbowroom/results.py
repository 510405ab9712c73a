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
    """Points with wanted features (the logits of `start`, unless said otherwise), near `toward`.

    example:       `(N, *shape)`; the closest feasible point known, at worst `start` itself; the one
                   with the lowest `feature_mse` where none is known.
    distance:      `(N,)`, L2 to `toward`; `inf` where `success` is False.
    distance_linf: `(N,)`, the same in Linf.
    moved:         `(N,)`, L2 from `toward` to `example`, success or not.
    feature_mse:   `(N,)`, mean squared difference between its features and the wanted ones.
    success:       `(N,)` bool: `feature_mse` is within the tolerance of the method.
    nearer:        `(N,)` bool: it is, and `example` is nearer to `toward` than `start` is, which is
                   the answer where nothing nearer was found. Without a start, as `success`.
    path:          `(P, N, *shape)`: points on the way from `start`, all with the wanted features;
                   a walk that has ended stays where it is. None if it was not asked for.
    """

    example: Tensor
    distance: Tensor
    distance_linf: Tensor
    moved: Tensor
    feature_mse: Tensor
    success: Tensor
    nearer: Tensor
    path: Tensor | None
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


@dataclass(frozen=True)
class NullSpaceResult:
    """Points near `toward`, reached from `start` with little change of the confidence.

    example:          `(N, *shape)`: the last point of the path.
    distance:         `(N,)`, L2 to `toward`. distance_linf: the same in Linf.
    perceptual:       `(N,)`, by the perceptual distance that was given; None without one.
    confidence:       `(N,)`, at `example`, in the decision at `start`; from a plain forward pass.
    confidence_start: `(N,)`, at `start`.
    success:          `(N,)` bool: the perceptual distance is below its threshold, and the
                      confidence has not dropped too far; None without such a distance.
    steps:            `(N,)`: taken.
    path:             `(P, N, *shape)`: points on the way, the first and the last included; a walk
                      that has ended stays where it is. None if it was not kept.
    """

    example: Tensor
    distance: Tensor
    distance_linf: Tensor
    perceptual: Tensor | None
    confidence: Tensor
    confidence_start: Tensor
    success: Tensor | None
    steps: Tensor
    path: Tensor | None
    cost: Cost


@dataclass(frozen=True)
class LogitSpaceResult:
    """Points with other logits than `start` and, as far as possible, its class probabilities.

    example:          `(N, *shape)`: the point of the largest objective seen.
    distance:         `(N,)`, L2 to `start`.
    total_variation:  `(N,)`, of the difference to `start`; NaN where samples are no images.
    confidence:       `(N,)`, at `example`, in the decision at `start`; from a plain forward pass.
    confidence_start: `(N,)`, at `start`.
    logit_mse, softmax_mse: `(N,)`: mean squared differences of logits and of probabilities to
                      those of `start`.
    """

    example: Tensor
    distance: Tensor
    total_variation: Tensor
    confidence: Tensor
    confidence_start: Tensor
    logit_mse: Tensor
    softmax_mse: Tensor
    cost: Cost


@dataclass(frozen=True)
class NullSpaceStepResult:
    """One step from `start` towards `toward` that changes no logit of a two-layer network.

    example:        `(N, *shape)`, float64: `start` itself where nothing is left to move in.
    distance:       `(N,)`, L2 to `toward`. distance_start: `(N,)`, of `start` to `toward`.
    dimension:      `(N,)`: of the null space that the step lies in; 0: it is trivial.
    held:           `(N,)`: hidden units that are held at their values.
    flipped:        `(N,)`: hidden units that change sign; 0, unless by rounding.
    logit_change:   `(N,)`: the largest change of a logit, computed in float64.
    outside:        `(N,)`: the largest excess of a feature over the input bounds, which the
                    step knows nothing of.
    """

    example: Tensor
    distance: Tensor
    distance_start: Tensor
    dimension: Tensor
    held: Tensor
    flipped: Tensor
    logit_change: Tensor
    outside: Tensor
    cost: Cost
