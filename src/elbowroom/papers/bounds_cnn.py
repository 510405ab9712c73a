"""Tables 5.1 to 5.3 and Fig. 5.8 to 5.11 of the Bounds thesis: LeNet-5, its LRN variants, NIN."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from elbowroom.attacks import FGS, Attack, Closest
from elbowroom.certificates import Certificate
from elbowroom.classifier import Classifier
from elbowroom.data import Dataset
from elbowroom.norms import L2, Linf
from elbowroom.papers.bounds_compare import Measured, Spread, joined, measure
from elbowroom.papers.lra import Advance
from elbowroom.training import RECIPES, EpochReport, Recipe

GREY_LEVELS = 255
MAX_EPS = 100  # grey levels (5.3.1)
CHUNK = 100


@dataclass(frozen=True)
class Published:
    """A row of Tables 5.1 and 5.2, or of 5.3.

    eps:      min, max, mean, median and standard deviation, in grey levels.
    rate:     of FGS. bound, distance: normalised as `PerturbedImages` has them; None in 5.3.
    accuracy: of Table 5.3, and of 5.3.1 in round figures.
    """

    eps: tuple[float, float, float, float, float]
    rate: float
    accuracy: float
    bound: float | None = None
    distance: float | None = None


PUBLISHED = {
    "lenet5": Published(
        (0.00065, 94.17, 26.72, 25.34, 13.27481), 0.9994, 0.99, 7.274294e-8, 0.9334476
    ),
    "cifar-nin": Published(
        (0.00121, 99.88, 5.783, 3.093, 9.184525), 0.9304, 0.8, 1.579417e-17, 0.3129927
    ),
    "lenet5-lrn1": Published((0.00756, 99.7193, 25.31045, 21.88714, 17.30748), 0.9836, 0.9876),
    "lenet5-lrn2": Published((0.00011, 99.87615, 24.92861, 19.62794, 20.60854), 0.9552, 0.9848),
    "lenet5-lrn3": Published((0.00869, 99.9505, 25.76302, 20.96658, 18.83517), 0.9694, 0.9894),
}


@dataclass(frozen=True)
class PerturbedImages:
    """One network: FGS with steps up to 100 grey levels, and bounds beside it.

    accuracy: on `tested` images.
    x:        `(N, *shape)`, in [0, 1]. measured: in the same units; see there.
    eps:      `(N,)`, grey levels: the largest change of a pixel by FGS; `inf` where it failed.
    reached:  `(N,)`: the class after it; that before where it failed.
    classes:  names of the classes.
    """

    accuracy: float
    tested: int
    x: Tensor
    measured: Measured
    eps: Tensor
    reached: Tensor
    classes: tuple[str, ...]

    @property
    def pixels(self) -> int:
        """Values of an image: pixels times channels."""
        return self.x[0].numel()

    def normalised(self, lengths: Tensor) -> float:
        """The mean of the finite ones, in grey levels, by the number of pixels, as in Table 5.1."""
        spread = Spread.of(lengths)
        return math.nan if spread is None else spread.mean * GREY_LEVELS / self.pixels

    def heat(self) -> Tensor:
        """`(K, K)`, Fig. 5.10: images by the class before (row) and after FGS (column)."""
        count = len(self.classes)
        pairs = self.measured.decisions * count + self.reached
        return torch.bincount(pairs, minlength=count**2).view(count, count)


def perturb(
    model: Classifier | nn.Module,
    data: Dataset,
    bounds: Mapping[str, Certificate],
    *,
    samples: int,
    strong: int,
    tested: int,
    budget: int = 400,
    seed: int = 0,
    advance: Advance | None = None,
) -> PerturbedImages:
    """Sections 5.3 and 5.4.1 for one network, with inputs in [0, 1], in the precision it has.

    Bounds of deep networks can be smaller than what float32 rounds away, where a bound that knows
    of rounding has to be 0: give the network in float64 to compare them.

    samples: the first ones of `data` are perturbed and bounded. strong: of these, the first ones
             meet `Closest` too, with `budget`. tested: the first ones give the accuracy.
    """
    clf = model if isinstance(model, Classifier) else Classifier(model, bounds=data.bounds)
    images = data.x.to(clf.dtype)
    parts = []
    attacks: dict[str, Attack] = {
        "FGS": FGS(norm=L2, max_eps=MAX_EPS / GREY_LEVELS),
        "Closest": Closest(budget=budget, seed=seed),
    }
    for start in range(0, samples, CHUNK):
        x = images[start : min(start + CHUNK, samples)]
        first = {"Closest": max(min(strong - start, len(x)), 0)}
        parts.append(measure(clf, x.to(clf.device), attacks=attacks, bounds=bounds, first=first))
        if advance is not None:
            advance(min(start + CHUNK, samples), samples)
    measured = joined(parts)
    x = images[:samples]
    found = measured.points["FGS"]
    moved = Linf.length(found.double() - x.double()) * GREY_LEVELS
    worked = measured.distances["FGS"].isfinite()
    decided = _decisions(clf, images[:tested])
    return PerturbedImages(
        accuracy=float((decided == data.y[:tested]).double().mean()),
        tested=len(decided),
        x=x,
        measured=measured,
        eps=torch.where(worked, moved, torch.inf),
        reached=torch.where(worked, _decisions(clf, found), measured.decisions),
        classes=data.classes,
    )


def _decisions(clf: Classifier, x: Tensor) -> Tensor:
    """`(N,)`, on the CPU, a chunk at a time."""
    with clf.session():
        parts = [clf.logits(part.to(clf.device)).argmax(dim=1) for part in torch.split(x, CHUNK)]
    return torch.cat(parts).cpu()


def recipe(name: str, *, short: bool) -> Recipe:
    """How a network of `PUBLISHED` is trained.

    short: Network-in-Network a little only: 2 epochs over 5,000 images in batches of 50, minutes
           rather than days on one core. The LeNets get their 10,000 iterations in any case.
    """
    found = RECIPES[f"bounds-{name}"]
    if name != "cifar-nin" or not short:
        return found
    settings = replace(found.settings, epochs=2, batch_size=50)
    return replace(found, count=5_000, settings=settings, validation_count=1000)


def trained(
    name: str,
    folder: Path,
    *,
    short: bool,
    progress: Callable[[EpochReport], None] | None = None,
) -> nn.Module:
    """A trained network of `PUBLISHED`, always of its recipe's seed.

    In `folder` it is kept, and an interrupted training too.

    Network-in-Network gets the identity as its last layer: Algorithm 5.1 begins with a linear
    classifier, which its pooled maps are one of.
    """
    suffix = "-short" if short and name == "cifar-nin" else ""
    plan = recipe(name, short=short)
    kept = folder / f"bounds-{name}{suffix}"
    model = plan.run(kept, accelerator="cpu", progress=progress).model
    return model if name != "cifar-nin" else with_identity(model)


def with_identity(model: nn.Module) -> nn.Sequential:
    """The chain `model`, and the identity on its logits as a linear layer."""
    layers = OrderedDict(model.named_children())
    last = nn.Linear(10, 10, bias=False)
    nn.init.eye_(last.weight)
    return nn.Sequential(OrderedDict(**layers, identity=last)).eval()
