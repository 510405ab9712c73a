"""Checks that the measurement itself can be trusted; shown on every page.

The first ones are those of AutoAttack (Croce and Hein 2020, its `checks.py`): a randomised
model, probabilities instead of logits and vanishing gradients make attacks look weak and models
strong. The others check this library's own results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elbowroom.audit.config import AuditConfig, why_uncertified
from elbowroom.audit.summary import TrustCheck
from elbowroom.audit.tables import AttackTable, ManifoldTable, PathTable, Tables
from elbowroom.classifier import Classifier
from elbowroom.features import features_of
from elbowroom.goals import Misclassified
from elbowroom.invariance import Inversion
from elbowroom.norms import Norm

SINGLE_STEP = ("fgs", "fgv")
BATCH = 100  # another size than the audit's chunks
CLEARLY = 0.99  # nearer by more than the line searches' error
ULPS = 16  # by which features differ between two sizes of a batch
FEW = 0.01  # of the samples: below it, a finding is an oddity and not a failure


def are_probabilities(logits: Tensor) -> bool:
    """Whether all rows of outputs `(N, K)` could be those of a softmax, not logits."""
    sums = logits.sum(dim=1)
    return bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-4).all())


def model_checks(clf: Classifier, x: Tensor, y: Tensor, norm: Norm) -> list[TrustCheck]:
    """Checks that need the model; x `(N, *shape)` and y `(N,)`: the samples measured."""
    uncovered = why_uncertified(clf, x, norm)
    was_training = clf.network.training
    difference, around, probabilities = 0.0, True, True
    flat = loss_flat = 0.0
    with clf.session():
        for part, labels in zip(torch.split(x, BATCH), torch.split(y, BATCH), strict=True):
            logits, again = clf.logits(part), clf.logits(part)
            difference = max(difference, float((logits - again).abs().max()))
            probabilities &= are_probabilities(logits)
            around &= all(bool(clf.logits(point).isfinite().all()) for point in _nearby(clf, part))
            flat += _without_slope(clf, part, Misclassified(labels).margin) / len(x)
            loss_flat += _without_slope(clf, part, Misclassified(labels).loss) / len(x)
    return [
        TrustCheck(
            check="Logits are finite around the samples",
            passed=around,
            detail="they are, up to random moves of a tenth of the input range"
            if around
            else "random moves of the samples give NaN or infinite logits: attacks are blind there",
        ),
        TrustCheck(
            check="The model is deterministic",
            passed=difference == 0,
            detail=f"two evaluations of the same inputs differ by at most {difference:.2g}",
        ),
        TrustCheck(
            check="The model returns logits",
            passed=not probabilities,
            detail="every output row is non-negative and sums to 1, like a softmax: remove it, or "
            "gradients vanish"
            if probabilities
            else "outputs are not probabilities",
        ),
        TrustCheck(
            check="Gradients do not vanish",
            passed=flat <= FEW,
            detail=f"the margin's gradient is exactly zero for {flat:.1%} of the samples, the "
            f"cross-entropy's for {loss_flat:.1%}; attacks along it fail there",
        ),
        TrustCheck(
            check="The model is in evaluation mode",
            passed=True,
            detail="it was handed over in training mode and measured in evaluation mode"
            if was_training
            else "as handed over",
        ),
        TrustCheck(
            check="Lower bounds are proofs or are left out",
            passed=True,
            detail="a certificate covers every layer"
            if uncovered is None
            else f"no certificate: {uncovered}",
        ),
    ]


def _without_slope(clf: Classifier, x: Tensor, objective: Callable[[Tensor], Tensor]) -> int:
    """For how many samples the gradient of `objective(logits)` is exactly zero."""
    _, gradient = clf.gradient(x, objective)
    return int((gradient.flatten(1) == 0).all(dim=1).sum())


def _nearby(clf: Classifier, x: Tensor) -> Iterator[Tensor]:
    """The samples moved at random by small shares of the width of the input box."""
    width = (clf.upper - clf.lower).expand(x.shape)
    width = torch.where(width.isfinite(), width, x.abs().amax())
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    for share in (0.001, 0.01, 0.1):
        yield clf.clamp(x + share * width * noise)


def recheck(clf: Classifier, tables: Tables, y: Tensor) -> TrustCheck:
    """Every stored example is classified again, in batches of another size."""
    wrong = checked = 0
    with clf.session():
        found: list[AttackTable | ManifoldTable] = [
            *tables.attacks.values(),
            *tables.on_manifold.values(),
        ]
        for attack in found:
            points = torch.tensor(attack.points, dtype=clf.dtype)
            parts = [clf.logits(p.to(clf.device)).argmax(dim=1) for p in torch.split(points, BATCH)]
            counted = torch.tensor(attack.success, device=y.device)
            wrong += int((counted & (torch.cat(parts) == y)).sum())
            checked += int(counted.sum())
    return TrustCheck(
        check="Stored examples are misclassified",
        passed=wrong == 0,
        detail=f"{wrong} of {checked} are decided as labelled when classified again",
    )


def recheck_logits(
    clf: Classifier, config: AuditConfig, tables: Tables, paths: PathTable | None
) -> TrustCheck:
    """Every stored example of invariance and point of a path is evaluated again, as `recheck`."""
    wrong = checked = 0
    shape = tables.inputs.shape[1:]
    row_of = {int(index): row for row, index in enumerate(tables.index)}
    for name, pairs in tables.invariance.items():
        method = config.methods[name].build()
        assert isinstance(method, Inversion)
        points, wanted = pairs.points[pairs.success], tables.inputs[pairs.success]
        if paths is not None and paths.method == name:
            starts = tables.inputs[[row_of[int(index)] for index in paths.index]]
            starts = np.repeat(starts, paths.points.shape[1], axis=0)
            points = np.concatenate([points, paths.points.reshape(-1, *shape)])
            wanted = np.concatenate([wanted, starts])
        part = features_of(clf, shape, layer=method.layer, up_to_shift=method.up_to_shift)
        wrong += _different(part, points, wanted, method.tolerance)
        checked += len(points)
    return TrustCheck(
        check="Stored examples have the logits of their samples",
        passed=wrong == 0,
        detail=f"{wrong} of {checked} (points of paths included) have others when evaluated again",
    )


def _different(
    part: Classifier, x: NDArray[np.floating], y: NDArray[np.floating], tolerance: float
) -> int:
    """How many of the inputs x and y, one by one, have different features."""
    wrong = 0
    with part.session():
        for start in range(0, len(x), BATCH):
            rows = slice(start, start + BATCH)
            found, wanted = (
                part.logits(torch.tensor(z[rows], dtype=part.dtype).to(part.device)) for z in (x, y)
            )
            error = (found.double() - wanted.double()).square().mean(dim=1).sqrt()
            rounding = ULPS * torch.finfo(part.dtype).eps * wanted.abs().amax(dim=1).clamp(min=1.0)
            wrong += int((~(error <= tolerance**0.5 + rounding)).sum())  # NaN differs
    return wrong


def table_checks(tables: Tables) -> list[TrustCheck]:
    """Checks of the results against each other."""
    right = tables.right
    checks = []
    if tables.certificates:
        beyond = int((tables.radius > tables.distance)[right].sum())
        checks.append(
            TrustCheck(
                check="No certificate exceeds an attack's distance",
                passed=beyond == 0,
                detail=f"{beyond} samples have an example inside their certified radius",
            )
        )
    cheap = [a.distance for name, a in tables.attacks.items() if name in SINGLE_STEP]
    strong = [a.distance for name, a in tables.attacks.items() if name not in SINGLE_STEP]
    if cheap and strong and right.any():
        nearest_cheap, nearest = (
            torch.tensor([list(d) for d in group]).amin(dim=0) for group in (cheap, strong)
        )
        share = float((nearest_cheap < CLEARLY * nearest)[torch.from_numpy(right)].double().mean())
        checks.append(
            TrustCheck(
                check="Iterative attacks beat single steps",
                passed=share <= 0.1,
                detail=f"a single gradient step found a nearer example on {share:.1%} of the "
                "samples; many suggest masked gradients",
            )
        )
    if tables.attacks and right.any():
        missed = float((~tables.found)[right].mean())
        checks.append(
            TrustCheck(
                check="Some attack succeeds on every sample",
                passed=missed <= FEW,
                detail=f"no attack succeeded on {missed:.1%} of the samples: their distances are "
                "unknown, not infinite",
            )
        )
    chance = 1.0 / max(2, len(tables.classes))
    checks.append(
        TrustCheck(
            check="The labels fit the model",
            passed=tables.accuracy > min(1.5 * chance, 0.9),
            detail=f"{tables.accuracy:.1%} of the samples are classified as labelled",
        )
    )
    return checks
