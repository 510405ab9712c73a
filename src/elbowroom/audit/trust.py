"""Checks that the measurement itself can be trusted; shown on every page.

The first ones are those of AutoAttack (Croce and Hein 2020, its `checks.py`): a randomised
model, probabilities instead of logits and vanishing gradients make attacks look weak and models
strong. The others check this library's own results.
"""

from __future__ import annotations

import torch
from torch import Tensor

from elbowroom.audit.config import why_uncertified
from elbowroom.audit.summary import TrustCheck
from elbowroom.audit.tables import Tables
from elbowroom.classifier import Classifier
from elbowroom.goals import Misclassified
from elbowroom.norms import Norm

SINGLE_STEP = ("fgs", "fgv")
FEW = 0.01  # of the samples: below it, a finding is an oddity and not a failure


def model_checks(clf: Classifier, x: Tensor, y: Tensor, norm: Norm) -> list[TrustCheck]:
    """Checks that need the model. x `(N, *shape)`: the samples measured, as one batch."""
    uncovered = why_uncertified(clf, x, norm)
    was_training = clf.network.training
    with clf.session():
        logits, again = clf.logits(x), clf.logits(x)
        difference = float((logits - again).abs().max())
        _, slope = clf.gradient(x, Misclassified(y).margin)
        _, loss_slope = clf.gradient(x, Misclassified(y).loss)
    flat, loss_flat = (
        float((g.flatten(1) == 0).all(dim=1).double().mean()) for g in (slope, loss_slope)
    )
    sums = logits.sum(dim=1)
    probabilities = bool((logits >= 0).all()) and bool((sums - 1).abs().max() < 1e-4)
    return [
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


def recheck(clf: Classifier, tables: Tables, y: Tensor) -> TrustCheck:
    """Every stored example is classified again, in one batch of another size."""
    wrong = checked = 0
    with clf.session():
        for attack in tables.attacks.values():
            points = torch.tensor(attack.points, device=clf.device, dtype=clf.dtype)
            flipped = clf.logits(points).argmax(dim=1) != y
            counted = torch.tensor(attack.success, device=y.device)
            wrong += int((counted & ~flipped).sum())
            checked += int(counted.sum())
    return TrustCheck(
        check="Stored examples are misclassified",
        passed=wrong == 0,
        detail=f"{wrong} of {checked} are decided as labelled when classified again",
    )


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
        share = float((nearest_cheap < nearest)[torch.from_numpy(right)].double().mean())
        checks.append(
            TrustCheck(
                check="Iterative attacks beat single steps",
                passed=share <= 0.1,
                detail=f"a single gradient step found a nearer example on {share:.1%} of the "
                "samples; many suggest masked gradients",
            )
        )
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
