"""Invariance by class: the matrix of the class whose logits are reached and that of the image."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from elbowroom.audit.summary import ClassPair, Summary

MOST_CLASSES = 20
FAINTEST, STRONGEST = 6, 46  # percent of colour: figures stay readable on all of it


@dataclass(frozen=True)
class Cell:
    """`heat`: percent of colour, the more the smaller the distance."""

    pair: ClassPair
    heat: int


@dataclass(frozen=True)
class Matrix:
    """A row per class of the logits, a column per class of the image; None where there is no pair.

    omitted: classes that are not shown, those with the fewest pairs.
    """

    classes: list[str]
    rows: list[tuple[str, list[Cell | None]]]
    omitted: int


def matrix(summary: Summary) -> Matrix | None:
    """None where there are no pairs."""
    pairs = summary.invariance.by_class if summary.invariance else []
    if not pairs:
        return None
    count: Counter[str] = Counter()
    for pair in pairs:
        count[pair.logits] += pair.pairs
        count[pair.image] += pair.pairs
    most = {label for label, _ in count.most_common(MOST_CLASSES)}
    classes = [label for label in summary.data.classes if label in most]
    cells = {(pair.logits, pair.image): pair for pair in pairs}
    shown = [cells[key] for key in cells if most.issuperset(key)]
    known = [pair.median_distance for pair in shown if pair.median_distance is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)

    def cell(logits: str, image: str) -> Cell | None:
        pair = cells.get((logits, image))
        if pair is None:
            return None
        if pair.median_distance is None:
            return Cell(pair, 0)
        nearness = (high - pair.median_distance) / (high - low) if high > low else 0.5
        return Cell(pair, round(FAINTEST + (STRONGEST - FAINTEST) * nearness))

    rows = [(logits, [cell(logits, image) for image in classes]) for logits in classes]
    return Matrix(classes, rows, omitted=len(count) - len(classes))
