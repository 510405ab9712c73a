"""Table 1 and Fig. 2, 4 to 7 and 9 of the NSPGD paper, as numbers, for any classifier and data.

Balasubramanian, Sriramanan and Sadasivan, "Are neural networks excessively invariant?", sections
4 and 6; `nspgd_pages` draws them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.invariance.equi_confidence import EquiConfidence, EquiConfidenceResult
from elbowroom.invariance.nspgd import NSPGD
from elbowroom.invariance.null_space_step import NullSpaceStep
from elbowroom.results import NullSpaceResult, NullSpaceStepResult

#: Table 1: success rates of NSPGD averaged over classes, by data set and training (normal,
#: adversarial, multi-threat adversarial, confidence-calibrated); ResNet-18, LPIPS below 0.03.
TABLE_1: dict[str, dict[str, float]] = {
    "cifar10": {"normal": 0.9369, "at": 0.5839, "msd": 0.4478, "ccat": 0.1188},
    "mnist": {"normal": 0.8858, "at": 0.6826, "msd": 0.2145, "ccat": 0.0287},
}

#: How alike two batches of images are, `(N,)`, such as `SSIM().similarity`.
Similarity = Callable[[Tensor, Tensor], Tensor]
#: `advance(done, total)`, called after every batch of pairs.
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Transformed:
    """What NSPGD made of M pairs of a source and a target of another class.

    sources, targets: `(M,)`: their numbers among the samples given.
    classes:  `(M, 2)`: of the source, of the target; the classifier agrees with both.
    images:   `(M, *shape)`: where the walks ended. aims: the targets themselves.
    distance: `(M,)`, L2, and perceptual, similarity (None where no such measure was given):
              of both.
    confidence, confidence_start: `(M,)`: in the source's class, at the image and at the source.
    success:  `(M,)` bool; None without a perceptual distance.
    """

    sources: Tensor
    targets: Tensor
    classes: Tensor
    images: Tensor
    aims: Tensor
    distance: Tensor
    perceptual: Tensor | None
    similarity: Tensor | None
    confidence: Tensor
    confidence_start: Tensor
    success: Tensor | None


@dataclass(frozen=True)
class SuccessMatrix:
    """Fig. 6 and 7: how often each target image T is reached from the sources of a class.

    targets:        `(T,)`: numbers of the target images. target_classes: `(T,)`.
    source_classes: `(C,)`.
    rates:          `(T, C)`, float64; NaN where the source class is the target's own.
    """

    targets: Tensor
    target_classes: Tensor
    source_classes: Tensor
    rates: Tensor


@dataclass(frozen=True)
class Summary:
    """One entry of Table 1, and how near the walks ended.

    success:    mean of the success matrix.
    distance, similarity: mean and median over pairs, of the L2 distance and of the similarity
                measure; None without one.
    confidence: mean, in the source's class. pairs: how many.
    """

    success: float
    distance: tuple[float, float]
    similarity: tuple[float, float] | None
    confidence: float
    pairs: int


def transform(
    model: Classifier | nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    attack: NSPGD,
    targets: int = 10,
    sources: int = 10,
    seed: int = 0,
    batch: int = 100,
    similarity: Similarity | None = None,
    advance: Advance | None = None,
) -> Transformed:
    """Run NSPGD from source images to target images of all other classes (section 6).

    Of the samples `x` `(N, *shape)` that are classified as `y` (by default: of all), `targets` of
    each class are drawn as targets and `sources` of each class as sources; all there are where
    there are fewer. (The paper draws 10 targets of each class and does not say how many sources.)

    seed:  of the draws; those of a class do not depend on the other classes.
    batch: pairs at once.
    Raises `ValueError` where fewer than two classes have samples that are classified as labelled.
    """
    for name, value in (("targets", targets), ("sources", sources), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    clf = as_classifier(model)
    x, y = clf.validate(x, y)
    with clf.session():
        right = clf.logits(x).argmax(dim=1) == y
    aims, starts = (
        _drawn(y, right, count, seed, role) for role, count in enumerate((targets, sources))
    )
    if len(torch.unique(y[aims])) < 2:
        raise ValueError(
            "samples of two classes at least must be classified as labelled; take more of them"
        )
    rows, columns = (y[aims][:, None] != y[starts]).nonzero().unbind(dim=1)
    to, fro = aims[rows], starts[columns]
    parts: list[NullSpaceResult] = []
    alike: list[Tensor] = []
    for some in torch.split(torch.arange(len(to), device=x.device), batch):
        found = replace(attack, path_every=None)(clf, start=x[fro[some]], toward=x[to[some]])
        parts.append(found)
        if similarity is not None:
            alike.append(similarity(found.example, x[to[some]]).double())
        if advance is not None:
            advance(int(some[-1]) + 1, len(to))
    return Transformed(
        sources=fro,
        targets=to,
        classes=torch.stack([y[fro], y[to]], dim=1),
        images=torch.cat([part.example for part in parts]),
        aims=x[to],
        distance=torch.cat([part.distance for part in parts]),
        perceptual=_joined([part.perceptual for part in parts]),
        similarity=torch.cat(alike) if alike else None,
        confidence=torch.cat([part.confidence for part in parts]),
        confidence_start=torch.cat([part.confidence_start for part in parts]),
        success=_joined([part.success for part in parts]),
    )


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None


def _drawn(y: Tensor, right: Tensor, count: int, seed: int, role: int) -> Tensor:
    """Numbers of at most `count` samples of each class, those of the first class first."""
    chosen = []
    for label in torch.unique(y).tolist():
        members = (right & (y == label)).nonzero().squeeze(1)
        order = np.random.default_rng([seed, role, label]).permutation(len(members))[:count]
        chosen.append(members[torch.from_numpy(order).to(members.device)].sort().values)
    return torch.cat(chosen)


def success_matrix(found: Transformed) -> SuccessMatrix:
    """Fig. 6 and 7. Raises `ValueError` where nothing decides about success."""
    success = _decided(found)
    targets, rows = torch.unique(found.targets, return_inverse=True)
    labels = torch.zeros_like(targets).scatter(0, rows, found.classes[:, 1])
    order = labels.argsort(stable=True)
    classes, columns = torch.unique(found.classes[:, 0], return_inverse=True)
    cells = rows * len(classes) + columns
    hits = torch.zeros(len(targets) * len(classes), dtype=torch.float64, device=cells.device)
    tries = hits.index_add(0, cells, torch.ones_like(success))
    hits = hits.index_add(0, cells, success)
    rates = (hits / tries).view(len(targets), len(classes))  # 0 / 0 is NaN: a class's own
    return SuccessMatrix(targets[order], labels[order], classes, rates[order])


def table_1(found: Transformed) -> Summary:
    """One entry of Table 1: each target image and source class counts the same.

    Raises `ValueError` where nothing decides about success.
    """
    return Summary(
        success=float(success_matrix(found).rates.nanmean()),
        distance=_mean_and_median(found.distance),
        similarity=None if found.similarity is None else _mean_and_median(found.similarity),
        confidence=float(found.confidence.mean()),
        pairs=len(found.distance),
    )


def _decided(found: Transformed) -> Tensor:
    if found.success is None:
        raise ValueError(
            "success is a perceptual distance below a threshold: give the attack both, as in "
            "NSPGD(perceptual=..., threshold=...)"
        )
    return found.success.double()


def _mean_and_median(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(values.quantile(0.5))


def figure_5(
    model: Classifier | nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    attack: NSPGD,
    seed: int = 0,
    batch: int = 100,
    advance: Advance | None = None,
) -> Transformed:
    """Fig. 4 (CIFAR-10) and 5 (MNIST): from one image of each class to one of each other class."""
    return transform(
        model, x, y, attack=attack, targets=1, sources=1, seed=seed, batch=batch, advance=advance
    )


@dataclass(frozen=True)
class OneStep:
    """Fig. 2: a source, a target, and the source after one step in the null space, N of each."""

    start: Tensor
    toward: Tensor
    found: NullSpaceStepResult


def figure_2(
    model: Classifier | nn.Module, start: Tensor, toward: Tensor, *, step: NullSpaceStep
) -> OneStep:
    """One null space step of a two-layer network from `start` to `toward`, both `(N, *shape)`."""
    return OneStep(start, toward, step(model, start=start, toward=toward))


@dataclass(frozen=True)
class Widths:
    """Fig. 9: confidences around the paths of N walks.

    steps:  `(P,)`: at how many steps each place on the paths was kept; walks that ended earlier
            stay where they are.
    taken:  `(N,)`: steps of each walk.
    around: percentiles `(P, N, R, 2)` of the confidence in the source's class.
    """

    steps: Tensor
    taken: Tensor
    around: EquiConfidenceResult


def figure_9(
    model: Classifier | nn.Module,
    start: Tensor,
    toward: Tensor,
    *,
    attack: NSPGD,
    around: EquiConfidence,
    every: int = 10,
) -> Widths:
    """Percentiles of the confidence on spheres around every so many-th image of the paths."""
    clf = as_classifier(model)
    walk = replace(attack, path_every=every)(clf, start=start, toward=toward)
    assert walk.path is not None
    _, classes = clf.validate(start)
    steps = torch.arange(len(walk.path)) * every
    steps = steps.clamp(max=int(walk.steps.max()))
    return Widths(steps, walk.steps, around(clf, walk.path, classes))


def other_class(y: Tensor) -> Tensor:
    """`(N,)`: for each sample the number of the next one, cyclically, that is of another class.

    Raises `ValueError` where all labels `y` `(N,)` are equal.
    """
    if bool((y == y[0]).all()):
        raise ValueError("all samples are of one class: give more samples")
    count = len(y)
    ahead = (torch.arange(count)[:, None] + torch.arange(1, count)) % count
    differs = y.cpu()[ahead] != y.cpu()[:, None]
    return ahead.gather(1, differs.int().argmax(dim=1, keepdim=True)).squeeze(1).to(y.device)
