"""The answers at the top of the page, in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from elbowroom.audit.gallery import Exhibits
from elbowroom.audit.summary import OnManifold, Summary
from elbowroom.report.figures import count, number, percent, unit


@dataclass(frozen=True)
class Answer:
    """One question, its figure with unit, and what the figure says.

    key: names the colour; the same one as in the charts.
    figure: None where there is nothing to state; `sentences` then say why.
    beside: what to compare the figure with, in the same unit.
    """

    key: str
    question: str
    figure: str | None
    unit: str
    caption: str
    sentences: list[str]
    beside: str | None = None


def answers(summary: Summary, exhibits: Exhibits) -> list[Answer]:
    """Too sensitive, guaranteed, too invariant, and wrong on the manifold: in this order."""
    usual = [_sensitive(summary, exhibits), _guaranteed(summary, exhibits), _invariant(summary)]
    return [*usual, _on_manifold(summary.on_manifold)] if summary.on_manifold else usual


LEAVES = 0.9  # of the move: what counts as leaving the manifold
NOTHING_RIGHT = "No sample is classified rightly, so there is no right decision to change."


def _sensitive(summary: Summary, exhibits: Exhibits) -> Answer:
    median = summary.sensitivity.median_attacked
    failed, total = int(np.isinf(exhibits.attacked).sum()), len(exhibits.attacked)
    sentences = []
    if total == 0:
        sentences.append(NOTHING_RIGHT)
    elif median is None:
        sentences.append(
            "For most of the rightly classified samples no attack found an input that is "
            "decided otherwise. That is no proof that there is none."
        )
    else:
        sentences.append(
            "Half of the rightly classified samples are decided otherwise after a move this "
            "small or smaller. The nearest such input may be nearer still."
        )
        if summary.invariance and summary.sensitivity.norm == "L2":
            between = summary.invariance.median_between_images
            if between > 0:
                sentences.append(
                    f"For scale: it is {percent(median / between)} of the median distance between "
                    "two samples of different classes."
                )
    if failed:
        sentences.append(
            f"No attack succeeded on {count(failed)} of {count(total)} samples; "
            "they count as infinitely far."
        )
    return Answer(
        "attacked",
        "Too sensitive?",
        None if median is None else number(median),
        unit(summary.sensitivity.norm),
        "median distance of the nearest example found: an upper bound",
        sentences,
    )


def _guaranteed(summary: Summary, exhibits: Exhibits) -> Answer:
    median, upper = summary.sensitivity.median_certified, summary.sensitivity.median_attacked
    if len(exhibits.certified) == 0:
        sentences = [NOTHING_RIGHT]
    elif median is None:
        sentences = ["No certificate was computed: nothing is guaranteed, however small the move."]
    elif median == 0:
        sentences = ["For at least half of the rightly classified samples nothing is guaranteed."]
    else:
        sentences = [
            "Half of the rightly classified samples provably keep their decision within this "
            "radius: nothing nearer can change it."
        ]
    if median is not None and upper is not None:
        sentences.append(
            f"The true median distance lies between {number(median)} and {number(upper)}."
        )
    return Answer(
        "certified",
        "What is guaranteed?",
        None if median is None else number(median),
        unit(summary.sensitivity.norm),
        "median certified radius: a lower bound",
        sentences,
    )


def _invariant(summary: Summary) -> Answer:
    found = summary.invariance
    if found is None:
        sentences = ["Invariance was not measured."]
    elif found.pairs == 0:
        sentences = ["There was no pair of samples of different classes to measure."]
    else:
        apart = number(found.median_between_images)
        sentences = [
            "Two samples of different classes are paired, and the one is moved until it has the "
            f"other's logits (class scores). They are {apart} apart (median)."
        ]
        if found.median_distance is None:
            sentences.append("For most pairs no such input was found; that is no proof of absence.")
        elif found.nearer_rate < 0.5:
            sentences.append("For most pairs nothing nearer than that was found.")
        elif found.median_between_images > 0:
            part = percent(found.median_distance / found.median_between_images)
            sentences.append(
                f"A move of {part} of that is enough. The smaller, the less the network notices."
            )
        if found.max_feature_mse is not None:
            sentences.append(
                "The logits agree up to a mean squared difference of "
                f"{number(found.max_feature_mse)} at most."
            )
        sentences.append(
            f"Something nearer was found for {percent(found.nearer_rate)} of "
            f"{_pairs(found.pairs)}; for the others the whole distance counts."
        )
    median = found.median_distance if found else None
    between = number(found.median_between_images) if found and found.pairs else None
    return Answer(
        "invariance",
        "Too invariant?",
        None if median is None else number(median),
        unit("L2"),
        "median move that gives a random other sample the same logits, of the median distance "
        "between the two: an upper bound",
        sentences,
        beside=f"of {between}" if between and median is not None else None,
    )


def _on_manifold(found: OnManifold) -> Answer:
    sentences = []
    if found.success_rate is None:
        sentences.append("No sample is classified rightly as the decoder has it.")
    else:
        assert found.lower is not None
        assert found.upper is not None
        sentences.append(
            "So many samples are decided otherwise after a move of their latent code, to an input "
            "as the data have them. As far as the decoder keeps the label, these are "
            "generalisation errors: more or better data help."
            if found.success_rate > 0
            else "No sample is decided otherwise after a move of its latent code that was tried. "
            "That is no proof that there is none."
        )
        sentences.append(
            f"95 % interval: {percent(found.lower)} to {percent(found.upper)}, of the "
            f"{count(found.samples)} samples that are classified rightly as they are and as the "
            "decoder has them."
        )
    if found.median_off_manifold is not None and found.median_ratio is None:
        own = number(found.median_samples_off_manifold)
        sentences.append(
            f"The nearest examples of the other attacks lie {number(found.median_off_manifold)} L2 "
            f"off the manifold, their samples {own} (medians): this decoder is too coarse to tell "
            "whether they leave it."
        )
    elif found.median_off_manifold is not None:
        sentences.append(
            f"The nearest examples of the other attacks lie {number(found.median_off_manifold)} L2 "
            f"off the manifold, {percent(found.median_ratio)} of how far they moved (medians): "
            + (
                "they leave it almost at right angles and are no inputs that the data have."
                if (found.median_ratio or 0.0) >= LEAVES
                else "a good part of their move is along it."
            )
        )
    return Answer(
        "manifold",
        "Wrong on real inputs?",
        None if found.success_rate is None else percent(found.success_rate),
        "of the rightly classified samples",
        f"have an example on the manifold ({found.decoder}): a lower bound",
        sentences,
    )


def _pairs(pairs: int) -> str:
    return f"{count(pairs)} pair" if pairs == 1 else f"{count(pairs)} pairs"
