"""Inversions as a page: what was wanted, what it was to look like, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from elbowroom.papers.page import About, Figure, Frame, Logits, Strip, as_array, frame, render
from elbowroom.report.exhibits import feature_table
from elbowroom.report.figures import count, number, percent
from elbowroom.report.pictures import difference, is_picture

MOST_STRIPS = 50


@dataclass(frozen=True)
class Inverted:
    """One inversion; images have a sample's shape, logits are `(K,)`.

    start:       has the wanted features; None where these were given themselves.
    names:       of start (or None) and toward, in words.
    scores:      logits at start (those wanted; None where they are not known), at toward and at
                 the example.
    distance:    L2, success or not. feature_mse: of the example, to what was wanted.
    outcome:     of which kind the example is, in words.
    notes:       sentences below the images.
    """

    start: Tensor | None
    toward: Tensor
    example: Tensor
    names: tuple[str | None, str]
    scores: tuple[Tensor | None, Tensor, Tensor]
    distance: float
    distance_linf: float
    feature_mse: float
    outcome: str
    notes: Sequence[str] = ()


def inversion_page(
    shown: Sequence[Inverted],
    about: About,
    *,
    method: str,
    features: str,
    scale: tuple[float, float] = (0.0, 1.0),
) -> str:
    """A strip and the logits of each inversion, of the first `MOST_STRIPS`.

    method: by its name. features: what was to be the same, in words. scale: the values drawn black
    and white.
    """
    captions = [
        "Distances are to the image that the result was to look like, in the input's own units. "
        f"The feature MSE is the mean squared difference between {features} of the result and "
        "what was wanted."
    ]
    if len(shown) > MOST_STRIPS:
        captions.append(f"The first {MOST_STRIPS} of {count(len(shown))} inversions are shown.")
    given = shown[0].start is None
    source = "that were given" if given else "of the first image"
    look = "the image beside it" if given else "the second one"
    figure = Figure(
        name="Inversions",
        title=method,
        lede=f"Each result was to have {features} {source}, and to look like {look}. Where it does "
        "both, the network does not notice what a person sees.",
        captions=captions,
        strips=[_strip(one, about, scale) for one in shown[:MOST_STRIPS]],
    )
    return render(figure, about)


def _strip(one: Inverted, about: About, scale: tuple[float, float]) -> Strip:
    wanted, nearby, reached = one.scores
    frames: list[Frame] = []
    if one.start is not None and wanted is not None:
        role = f"target: {one.names[0]}"
        frames.append(frame(one.start, scale, role=role, label=decision(about, wanted), lines=[]))
    role = f"towards: {one.names[1]}"
    frames.append(frame(one.toward, scale, role=role, label=decision(about, nearby), lines=[]))
    lines = [
        f"L2 {number(one.distance)}",
        f"Linf {number(one.distance_linf)}",
        f"feature MSE {number(one.feature_mse)}",
    ]
    shown = frame(one.example, scale, role=one.outcome, label=decision(about, reached), lines=lines)
    frames.append(shown)
    features = None
    if not is_picture(tuple(one.toward.shape)):
        columns = [(shown.role, shown.values) for shown in frames]
        features = feature_table(columns, as_array(one.toward), as_array(one.example))
    else:
        frames.append(_difference(one))
    logits = None if wanted is None else Logits.of(wanted, reached, about.classes)
    source = "Given logits" if one.names[0] is None else f"From {one.names[0]}"
    return Strip(f"{source} towards {one.names[1]}", frames, one.notes, features, logits)


def _difference(one: Inverted) -> Frame:
    """Subtracted in float64: the smallest changes do not survive rounding to a picture."""
    change = as_array(one.example.double() - one.toward.double())
    alt = "what was changed, blue for less, red for more"
    shown = difference(np.zeros_like(change), change, alt)
    return Frame("difference of the two", shown.caption, [], change, shown)


def decision(about: About, logits: Tensor) -> str:
    """The class that logits `(K,)` decide for, and its softmax probability."""
    probabilities = torch.softmax(logits.double(), dim=0)
    most = int(probabilities.argmax())
    return f"{about.label(most)}, {percent(float(probabilities[most]))}"
