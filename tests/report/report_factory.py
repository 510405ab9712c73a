"""Summaries and exhibits as an audit would make them, from drawn numbers."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from elbowroom.audit.gallery import Exhibits, InvarianceExample, PathExample, SensitivityExample
from elbowroom.audit.summary import (
    AttackSummary,
    ClassPair,
    ClassSummary,
    CurvePoint,
    DataSummary,
    Invariance,
    InversionSummary,
    MethodCost,
    ModelSummary,
    Sensitivity,
    Summary,
    TrustCheck,
)

RIGHT = 117
SAMPLES = 120


def median(values: np.ndarray) -> float | None:
    found = float(np.median(values)) if len(values) else float("inf")
    return found if np.isfinite(found) else None


def make_exhibits(
    shape: tuple[int, ...] = (1, 12, 12),
    classes: list[str] | None = None,
    right: int = RIGHT,
    failed: int = 6,
    zeros: int = 4,
    examples: int = 3,
    images: np.ndarray | None = None,
    paths: int = 2,
) -> Exhibits:
    """`failed` attacks out of `right`, `zeros` certified radii of 0, `examples` of each kind, and
    `paths` of some of them, with four points.
    """
    rng = np.random.default_rng(0)
    classes = classes or [*"ABCDEFGHIJ"]
    if images is None:
        images = rng.random((2 * examples, *shape))
    attacked = np.exp(rng.normal(-0.2, 0.5, right))
    certified = attacked / np.exp(rng.normal(4, 0.4, right))
    attacked[:failed] = np.inf
    certified[:zeros] = 0.0
    sensitivity, invariance = [], []
    for i in range(examples):
        original, other = (images[2 * i + k].astype(np.float32) for k in (0, 1))
        step = rng.normal(0, 0.05, shape).astype(np.float32)
        adversarial = np.clip(original + step, 0, 1)
        sensitivity.append(
            SensitivityExample(
                index=10 + i,
                original=original,
                label=classes[2 * i % len(classes)],
                adversarial=adversarial,
                decision=classes[(2 * i + 3) % len(classes)],
                distance=float(np.linalg.norm(adversarial - original)),
                radius=0.0123 * i,
                method="DDN",
            )
        )
        logits = rng.normal(0, 4, len(classes)).astype(np.float32)
        example = np.clip(other + rng.normal(0, 0.08, shape), 0, 1).astype(np.float32)
        invariance.append(
            InvarianceExample(
                index=10 + i,
                target=original,
                target_label=classes[2 * i % len(classes)],
                toward=other,
                toward_label=classes[(2 * i + 1) % len(classes)],
                example=example,
                distance=float(np.linalg.norm(example - other)),
                feature_mse=3.21e-7,
                target_logits=logits,
                example_logits=logits + 1e-3,
            )
        )
    walks = []
    for found in invariance[:paths]:
        shares = np.linspace(0, 0.6, 4).reshape(-1, *[1] * len(shape))
        points = ((1 - shares) * found.target + shares * found.toward).astype(np.float32)
        apart = (points - found.toward).reshape(len(points), -1)
        walks.append(
            PathExample(
                index=found.index,
                label=found.target_label,
                toward_label=found.toward_label,
                points=points,
                distance=np.linalg.norm(apart.astype(np.float64), axis=1),
                decisions=[found.target_label] * len(points),
                feature_mse=np.array([0.0, 1.23e-12, 4.56e-12, 7.89e-12]),
                nearest=found.distance,
            )
        )
    return Exhibits(
        bounds=(0.0, 1.0),
        attacked=attacked,
        certified=certified,
        invariance=np.exp(rng.normal(0.6, 0.3, max(right - 3, 0))),
        sensitivity_examples=sensitivity,
        invariance_examples=invariance,
        paths=walks,
    )


def make_pairs(classes: list[str]) -> list[ClassPair]:
    """Of every two classes that are not neighbours; the first and the last one without success."""
    return [
        ClassPair(
            logits=logits,
            image=image,
            pairs=1 + (i + k) % 4,
            median_distance=None if (i, k) == (0, len(classes) - 1) else 1.0 + i / 7 + k / 31,
        )
        for i, logits in enumerate(classes)
        for k, image in enumerate(classes)
        if abs(i - k) > 1
    ]


def make_summary(
    exhibits: Exhibits,
    *,
    shape: tuple[int, ...] = (1, 12, 12),
    classes: list[str] | None = None,
    samples: int = SAMPLES,
    failing: int = 0,
    norm: str = "L2",
    with_certificate: bool = True,
    with_invariance: bool = True,
    **fields: Any,
) -> Summary:
    """The summary that belongs to `exhibits`; `fields` replace those of the result."""
    classes = classes or [*"ABCDEFGHIJ"]
    right = len(exhibits.attacked)
    certified = exhibits.certified if with_certificate else np.zeros(right)
    curve = [
        CurvePoint(
            eps=float(eps),
            certified=float((certified >= eps).sum() / samples),
            attacked=float((exhibits.attacked > eps).sum() / samples),
        )
        for eps in np.linspace(0, 3, 61)
    ]
    attacks = [
        AttackSummary(
            method=method,
            success_rate=float(np.isfinite(exhibits.attacked).mean()) if right else 0.0,
            median=median(exhibits.attacked),
            mean=1.2345 if np.isfinite(exhibits.attacked).any() else None,
            best_on=share,
        )
        for method, share in [("DDN", 0.6), ("CarliniWagner", 0.4)]
    ]
    kinds: list[tuple[str, Literal["attack", "certificate", "invariance"]]] = [
        ("DDN", "attack"),
        ("Lipschitz", "certificate"),
        ("PreimageDescent", "invariance"),
    ]
    invariance = Invariance(
        method="PreimageDescent",
        pairs=right,
        nearer_rate=len(exhibits.invariance) / max(right, 1),
        tolerance=1e-4,
        median_distance=median(exhibits.invariance),
        median_distance_linf=0.2345,
        median_between_images=9.8765,
        max_feature_mse=9.87e-5,
        inversions=[
            InversionSummary(
                method=method,
                nearer_rate=0.9,
                tolerance=1e-4,
                median_distance=distance,
                best_on=best_on,
                max_feature_mse=9.87e-5,
            )
            for method, distance, best_on in [("descent", 2.468, 0.75), ("adam", None, 0.25)]
        ],
        by_class=make_pairs(classes),
    )
    content: dict[str, Any] = {
        "elbowroom": "0.1.0",
        "config": "c0ffee" * 8,
        "seed": 7,
        "model": ModelSummary(
            name="small-cnn", dtype="float32", fingerprint="ab12" * 16, parameters=123456
        ),
        "data": DataSummary(
            name="fonts",
            split="test",
            source="letters of free fonts",
            classes=classes,
            shape=list(shape),
            fingerprint="cd34" * 16,
        ),
        "samples": samples,
        "clean_accuracy": right / samples,
        "sensitivity": Sensitivity(
            norm=norm,
            median_attacked=median(exhibits.attacked),
            median_certified=median(certified) if with_certificate else None,
            curve=curve if right else [],
            attacks=attacks,
        ),
        "invariance": invariance if with_invariance else None,
        "classes": [
            ClassSummary(
                label=label,
                samples=12 + k,
                clean_accuracy=1 - k / 300,
                median_attacked=0.5 + k / 97,
                median_certified=0.01 + k / 9700 if with_certificate else None,
                median_invariance=1.5 + k / 97 if with_invariance else None,
            )
            for k, label in enumerate(classes)
        ],
        "cost": {
            method: MethodCost(
                kind=kind, forward=101.0, backward=100.0, jvp=0, vjp=0.5, seconds=0.0321
            )
            for method, kind in kinds
        },
        "trust": [
            TrustCheck(
                check=f"check {i}",
                passed=i >= failing,
                detail=f"detail of check {i}: the largest relative difference was 1.2e-7",
            )
            for i in range(5)
        ],
    }
    return Summary(**(content | fields))
