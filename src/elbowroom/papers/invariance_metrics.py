"""Table 2.1 and Fig. 2.2, 2.3, 2.6 to 2.9 of the Invariance thesis, for any data set.

How far apart the images of a data set are, in input space and in a network's features, against the
radii in which networks are asked to be robust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.norms import L2, Linf, Norm
from elbowroom.perception import (
    L0,
    ClassDistances,
    FeatureDistance,
    Histogram,
    Lp,
    Noise,
    PerceptualDistance,
    class_distances,
    matched_noise,
    representation,
)
from elbowroom.perception.noise import Bound
from elbowroom.sampling import SampleRng

#: Table 2.1: the smallest and largest radius commonly used, by norm and data set.
TABLE_2_1: dict[str, dict[str, tuple[float, float]]] = {
    "L0": {"mnist": (12.0, 12.0)},
    "L2": {"mnist": (1.5, 1.5), "cifar10": (0.25, 1.0), "imagenet": (3.0, 3.0)},
    "Linf": {"mnist": (0.3, 0.3), "cifar10": (8 / 255, 8 / 255), "imagenet": (4 / 255, 8 / 255)},
}


@dataclass(frozen=True)
class Spread:
    """Distances within and between classes, by one distance.

    histogram:  Fig. 2.2 or 2.3.
    separation: probability that a pair of one class is closer than a pair of two; 1/2 for
                distributions that are alike, 1 for separate ones.
    mean_intra, mean_inter: mean distances; the second makes data sets comparable (4.3.2).
    """

    distance: str
    histogram: Histogram
    separation: float
    mean_intra: float
    mean_inter: float

    @staticmethod
    def of(name: str, found: ClassDistances, bins: int) -> Spread:
        means = float(found.intra.mean()), float(found.inter.mean())
        return Spread(name, found.histogram(bins), found.separation, *means)


def figure_2_2(
    model: Classifier | nn.Module, x: Tensor, y: Tensor, *, bins: int = 100
) -> dict[str, Spread]:
    """Pairwise L2 distances within and between classes, in the `input` and `representation`.

    Fig. 2.2 (MNIST) and 2.3 (CIFAR-10), left and right. The representation is what the last
    linear layer of the network sees. x: `(N, *shape)`, y: labels `(N,)`.
    """
    clf = as_classifier(model)
    x, y = clf.validate(x, y)
    layer = representation(clf.graph(x.shape[1:]))
    distances: dict[str, PerceptualDistance] = {
        "input": Lp(L2),
        "representation": FeatureDistance(clf, [layer], kind="l2"),
    }
    return {
        where: Spread.of(distance.name, class_distances(distance, x, y), bins)
        for where, distance in distances.items()
    }


@dataclass(frozen=True)
class MatchedNoise:
    """Perturbed images, and noise of the same size.

    perturbed: `(N, *shape)`, the images given. noise: by norm, noise of their size in that norm.
    distances: by name of a distance, `perturbed` and each norm's noise, to the originals `(N,)`.
    """

    perturbed: Tensor
    noise: dict[str, Noise]
    distances: dict[str, dict[str, Tensor]]


def figure_2_6(
    x: Tensor,
    perturbed: Tensor,
    *,
    distances: Sequence[PerceptualDistance] = (Lp(L2), Lp(Linf)),
    norms: Sequence[Norm] = (L2, Linf),
    bounds: tuple[Bound, Bound] = (0.0, 1.0),
    seed: int = 0,
) -> MatchedNoise:
    """Noise as far from the images `x` as `perturbed`, both `(N, *shape)`, in each of `norms`.

    Fig. 2.6: a perturbation that changes what the image shows, and noise that does not, though a
    norm cannot tell them apart. `distances` says what other distances make of them.
    """
    noise = {
        str(norm): matched_noise(
            x,
            norm.length(perturbed.double() - x.double()),
            norm=norm,
            bounds=bounds,
            rng=SampleRng(seed, range(len(x))),
        )
        for norm in norms
    }
    images = {"perturbed": perturbed} | {f"{name} noise": n.noisy for name, n in noise.items()}
    with torch.no_grad():
        table = {d.name: {what: d(x, image) for what, image in images.items()} for d in distances}
    return MatchedNoise(perturbed, noise, table)


@dataclass(frozen=True)
class CloserPairs:
    """How many pairs of images of different classes are closer than a radius, by one distance.

    eps:   `(E,)` radii from the smallest to the largest distance of such a pair.
    count: `(E,)` pairs closer than each of them.
    pairs: all pairs of different classes.
    at:    pairs closer than each radius that was asked for.
    """

    distance: str
    eps: Tensor
    count: Tensor
    pairs: int
    at: dict[float, int]

    @property
    def smallest(self) -> float:
        """The distance of the closest pair."""
        return float(self.eps[0])


def figure_2_7(
    x: Tensor,
    y: Tensor,
    *,
    distances: Sequence[PerceptualDistance] = (L0(), Lp(L2), Lp(Linf)),
    radii: Mapping[str, Sequence[float]] | None = None,
    points: int = 200,
) -> list[CloserPairs]:
    """Cumulative numbers of pairs of different classes by distance, a curve for each of several.

    Fig. 2.7 (MNIST), 2.8 (CIFAR-10) and 2.9 (ImageNet, 25 images of each class), over the norms
    of Table 2.1: no pair is as close as the radii in use there.

    x, y:  images `(N, *shape)` and labels `(N,)`.
    radii: by name of a distance, radii to count the closer pairs of; see `TABLE_2_1`.
    """
    curves = []
    for distance in distances:
        found = class_distances(distance, x, y)
        first, last = float(found.inter[0]), float(found.inter[-1])
        eps = torch.linspace(first, last, points, dtype=torch.float64).to(found.inter)
        asked = [float(radius) for radius in (radii or {}).get(distance.name, ())]
        closer = found.closer_than(torch.tensor(asked, dtype=torch.float64)).tolist()
        curves.append(
            CloserPairs(
                distance=distance.name,
                eps=eps,
                count=found.closer_than(eps),
                pairs=len(found.inter),
                at=dict(zip(asked, closer, strict=True)),
            )
        )
    return curves
