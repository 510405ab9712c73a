"""Pages of pictures: examples on and off the manifold, and samples of it (Manifold, Fig. 2, 9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from elbowroom.papers.inversion_pages import decision
from elbowroom.papers.manifold_samples import Quality
from elbowroom.papers.page import About, Figure, Strip, Table, frame, render
from elbowroom.report.figures import count, number, percent

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


@dataclass(frozen=True)
class Example:
    """An example as an image, what it is decided as, and its L2 distance from the sample."""

    image: Tensor
    decision: int
    distance: float


@dataclass(frozen=True)
class Both:
    """One sample and its examples of both kinds, None where an attack failed."""

    number: int
    label: int
    sample: Tensor
    regular: Example | None
    on_manifold: Example | None


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


def both_page(
    found: Sequence[Both], about: About, *, captions: Sequence[str], scale: tuple[float, float]
) -> str:
    """A regular example and one on the manifold of each sample, as in Fig. 2, 11, 17 and 21."""
    figure = Figure(
        name="Manifold, Fig. 2",
        title="two ways to be wrong",
        lede="Regular examples change pixels and look like noise; examples on the manifold change "
        "what the data vary in, and look like other images of the data.",
        captions=[*captions, "Changes are drawn from blue (less) to red (more), each to its size."],
        strips=[_both_strip(one, about, scale) for one in found],
    )
    return render(figure, about)


def _both_strip(one: Both, about: About, scale: tuple[float, float]) -> Strip:
    frames = [frame(one.sample, scale, role="original", label=about.label(one.label), lines=[])]
    for role, example in (("regular", one.regular), ("on the manifold", one.on_manifold)):
        if example is not None:
            frames.append(
                frame(
                    example.image,
                    scale,
                    role=role,
                    label=about.label(example.decision),
                    lines=[f"L2 {number(example.distance)}"],
                    change=(one.sample, example.image),
                )
            )
    missing = "" if len(frames) == 3 else ": one of the attacks found nothing"
    return Strip.of(f"Sample {one.number}{missing}", frames)


def quality_page(found: Quality, about: About) -> str:
    """Random samples of each class, reconstructions, and how many are recognised (Fig. 9)."""
    rows = [
        (
            about.label(label),
            [percent(one.value), f"{percent(one.lower)} to {percent(one.upper)}"],
        )
        for label, one in found.recognised.items()
    ]
    title = "Random samples that a held-out network gives their class"
    tables = [Table(title, "class", ("share", "95 % interval"), rows)]
    figure = Figure(
        name="Manifold, Fig. 9",
        title="what a learned manifold takes for real",
        lede="Random latent codes, decoded; and test images with what the manifold has nearest to "
        "their codes. Attacks along the manifold are as good as these.",
        captions=quality_sentences(found),
        strips=[
            Strip.of(
                "Random samples of all classes"
                if label is None
                else f"Random samples of class {about.label(label)}",
                [frame(image, (0.0, 1.0), role="", label="", lines=[]) for image in images],
            )
            for label, images in found.samples
        ]
        + [
            Strip.of(title, [frame(x, (0.0, 1.0), role="", label="", lines=[]) for x in images])
            for title, images in zip(("Test images", "Reconstructed"), found.images, strict=True)
        ],
        tables=tables if rows else [],
        last=None,
    )
    return render(figure, about)


def quality_sentences(found: Quality) -> list[str]:
    """What `quality` found, in words."""
    said = []
    if found.recognised:
        worst = min(found.recognised.items(), key=lambda item: item[1].value)
        all_ = sum(one.hits for one in found.recognised.values())
        count_ = sum(one.count for one in found.recognised.values())
        said.append(
            f"A held-out network, right on {percent(found.accuracy.value)} of the test images, "
            f"gives {percent(all_ / count_)} of the random samples their class; the fewest of "
            f"class number {worst[0]}, {percent(worst[1].value)}."
        )
    return [
        *said,
        f"It gives {percent(found.reconstructed.value)} of the reconstructed test images their "
        f"class. Their mean SSIM is {number(float(found.similarity.mean()))}.",
    ]


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
