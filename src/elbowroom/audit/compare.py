"""Several classifiers on the same samples: which one is the most robust, as far as can be told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from elbowroom.attacks import Attack, Closest
from elbowroom.audit.comparison import Comparison, Measured, compare_measured
from elbowroom.audit.run import Progress
from elbowroom.certificates import CERTIFICATES, Certificate
from elbowroom.classifier import Classifier, as_classifier
from elbowroom.graph import UnsupportedOperationError
from elbowroom.norms import L2, Norm
from elbowroom.results import Cost

DEFAULT_CERTIFICATE = "global-lipschitz"  # seconds for any network; others are tighter
BUDGET = 500  # of the default attack, as in an audit: on ordinary networks more gains little
RESAMPLES = 10_000
TAIL = 10  # resamples beyond an interval's ends, at least


def compare(
    classifiers: Mapping[str, Classifier | nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    norm: Norm | str = L2,
    attack: Attack | None = None,
    certificate: Certificate | None = None,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
    chunk: int = 32,
    progress: Progress | None = None,
) -> Comparison:
    """Rank classifiers by certified radius and by attacked distance on the same samples.

    A sample that a classifier gets wrong has radius 0 and distance 0, so that accuracy counts.
    The certified radius is a lower bound on the distance to the decision boundary, the attacked
    distance an upper bound: the two rankings can differ, and where the radius of one classifier
    exceeds the attacked distance of another, their order on that sample is proved.

    classifiers: by name; of the same input bounds and number of classes.
    x, y:        samples `(N, *shape)` and labels `(N,)`: a random draw from the population that
                 the intervals speak of.
    attack:      by default `Closest` with a budget of 500 and `seed`.
    certificate: by default `DEFAULT_CERTIFICATE`. A classifier with layers that it does not cover
                 is left out of the certified ranking.
    resamples:   of the bootstrap.
    level:       with this probability, the intervals of a ranking's differences hold all at once;
                 those of one classifier hold one by one.
    seed:        of the attack and the bootstrap.
    chunk:       samples computed together.
    progress:    called with (parts done, parts in all, what is computed).

    `elbowroom.report.comparison_words.sentences` says the result in words.

    Raises `ValueError` for classifiers that cannot be compared, for inputs that
    `Classifier.validate` refuses, and where an example contradicts a certificate.
    """
    norm = Norm.parse(norm)
    attack = attack or Closest(norm=norm, budget=BUDGET, seed=seed)
    certificate = certificate or CERTIFICATES[DEFAULT_CERTIFICATE](norm=norm)
    _check_options(norm, attack, certificate, level, resamples, chunk)
    every = {name: as_classifier(classifier) for name, classifier in classifiers.items()}
    samples = _comparable(every, x, y)
    starts = range(0, len(x), chunk)
    total = 2 * len(starts) * len(every)
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, what)
        done += 1

    measured = {}
    for name, clf in every.items():
        with naming(name):
            measured[name] = _measure(name, clf, *samples[name], attack, certificate, chunk, tell)
    if progress is not None:
        progress(total, total, "done")
    return compare_measured(
        measured,
        norm=norm,
        attack=str(attack),
        certificate=str(certificate),
        resamples=resamples,
        level=level,
        seed=seed,
    )


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors say which classifier they are about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_options(
    norm: Norm,
    attack: Attack,
    certificate: Certificate,
    level: float,
    resamples: int,
    chunk: int,
) -> None:
    for what, method in (("attack", attack), ("certificate", certificate)):
        if method.norm != norm:
            raise ValueError(
                f"the {what} measures in {method.norm}, but the comparison is in {norm}; give both "
                "the same norm"
            )
    if not certificate.sound:
        raise ValueError(
            f"{type(certificate).__name__} is kept for comparison and is no guarantee; use one of "
            f"{', '.join(name for name, kind in CERTIFICATES.items() if kind.sound)}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, as 0.95 does, not {level}")
    if resamples * (1 - level) < TAIL:
        raise ValueError(
            f"{resamples} resamples are too few for a level of {level}: take at least "
            f"{np.ceil(TAIL / (1 - level)):.0f}"
        )
    if chunk < 1:
        raise ValueError("chunk must be at least 1")


def _comparable(
    every: Mapping[str, Classifier], x: Tensor, y: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """The samples and labels as each classifier needs them."""
    if not every:
        raise ValueError("there is no classifier to compare")
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
        raise ValueError("inputs must be a floating-point tensor (N, *shape)")
    for clf in every.values():
        x = x.to(clf.dtype)  # the same points for all, where they differ in precision
    samples: dict[str, tuple[Tensor, Tensor]] = {}
    classes: dict[str, int] = {}
    for name, clf in every.items():
        with naming(name):
            samples[name] = clf.validate(x.to(clf.device, clf.dtype), y)
        with clf.session():
            classes[name] = clf.logits(samples[name][0][:1]).shape[1]
    first, *others = every
    for other in others:
        if classes[other] != classes[first]:
            raise ValueError(
                f"{first} has {classes[first]} classes and {other} has {classes[other]}: their "
                "distances to another decision cannot be compared"
            )
        if not torch.equal(_bounds(every[first], x), _bounds(every[other], x)):
            raise ValueError(f"{first} and {other} have different input bounds: give both the same")
    return samples


def _bounds(clf: Classifier, x: Tensor) -> Tensor:
    """`(2, *shape)`, in the coarsest precision that classifiers have: all round it equally."""
    bounds = [bound.float().cpu().expand(x.shape[1:]) for bound in (clf.lower, clf.upper)]
    return torch.stack(bounds)


def _measure(
    name: str,
    clf: Classifier,
    x: Tensor,
    y: Tensor,
    attack: Attack,
    certificate: Certificate,
    chunk: int,
    tell: Callable[[str], None],
) -> Measured:
    rows = torch.split(torch.arange(len(x), device=x.device), chunk)
    right, radius, distance, farthest = [], [], [], []
    uncertified = None
    cost = Cost()
    for part in rows:
        some, labels = x[part], y[part]
        with clf.session():
            right.append(clf.logits(some).argmax(dim=1) == labels)
        tell(f"{name}: certificate")
        if uncertified is None:
            try:
                proved = certificate(clf, some, labels)
                radius.append(proved.radius)
                cost += proved.cost
            except UnsupportedOperationError as error:
                uncertified = str(error)
        tell(f"{name}: attack")
        found = attack(clf, some, labels, indices=part.tolist())
        distance.append(found.distance)
        cost += found.cost
        reach = torch.maximum((some - clf.lower).abs(), (clf.upper - some).abs())
        farthest.append(attack.norm.length(reach.double()))
    correct = torch.cat(right)
    proved_radius = torch.cat(radius) if uncertified is None else torch.zeros(len(x))
    return Measured(
        right=correct.cpu().numpy(),
        radius=_of_right(proved_radius, correct),
        distance=_of_right(torch.cat(distance), correct),
        farthest=torch.cat(farthest).cpu().numpy(),
        uncertified=uncertified,
        cost=cost,
    )


def _of_right(values: Tensor, right: Tensor) -> np.ndarray:
    """0 where the classifier is wrong."""
    wide: np.ndarray = torch.where(right, values.to(right.device).double(), 0.0).cpu().numpy()
    return wide
