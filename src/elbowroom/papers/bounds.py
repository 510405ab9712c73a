"""Figure 2.5 of the Bounds thesis, for any classifier and data: iterated perturbations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbowroom.attacks import IterativePerturbation
from elbowroom.classifier import Classifier, as_classifier
from elbowroom.norms import Norm
from elbowroom.papers.page import About, Figure, Strip, frame, render
from elbowroom.report.figures import number, unit


@dataclass(frozen=True)
class Iterated:
    """Images X0, ..., Xn, each an adversarial perturbation of the one before.

    images:    `(n + 1, N, *shape)`; an image that cannot be perturbed further is repeated.
    decisions: `(n + 1, N)`: the class of each.
    steps:     `(n, N)`, float64: length of each perturbation, in `norm`.
    distances: `(n + 1, N)`, float64: how far each is from X0, in `norm`.
    """

    images: Tensor
    decisions: Tensor
    steps: Tensor
    distances: Tensor
    norm: Norm


def figure_2_5(
    model: Classifier | nn.Module,
    x: Tensor,
    *,
    attack: IterativePerturbation | None = None,
    count: int = 5,
) -> Iterated:
    """Perturb the samples `x` `(N, *shape)` `count` times in a row, across the nearest boundary.

    Bounds thesis, section 2.7 and Fig. 2.5: after the first one the perturbations shrink and the
    class alternates, as each only has to cross the same decision boundary again.
    """
    clf = as_classifier(model)
    x, _ = clf.validate(x)
    attack = attack or IterativePerturbation()
    images = torch.stack(list(attack.path(clf, x, count)))
    with clf.session():
        decisions = torch.stack([clf.logits(image).argmax(dim=1) for image in images])
    precise, length = images.double(), attack.norm.length
    return Iterated(
        images=images,
        decisions=decisions,
        steps=torch.stack([length(change) for change in precise.diff(dim=0)]),
        distances=torch.stack([length(image - precise[0]) for image in precise]),
        norm=attack.norm,
    )


def figure_2_5_page(
    found: Iterated,
    about: About,
    *,
    samples: Sequence[int] | None = None,
    scale: tuple[float, float] = (0.0, 1.0),
) -> str:
    """A strip for each sample, as in Fig. 2.5: images above, perturbations below.

    samples: their numbers; 0..N-1 by default. scale: the values drawn black and white.
    """
    strips = []
    for row, sample in enumerate(samples or range(found.images.shape[1])):
        images, labels = (
            found.images[:, row],
            [about.label(int(c)) for c in found.decisions[:, row]],
        )
        frames = []
        for place, image in enumerate(images):
            lines = [_moved(found, place, row)]
            change = (images[place - 1], image) if place else (image, images[-1])
            role = f"X{place}" if place else "X0, sample"
            frames.append(
                frame(image, scale, role=role, label=labels[place], lines=lines, change=change)
            )
        strips.append(Strip.of(f"Sample {sample}: {labels[0]}", frames))
    figure = Figure(
        name="Bounds thesis, Fig. 2.5",
        title="iterated perturbations",
        lede="Each image is the one before it after the smallest fast gradient step that changes "
        "the decision. The first step goes to the decision boundary; each later one only has to "
        "cross it again.",
        captions=[
            "Below each image is what was changed to make it, below the sample all changes "
            "together: blue for less, red for more, in full colour at the largest change. Lengths "
            f"are {unit(str(found.norm))}."
        ],
        strips=strips,
    )
    return render(figure, about)


def _moved(found: Iterated, place: int, row: int) -> str:
    """How far an image is from the one before; the sample, from the last."""
    if place == 0:
        return f"to the last: {number(float(found.distances[-1, row]))}"
    length = float(found.steps[place - 1, row])
    return f"moved by {number(length)}" if length else "no step found"
