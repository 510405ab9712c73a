"""How far from the manifold are examples of both kinds? (Manifold, Fig. 3, 10 and 14, suppl. C)"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from elbowroom.classifier import Classifier
from elbowroom.manifold import Codes, Decoder, Neighbours, project, tangent_cosine
from elbowroom.norms import L2
from elbowroom.papers.manifold_attacks import ATTACKS, Trial, decisions

BATCH = 250


@dataclass(frozen=True, eq=False)
class Distances:
    """L2 distances of points to the manifold, one row a point.

    perturbation: of R regular examples, from their samples.
    projection:   of them, to the manifold that the decoder knows; None without the true one.
    planes:       kind of point ("regular", "on-manifold", "test images") -> distances to planes
                  through the mean of the nearest training images (Fig. 10).
    through_own:  the same, to planes through the point's own test image (Fig. 3); without test
                  images, which lie on these.
    share:        the same, of how far the point is from its test image: 1 where it leaves the
                  plane at right angles. The paper compares distances alone, which are small where
                  an attack has stopped early.
    cosine:       of the loss gradient at samples, with the tangent of the manifold (C.1), and what
                  a random direction has on average (root mean square).
    """

    perturbation: Tensor
    projection: Tensor | None
    planes: dict[str, Tensor]
    through_own: dict[str, Tensor]
    share: dict[str, Tensor]
    cosine: tuple[Tensor, float] | None

    @property
    def ratio(self) -> Tensor | None:
        """`(R,)`: 1 where a perturbation leaves the manifold at right angles."""
        return None if self.projection is None else self.projection / self.perturbation


def distances(
    clf: Classifier,
    trial: Trial,
    *,
    regular: str,
    on_manifold: str,
    near: Neighbours,
    truth: Decoder | None = None,
) -> Distances:
    """Attack the images of `trial` in both ways; those that are classified correctly count.

    regular, on_manifold: of `ATTACKS`. truth: the true manifold, where it is known.
    """
    x, y = trial.x, trial.y
    right = decisions(clf, x) == y
    off, on = ATTACKS[regular](trial, clf), ATTACKS[on_manifold](trial, clf)
    rows = (off.success & right).nonzero().flatten()
    found = on.success & on.counts & right
    examples = off.examples[rows]
    projection, cosine = None, None
    if truth is not None:
        codes = truth.encode(x, y)
        projection = _projected(truth, examples, codes.take(rows))
        chance = (truth.size / x[0].numel()) ** 0.5
        cosine = tangent_cosine(clf, truth, codes.take(right), y[right]), chance
    points = {
        "regular": (examples, x[rows]),
        "on-manifold": (on.examples[found], x[found]),
        "test images": (x[right], x[right]),
    }
    through_own = {
        name: near.distance(*pair, centre="sample")
        for name, pair in points.items()
        if name != "test images"
    }
    return Distances(
        perturbation=L2.length(examples.double() - x[rows].double()),
        projection=projection,
        planes={name: near.distance(*pair) for name, pair in points.items()},
        through_own=through_own,
        share={
            name: away / L2.length(points[name][0].double() - points[name][1].double())
            for name, away in through_own.items()
        },
        cosine=cosine,
    )


def _projected(truth: Decoder, examples: Tensor, codes: Codes) -> Tensor:
    parts = [
        project(truth, examples[rows], codes.take(rows)).distance
        for rows in torch.split(torch.arange(len(examples)), BATCH)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True)
class RankTest:
    """Mann and Whitney's, that the first of two groups is not smaller.

    probability: that a member of the first is smaller than one of the second. p: of the data, or
    more extreme ones, where neither is.
    """

    probability: float
    p: float


def rank_test(smaller: Tensor, larger: Tensor) -> RankTest | None:
    """None where a group is empty."""
    if not len(smaller) or not len(larger):
        return None
    found = stats.mannwhitneyu(smaller.numpy(), larger.numpy(), alternative="less")
    share = 1 - float(found.statistic) / (len(smaller) * len(larger))
    return RankTest(share, float(found.pvalue))
