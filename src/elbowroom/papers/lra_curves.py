"""Fig. 1 to 4 of the LRA paper, as numbers: how the attack progresses over linear regions.

Croce, Rauber and Hein, section 5.5; `lra_pages` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from elbowroom.attacks import LinearRegion
from elbowroom.attacks.starts import Starts
from elbowroom.classifier import Classifier
from elbowroom.goals import Goal, Misclassified
from elbowroom.norms import Norm
from elbowroom.papers.lra import NO_START, Advance, history, prepare
from elbowroom.sampling import SampleRng

# 0.5 is uniform sampling, as in the paper's predecessor (Croce and Hein 2018).
QS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
GAMMAS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0)


@dataclass(frozen=True)
class Curves:
    """Distances over the number of regions visited, as in Fig. 1 to 4: C curves, R + 1 points.

    names:     of the curves.
    samples:   `(N,)`: the samples they summarise, by number.
    distances: `(C, R + 1, N)`: of the nearest point so far; first of the starting points.
    """

    names: tuple[str, ...]
    samples: Tensor
    distances: Tensor
    norm: Norm

    @property
    def median(self) -> Tensor:
        """`(C, R + 1)`."""
        return self.distances.quantile(0.5, dim=2)

    @property
    def maximum(self) -> Tensor:
        """`(C, R + 1)`."""
        return self.distances.amax(dim=2)

    @property
    def mean(self) -> Tensor:
        """`(C, R + 1)`."""
        return self.distances.mean(dim=2)


def figure_1(
    model: Classifier | nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    attack: LinearRegion,
    qs: Sequence[float] = QS,
    advance: Advance | None = None,
) -> Curves:
    """Progress for several `q`, the share of regions sampled on the sample's side (Fig. 1 and 3).

    Fig. 1 has gamma 6 and MNIST, Fig. 3 gamma 9 and GTS.
    """
    names = {f"q = {q:g}" + (", uniform" if q == 0.5 else ""): replace(attack, q=q) for q in qs}
    return _curves(model, x, y, names, advance)


def figure_2(
    model: Classifier | nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    attack: LinearRegion,
    gammas: Sequence[float] = GAMMAS,
    advance: Advance | None = None,
) -> Curves:
    """Progress for several `gamma`, how near regions are sampled (Fig. 2 and, on GTS, 4)."""
    names = {f"gamma = {gamma:g}": replace(attack, gamma=gamma) for gamma in gammas}
    return _curves(model, x, y, names, advance)


@dataclass(frozen=True, kw_only=True)
class _Given(Starts):
    """Starting points `(N, count, *shape)` that are known already: all curves begin there."""

    points: Tensor

    def find(
        self, clf: Classifier, x: Tensor, goal: Goal, count: int, rng: SampleRng, norm: Norm
    ) -> Tensor:
        return self.points


def _curves(
    model: Classifier | nn.Module,
    x: Tensor,
    y: Tensor | None,
    attacks: Mapping[str, LinearRegion],
    advance: Advance | None,
) -> Curves:
    clf, x, y, right = prepare(model, x, y)
    x, y = x[right], y[right]
    one = next(iter(attacks.values()))
    with clf.session():
        rng = SampleRng(one.seed, range(len(x)))
        points = one.start.find(clf, x, Misclassified(y), one.starts, rng, one.norm)
    curves = []
    for done, attack in enumerate(attacks.values()):

        def so_far(regions: int, total: int, done: int = done) -> None:
            if advance is not None:
                advance(done * total + regions, len(attacks) * total)

        _, distances = history(clf, x, y, replace(attack, start=_Given(points=points)), so_far)
        curves.append(distances.amin(dim=2))
    every = torch.stack(curves)
    kept = every[0, 0].isfinite()
    if not bool(kept.any()):
        raise ValueError(NO_START)
    return Curves(tuple(attacks), right[kept], every[:, :, kept], one.norm)
