"""The gallery: what each example shows, as pictures or, for plain features, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from elbowroom.audit.gallery import (
    Exhibits,
    InvarianceExample,
    OnManifoldExample,
    SensitivityExample,
)
from elbowroom.report.figures import number
from elbowroom.report.pictures import Array, Picture, difference, is_picture, picture

MOST_FEATURES = 8
MOST_LOGITS = 10


@dataclass(frozen=True)
class Bar:
    """A horizontal bar in percent of its cell's width."""

    start: float
    width: float
    rising: bool


@dataclass(frozen=True)
class FeatureRow:
    name: str
    values: list[str]
    change: str
    bar: Bar


@dataclass(frozen=True)
class Features:
    """The features that changed most, largest first, out of `total`."""

    headings: list[str]
    rows: list[FeatureRow]
    total: int


@dataclass(frozen=True)
class LogitRow:
    label: str
    target: str
    example: str
    target_bar: Bar
    example_bar: Bar


@dataclass(frozen=True)
class SensitivityView:
    found: SensitivityExample
    pictures: list[Picture]
    features: Features | None


@dataclass(frozen=True)
class OnManifoldView:
    found: OnManifoldExample
    pictures: list[Picture]
    features: Features | None


@dataclass(frozen=True)
class InvarianceView:
    found: InvarianceExample
    pictures: list[Picture]
    features: Features | None
    logits: list[LogitRow]
    omitted: int
    decision: str
    between: float


def sensitivity_views(exhibits: Exhibits, norm: str) -> list[SensitivityView]:
    views = []
    for found in exhibits.sensitivity_examples:
        words = f"moved by {number(found.distance)} ({norm})"
        views.append(SensitivityView(found, *_before_and_after(found, exhibits, "moved", words)))
    return views


def on_manifold_views(exhibits: Exhibits) -> list[OnManifoldView]:
    role = "moved along the manifold"
    return [
        OnManifoldView(found, *_before_and_after(found, exhibits, role, role))
        for found in exhibits.on_manifold_examples
    ]


def _before_and_after(
    found: SensitivityExample | OnManifoldExample, exhibits: Exhibits, role: str, words: str
) -> tuple[list[Picture], Features | None]:
    """Original, example and change as pictures, or as a table where they are none.

    role: of the example, below its picture. words: how it was moved.
    """
    original, moved = found.original, found.adversarial
    if not is_picture(original.shape):
        columns = [("original", original), ("moved", moved)]
        return [], feature_table(columns, original, moved)
    name, bounds = f"sample {found.index}", exhibits.bounds
    change = f"{name}: what was changed, blue for less, red for more"
    return [
        picture(original, bounds, f"{name}: {found.label}", "original"),
        picture(moved, bounds, f"{name}, {words}: decided as {found.decision}", role),
        difference(original, moved, change),
    ], None


def invariance_views(exhibits: Exhibits, classes: list[str]) -> list[InvarianceView]:
    views = []
    for found in exhibits.invariance_examples:
        pictures: list[Picture] = []
        features = None
        if is_picture(found.target.shape):
            name, bounds = f"sample {found.index}", exhibits.bounds
            result = f"the other sample, moved by {number(found.distance)} (L2)"
            pictures = [
                picture(found.target, bounds, f"{name}: {found.target_label}", "target"),
                picture(
                    found.toward, bounds, f"another sample: {found.toward_label}", "other sample"
                ),
                picture(found.example, bounds, f"{result}: has the logits of {name}", "result"),
            ]
        else:
            columns = [
                ("target", found.target),
                ("other sample", found.toward),
                ("result", found.example),
            ]
            features = feature_table(columns, found.toward, found.example)
        logits = logit_rows(found.target_logits, found.example_logits, classes)
        views.append(
            InvarianceView(
                found,
                pictures,
                features,
                logits,
                omitted=len(found.target_logits) - len(logits),
                decision=_name(classes, int(found.example_logits.argmax())),
                between=float(np.linalg.norm(found.target - found.toward)),
            )
        )
    return views


def feature_table(columns: list[tuple[str, Array]], before: Array, after: Array) -> Features:
    """The features of `columns` (heading, values) that changed most from `before` to `after`."""
    change = (after.astype(np.float64) - before.astype(np.float64)).ravel()
    scale = float(np.abs(change).max(initial=0.0)) or 1.0
    order = np.argsort(-np.abs(change), kind="stable")[:MOST_FEATURES]
    rows = [
        FeatureRow(
            name=str(feature),
            values=[number(float(values.ravel()[feature])) for _, values in columns],
            change=number(float(change[feature])),
            bar=_bar(float(change[feature]), -scale, scale),
        )
        for feature in order
    ]
    return Features([heading for heading, _ in columns], rows, total=change.size)


def logit_rows(target: Array, example: Array, classes: Sequence[str]) -> list[LogitRow]:
    """The classes in their order; of many, those with the largest logits."""
    shown: NDArray[np.intp] = np.arange(len(target))
    if len(target) > MOST_LOGITS:
        shown = np.sort(np.argsort(-np.maximum(target, example), kind="stable")[:MOST_LOGITS])
    both = np.concatenate([target[shown], example[shown], np.zeros(1, np.float32)])
    low, high = float(both.min()), float(both.max())
    return [
        LogitRow(
            label=_name(classes, int(k)),
            target=number(float(target[k])),
            example=number(float(example[k])),
            target_bar=_bar(float(target[k]), low, high),
            example_bar=_bar(float(example[k]), low, high),
        )
        for k in shown
    ]


def _name(classes: Sequence[str], index: int) -> str:
    return classes[index] if index < len(classes) else str(index)


def _bar(value: float, low: float, high: float) -> Bar:
    """From zero to `value` on a cell that spans `low` to `high`."""
    span = (high - low) or 1.0
    start, end = (min(value, 0.0) - low) / span, (max(value, 0.0) - low) / span
    return Bar(round(100 * start, 1), round(100 * (end - start), 1), rising=value >= 0)
