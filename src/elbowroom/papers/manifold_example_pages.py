"""On-manifold examples as a page: original, example, and what changed (Manifold, Fig. 2 and 11)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from elbowroom.papers.inversion_pages import decision
from elbowroom.papers.page import About, Figure, Strip, frame, render
from elbowroom.report.figures import count, number

MOST_STRIPS = 50


@dataclass(frozen=True)
class Moved:
    """One sample and what an attack made of it.

    sample, example: of a sample's shape; `example` is None where the attack failed.
    logits:          `(K,)`, of both. change: of the latent code, `(k,)`.
    """

    number: int
    label: int
    sample: Tensor
    example: Tensor | None
    logits: tuple[Tensor, Tensor]
    change: Tensor
    latent_distance: float
    distance: float


def manifold_page(
    moved: Sequence[Moved],
    about: About,
    *,
    method: str,
    norm: str,
    captions: Sequence[str],
    names: Sequence[str],
    scale: tuple[float, float],
) -> str:
    """A strip of each example found, of the first `MOST_STRIPS`.

    names: of the latent dimensions, as far as they have any. captions: the rates, in sentences.
    """
    found = [one for one in moved if one.example is not None]
    shown = found[:MOST_STRIPS]
    below = list(captions)
    if len(found) > len(shown):
        below.append(f"The first {len(shown)} of {count(len(found))} examples are shown.")
    figure = Figure(
        name="On the manifold",
        title=f"{method}, latent codes moved in {norm}",
        lede="Each example is decoded from a latent code near that of the image beside it, so that "
        "it is an input as the data have them. The network is wrong there: a generalisation "
        "error, and no trick of pixels.",
        captions=below,
        strips=[_strip(one, about, norm, names, scale) for one in shown],
    )
    return render(figure, about)


def _strip(
    one: Moved, about: About, norm: str, names: Sequence[str], scale: tuple[float, float]
) -> Strip:
    assert one.example is not None
    before, after = (decision(about, logits) for logits in one.logits)
    lines = [f"code {norm} {number(one.latent_distance)}", f"image L2 {number(one.distance)}"]
    frames = [
        frame(one.sample, scale, role="original", label=before, lines=[]),
        frame(
            one.example,
            scale,
            role="example",
            label=after,
            lines=lines,
            change=(one.sample, one.example),
        ),
    ]
    notes = []
    if len(names) == len(one.change):
        moves = zip(names, one.change.tolist(), strict=True)
        notes.append("Changes: " + ", ".join(f"{name} {value:+.3g}" for name, value in moves) + ".")
    return Strip.of(f"Sample {one.number} ({about.label(one.label)})", frames, notes)


def samples_page(samples: Sequence[tuple[int | None, Tensor]], about: About) -> str:
    """Random samples `(N, *shape)` of each class, or of all (None) (Fig. 9)."""
    figure = Figure(
        name="Samples of a manifold",
        title="random latent codes, decoded",
        lede="Each image is decoded from a random latent code. What cannot be read here is no "
        "input of the class, and attacks along this manifold would find it.",
        strips=[
            Strip.of(
                "All classes" if label is None else f"Class {about.label(label)}",
                [frame(image, (0.0, 1.0), role="", label="", lines=[]) for image in images],
            )
            for label, images in samples
        ],
    )
    return render(figure, about)
