"""Fig. 5 and 6 of the LRA paper, as numbers, for any piecewise affine classifier and any data.

Croce, Rauber and Hein, "Scaling up the randomized gradient-free adversarial attack reveals
overestimation of robustness using established attacks", section 6. Fig. 1 to 4 are in
`lra_curves`; `lra_pages` draws them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from elbowroom.attacks import LinearRegion, NearestPoints
from elbowroom.attacks.line_search import shorten
from elbowroom.attacks.starts import Starts
from elbowroom.classifier import Classifier, as_classifier
from elbowroom.goals import Misclassified
from elbowroom.graph import UnsupportedOperationError
from elbowroom.graph.pattern import require_piecewise_affine
from elbowroom.norms import L2
from elbowroom.regions import Polytopes, WorkingSet, decision_towards
from elbowroom.sampling import SampleRng

# Regions next to flat parts of an image are held by many hundred constraints at once.
EXACT = WorkingSet()

NO_START = "no sample has a start: give more data points, of other classes"

#: `advance(done, total)`, called after every region that all walks have visited.
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class BoundaryImages:
    """One row of Fig. 5: F images on the way from a data point of another class to a sample.

    The first is the data point, the second the point of the first line search, the last but one
    the attack's result, the last the sample. All but the first and the last are on the decision
    boundary, as near as a line search towards the sample gets.

    sample:    its number among the samples given.
    images:    `(F, *shape)`.
    distances: `(F,)`, float64: to the sample, in the attack's norm.
    classes:   `(F, 2)`: the two classes with the largest logits, the decision first.
    margins:   `(F,)`: the difference of these two logits, relative to the largest of all.
    regions:   `(F - 2,)`: how many regions had been visited when each of the images on the
               boundary was found.
    """

    sample: int
    images: Tensor
    distances: Tensor
    classes: Tensor
    margins: Tensor
    regions: Tensor


@dataclass(frozen=True)
class SharedRegions:
    """The rows of Fig. 6: two images `(S, *shape)` in one linear region, for each of S samples.

    samples:     `(S,)`: their numbers among the samples given.
    originals:   the samples. lines: found by the first line search; they choose the regions.
    nearest:     the exact nearest points of their regions that are of the other class.
    distances:   `(S, 2)`, L2: of both to the sample. apart: `(S,)`, L2: of one to the other.
    classes:     `(S, 2)`: whose decision boundary cuts the region: the other class, the label.
    decisions:   `(S, 2)`: of both; at the second a third class may be ahead of the two.
    margins:     `(S, 2)`: the difference of the two classes' logits at both, relative to the
                 largest of all.
    violations:  `(S, 2)`: the largest excess of both over a constraint of the region, relative to
                 its largest slack.
    constraints: `(S,)`: how many the region has, that of the decision included.
    """

    samples: Tensor
    originals: Tensor
    lines: Tensor
    nearest: Tensor
    distances: Tensor
    apart: Tensor
    classes: Tensor
    decisions: Tensor
    margins: Tensor
    violations: Tensor
    constraints: Tensor


def figure_5(
    model: Classifier | nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    attack: LinearRegion,
    shown: int = 4,
    advance: Advance | None = None,
) -> list[BoundaryImages]:
    """Images on the decision boundary, found on the way to the samples `x` `(N, *shape)`.

    Of each sample, the walk is followed that ends nearest. Samples that are not classified as
    `y`, or for which the attack has no start, have no row.

    attack: starts from `NearestPoints`.
    shown:  images between the line search and the result: those that came nearer most.
    """
    if not isinstance(attack.start, NearestPoints):
        raise ValueError(
            "Fig. 5 begins at data points: give the attack start=NearestPoints(points, labels)"
        )
    clf, x, y, right = prepare(model, x, y)
    x, y = x[right], y[right]
    with clf.session():
        data = attack.start.nearest(clf, x, Misclassified(y), attack.starts, attack.norm)[0]
    points, distances = history(clf, x, y, attack, advance)
    rows = []
    for n, number in enumerate(right.tolist()):
        lane = int(distances[-1, n].argmin())
        walk = distances[:, n, lane]
        if not bool(walk[-1].isfinite()):
            continue
        rounds = _most_improving(walk, shown)
        found = points[rounds, n, lane]
        whole, labels = x[n].expand_as(found), y[n].expand(len(found))
        with clf.session():
            found = shorten(clf, whole, found, Misclassified(labels), attack.line_search_steps)
            images = torch.cat([data[n, lane][None], found, x[n][None]])
            logits = clf.logits(images)
        values, classes = logits.topk(2, dim=1)
        rows.append(
            BoundaryImages(
                sample=number,
                images=images,
                distances=attack.norm.length(images.double() - x[n].double()),
                classes=classes,
                margins=(values[:, 0] - values[:, 1]) / logits.abs().amax(dim=1),
                regions=rounds,
            )
        )
    if not rows:
        raise ValueError(NO_START)
    return rows


def figure_6(
    model: Classifier | nn.Module,
    x: Tensor,
    y: Tensor | None = None,
    *,
    start: Starts,
    solver: WorkingSet = EXACT,
) -> SharedRegions:
    """Two images in one linear region: the first line search's, and the region's nearest.

    Computed in float64, so that both can be checked against all constraints of the region.
    Samples that are not classified as `y`, for which there is no start, or which the solver does
    not finish, have no row.

    start:  e.g. `NearestPoints`; its first point for each sample is taken.
    """
    clf = as_classifier(model)
    x, y = clf.validate(x, y)
    clf = Classifier(clf.network, bounds=(clf.lower, clf.upper), dtype=torch.float64, name=clf.name)
    clf, x, y, right = prepare(clf, x.double(), y)
    x, goal = x[right], Misclassified(y[right])
    with clf.session():
        line = start.find(clf, x, goal, 1, SampleRng(0, range(len(x))), L2)[:, 0]
        logits = clf.logits(line)
        towards = logits.argmax(dim=1)
        polytopes = Polytopes.at(clf, line, decision_towards(goal, towards, logits))
        found = solver(polytopes, x)
        both = torch.stack([line, found.z], dim=1)
        excess = torch.stack([polytopes.excess(image) for image in (line, found.z)], dim=1)
        logits = torch.stack([logits, clf.logits(found.z)], dim=1)
    there = goal.met(logits[:, 0])
    kept = (there & found.solved).nonzero().squeeze(1)
    if not bool(there.any()):
        raise ValueError(NO_START)
    if not len(kept):
        raise ValueError(
            f"the exact solver finished none of {int(there.sum())} regions: give it more "
            "capacity, such as 2048, or more rounds"
        )
    excess, both, logits = excess[kept], both[kept], logits[kept]
    slack = torch.where(excess.isfinite(), excess, 0.0).abs().amax(dim=2)
    classes = torch.stack([towards, goal.labels], dim=1)[kept]
    pair = logits.gather(2, classes[:, None].expand(-1, 2, -1))
    return SharedRegions(
        samples=right[kept],
        originals=x[kept],
        lines=both[:, 0],
        nearest=both[:, 1],
        distances=torch.stack([L2.length(image - x[kept]) for image in both.unbind(1)], dim=1),
        apart=L2.length(both[:, 0] - both[:, 1]),
        classes=classes,
        decisions=logits.argmax(dim=2),
        margins=(pair[..., 0] - pair[..., 1]).abs() / logits.abs().amax(dim=2),
        violations=excess.amax(dim=2).clamp(min=0) / slack,
        constraints=polytopes.count()[kept],
    )


def history(
    clf: Classifier, x: Tensor, y: Tensor, attack: LinearRegion, advance: Advance | None
) -> tuple[Tensor, Tensor]:
    """Points `(R + 1, N, S, *shape)` and distances `(R + 1, N, S)` of all walks."""
    points, distances = [], []
    for stage in attack.progress(clf, x, y):
        points.append(stage.points)
        distances.append(stage.distances)
        if advance is not None:
            advance(stage.regions, attack.regions)
    return torch.stack(points), torch.stack(distances)


def _most_improving(walk: Tensor, shown: int) -> Tensor:
    """The first round, the `shown` rounds that came nearer most, and the last that came nearer."""
    drops = walk[:-1] - walk[1:]
    better = (drops > 0).nonzero().squeeze(1)
    between, last = better[:-1], better[-1:]
    largest = drops[between].argsort(descending=True, stable=True)[:shown]
    rounds = torch.cat([between[largest].sort().values, last]) + 1
    return torch.cat([rounds.new_zeros(1), rounds])


def prepare(
    model: Classifier | nn.Module, x: Tensor, y: Tensor | None
) -> tuple[Classifier, Tensor, Tensor, Tensor]:
    """The classifier, checked inputs, and the numbers of those that are classified as labelled."""
    clf = as_classifier(model)
    x, y = clf.validate(x, y)
    try:
        require_piecewise_affine(clf.graph(x.shape[1:]))
    except UnsupportedOperationError as error:
        raise UnsupportedOperationError(
            f"{error}, which this figure shows; choose a network of piecewise affine layers (ReLU, "
            "max pooling), or the figure bounds-2.5, which needs none"
        ) from error
    if not clf.bounded:
        raise ValueError("this figure needs finite bounds on every input: Classifier(bounds=...)")
    with clf.session():
        right = (clf.logits(x).argmax(dim=1) == y).nonzero().squeeze(1)
    if not len(right):
        raise ValueError(
            f"none of {len(x)} samples is classified as labelled, so there is no boundary to walk "
            "to; check the weights, or leave the labels out"
        )
    return clf, x, y, right
