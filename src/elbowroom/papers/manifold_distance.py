"""How far from the manifold are examples of both kinds? (Manifold, Fig. 3 and 10, suppl. C)"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from elbowroom.attacks import Attack
from elbowroom.classifier import Classifier
from elbowroom.manifold import Codes, Decoder, LatentAttack, Neighbours, project, tangent_cosine
from elbowroom.norms import L2

BATCH = 250


@dataclass(frozen=True, eq=False)
class Distances:
    """L2 distances of points to the manifold, one row a point.

    perturbation: of R regular examples, from their samples.
    projection:   of them, to the manifold that the decoder knows; None without the true one.
    planes:       kind of point ("regular", "on-manifold", "test images") -> distances to planes
                  through the mean of the nearest training images.
    cosine:       of the loss gradient at samples, with the tangent of the manifold (C.1), and what
                  a random direction has on average (root mean square).
    """

    perturbation: Tensor
    projection: Tensor | None
    planes: dict[str, Tensor]
    cosine: tuple[Tensor, float] | None

    @property
    def ratio(self) -> Tensor | None:
        """`(R,)`: 1 where a perturbation leaves the manifold at right angles."""
        return None if self.projection is None else self.projection / self.perturbation


def distances(
    clf: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    regular: Attack,
    along: LatentAttack,
    decoder: Decoder,
    near: Neighbours,
    truth: Decoder | None = None,
) -> Distances:
    """Attack the samples `x` `(N, *shape)` in both ways, those that are classified correctly.

    decoder: what `along` moves through. truth: the true manifold, where it is known.
    """
    with clf.session():
        right = clf.logits(x).argmax(dim=1) == y
    x, y = x[right], y[right]
    off = regular(clf, x, y)
    rows = off.success.nonzero().flatten()
    on = along(clf, decoder, decoder.encode(x, y), y)
    found = on.success & on.correct
    examples = off.adversarial[rows]
    projection, cosine = None, None
    if truth is not None:
        codes = truth.encode(x, y)
        projection = _projected(truth, examples, codes.take(rows))
        chance = (truth.size / x[0].numel()) ** 0.5
        cosine = tangent_cosine(clf, truth, codes, y), chance
    return Distances(
        perturbation=L2.length(examples.double() - x[rows].double()),
        projection=projection,
        planes={
            "regular": near.distance(examples, x[rows]),
            "on-manifold": near.distance(on.adversarial[found], x[found]),
            "test images": near.distance(x, x),
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
