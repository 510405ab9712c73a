"""Lower bounds beside the distances of attacks, as all tables of the Bounds thesis have them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from elbowroom.attacks import FGS, FGV, Attack
from elbowroom.certificates import CERTIFICATES, Certificate
from elbowroom.classifier import Classifier, as_classifier
from elbowroom.goals import Goal
from elbowroom.graph import UnsupportedOperationError
from elbowroom.norms import L2
from elbowroom.optimise import Best
from elbowroom.regions import ExactDistance
from elbowroom.sampling import SampleRng

# The thesis's own bound first, then the sound ones, the loosest last.
# Others, which take minutes on the networks of chapter 5, are shown where they are named.
USUAL = ("published-layer-wise", "layer-wise", "global-lipschitz")
BEST = "best of all"
ROUNDING = 1e-9
EXACT = "exact"


def usual_bounds() -> dict[str, Certificate]:
    """The bounds that tables show by default, in L2."""
    return {name: CERTIFICATES[name](norm=L2) for name in USUAL}


@dataclass(frozen=True)
class Spread:
    """Statistics of `count` numbers; the standard deviation is that of a sample (n - 1)."""

    count: int
    mean: float
    median: float
    std: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Tensor) -> Spread | None:
        """Of the finite ones among `values` `(N,)`; None if there are none."""
        values = values[values.isfinite()].double()
        if not len(values):
            return None
        return cls(
            count=len(values),
            mean=float(values.mean()),
            median=float(values.quantile(0.5)),
            std=float(values.std()) if len(values) > 1 else float("nan"),
            least=float(values.min()),
            most=float(values.max()),
        )


@dataclass(frozen=True)
class Measured:
    """Distances of attacks and radii of bounds for the same N samples, in L2.

    decisions: `(N,)`: the class of each sample, which the perturbation has to change.
    distances: name of an attack -> `(N,)`, `inf` where it found nothing, NaN where it was not run.
               `EXACT` is among the names where exact distances were asked for.
    points:    name of an attack -> `(N, *shape)`: what it found.
    radii:     name of a bound -> `(N,)`, NaN where it refused the network.
    sound:     name of a bound -> whether it is a theorem.
    refused:   name of a bound -> its reason, of the first network refused.
    networks:  `(N,)`: number of the network that each sample belongs to.
    """

    decisions: Tensor
    distances: dict[str, Tensor]
    points: dict[str, Tensor]
    radii: dict[str, Tensor]
    sound: dict[str, bool]
    refused: dict[str, str]
    networks: Tensor

    @property
    def nearest(self) -> Tensor:
        """`(N,)`: the nearest point of another class that is known; `inf` without one."""
        every = torch.stack(list(self.distances.values()))
        return every.nan_to_num(nan=torch.inf, posinf=torch.inf).amin(dim=0)

    def distance(self, attack: str) -> Tensor:
        """`(N,)`, of an attack, or `BEST`: of all of them and the exact ones."""
        return self.nearest if attack == BEST else self.distances[attack]

    def deviations(self, attack: str, bound: str) -> Tensor:
        """`(N,)`: distance less radius; not finite where either is not known."""
        return self.distance(attack) - self.radii[bound]

    def tightness(self, attack: str, bound: str) -> Tensor:
        """`(N,)`: radius by distance, 1 for a bound that cannot be improved."""
        distance = self.distance(attack)
        return torch.where(distance.isfinite(), self.radii[bound] / distance, torch.nan)

    def violations(self, bound: str) -> Tensor:
        """`(N,)` bool: a point of another class is known inside the radius.

        A sound bound leaves room for rounding; of others only what exceeds that counts.
        """
        slack = 0.0 if self.sound[bound] else ROUNDING
        return self.radii[bound] > self.nearest * (1 + slack)

    def success_rate(self, attack: str) -> float:
        """Share of the samples that an attack was run on for which it found something.

        Of exact distances, the share that is known. NaN where nothing was run.
        """
        run = self.distance(attack)
        if attack != EXACT:
            run = run[~run.isnan()]
        return float(run.isfinite().double().mean())

    def by_network(self, values: Tensor) -> Tensor:
        """`(M,)`: means of the finite `values` `(N,)` of each network; NaN where there are none."""
        known = values.isfinite()
        places = torch.unique(self.networks, return_inverse=True)[1]
        sums = torch.zeros(int(places.max()) + 1, dtype=torch.float64)
        count = sums.scatter_add(0, places, known.double())
        return sums.scatter_add(0, places, torch.where(known, values, 0.0).double()) / count


def measure(
    model: Classifier | nn.Module,
    x: Tensor,
    *,
    attacks: Mapping[str, Attack],
    bounds: Mapping[str, Certificate],
    first: Mapping[str, int] | None = None,
    exact_seconds: float | None = None,
    network: int = 0,
) -> Measured:
    """Attack and bound the samples `x` `(N, *shape)`, labelled by the network itself (4.3).

    first:         attacks that are run on so many of the first samples alone; none, if 0.
    exact_seconds: also the exact distance, with so much time for each sample; the distance is left
                   out (NaN) where that is not enough.
    network:       a number for `Measured.networks`.

    A bound that refuses the network is recorded, not raised. Attacks and bounds are in L2. Raises
    `UnsupportedOperationError` where the exact distance is asked for of a network that is not
    piecewise affine.
    """
    clf = as_classifier(model)
    x, y = clf.validate(x)
    distances, points = {}, {}
    for name, attack in attacks.items():
        count = min((first or {}).get(name, len(x)), len(x))
        distances[name] = torch.full((len(x),), torch.nan, dtype=torch.float64)
        points[name] = x.cpu().clone()
        if count:
            found = attack(clf, x[:count], y[:count])
            distances[name][:count] = found.distance.cpu()
            points[name][:count] = found.adversarial.cpu()
    if exact_seconds is not None:
        distances[EXACT] = _exact(clf, x, y, distances, points, exact_seconds)
    radii, refused = {}, {}
    for name, bound in bounds.items():
        found_radii, reason = radii_or_reason(bound, clf, x, y)
        radii[name] = found_radii
        if reason is not None:
            refused[name] = reason
    return Measured(
        decisions=y.cpu(),
        distances=distances,
        points=points,
        radii=radii,
        sound={name: bound.sound for name, bound in bounds.items()},
        refused=refused,
        networks=torch.full((len(x),), network),
    )


def radii_or_reason(
    bound: Certificate, clf: Classifier, x: Tensor, y: Tensor | None = None
) -> tuple[Tensor, str | None]:
    """`(N,)` radii; NaN, and the reason, for a network that the bound refuses."""
    try:
        return bound(clf, x, y).radius.double().cpu(), None
    except UnsupportedOperationError as error:
        return torch.full((len(x),), torch.nan, dtype=torch.float64), str(error)


def _exact(
    clf: Classifier,
    x: Tensor,
    y: Tensor,
    distances: Mapping[str, Tensor],
    points: Mapping[str, Tensor],
    seconds: float,
) -> Tensor:
    """`(N,)`: exact distances; NaN where the time, or what the attacks found, was not enough.

    Inputs without bounds get a box around all samples with as much room as the farthest of the
    nearest examples needs: nothing nearer can lie outside of it. Where there is no example, there
    is no such box.
    """
    every = torch.stack(list(distances.values())).nan_to_num(nan=torch.inf, posinf=torch.inf)
    reach, which = every.min(dim=0)
    start = torch.stack(list(points.values()))[which, torch.arange(len(x))].to(x)
    known = reach.isfinite()
    if not clf.bounded:
        if not bool(known.any()):
            return torch.full_like(reach, torch.nan)
        room = float(reach[known].max()) * (1 + 1e-9)
        lower = torch.maximum(x.amin(dim=0) - room, clf.lower)
        upper = torch.minimum(x.amax(dim=0) + room, clf.upper)
        clf = Classifier(clf.network, bounds=(lower, upper), name=clf.name)
    else:
        known = torch.ones_like(known)
    found = ExactDistance(seconds=seconds)(clf, x, y, start=start)
    return torch.where(found.finished.cpu() & known, found.upper.cpu(), torch.nan)


def joined(parts: Sequence[Measured]) -> Measured:
    """The samples of several networks, or of parts of the data, as one."""
    first = parts[0]

    def together(field: str) -> dict[str, Tensor]:
        return {name: torch.cat([getattr(p, field)[name] for p in parts]) for name in
                getattr(first, field)}  # fmt: skip

    return Measured(
        decisions=torch.cat([part.decisions for part in parts]),
        distances=together("distances"),
        points=together("points"),
        radii=together("radii"),
        sound=first.sound,
        refused={name: why for part in reversed(parts) for name, why in part.refused.items()},
        networks=torch.cat([part.networks for part in parts]),
    )


@dataclass(frozen=True, kw_only=True)
class FastGradient(Attack):
    """The nearer of what FGS and FGV find, as in section 4.4 of the Bounds thesis.

    max_eps: largest step of FGS per input value, in the input's units; FGV gets the same length in
             L2. Unlimited by default.
    """

    max_eps: float | None = None

    def search(self, clf: Classifier, x: Tensor, goal: Goal, rng: SampleRng) -> Tensor:
        longest = None if self.max_eps is None else self.max_eps * math.sqrt(x[0].numel())
        best = Best(x, self.norm)
        for attack in (FGS(max_eps=self.max_eps), FGV(max_eps=longest)):
            point = attack.search(clf, x, goal, rng)
            best.offer(point, clf.logits(point), goal)
        return best.point


def summary(found: Measured) -> dict[str, Any]:
    """The figures of all attacks and bounds, as plain values for JSON; None for unknown ones."""
    attacks = list(dict.fromkeys([*found.distances, BEST]))
    return {
        "samples": len(found.decisions),
        "attacks": {
            name: {
                "success_rate": plain(found.success_rate(name)),
                "distance": plain_spread(Spread.of(found.distance(name))),
            }
            for name in attacks
        },
        "bounds": {
            name: {
                "sound": found.sound[name],
                "refused": found.refused.get(name),
                "violations": int(found.violations(name).sum()),
                "radius": plain_spread(Spread.of(found.radii[name])),
                "deviation": {
                    a: plain_spread(Spread.of(found.deviations(a, name))) for a in attacks
                },
                "tightness": {
                    a: plain_spread(Spread.of(found.tightness(a, name))) for a in attacks
                },
            }
            for name in found.radii
        },
    }


def plain_spread(spread: Spread | None) -> dict[str, float | None] | None:
    """Its fields; None for those that are not finite."""
    if spread is None:
        return None
    return {key: plain(value) for key, value in asdict(spread).items()}


def plain(value: float) -> float | None:
    """The number; None where it is not finite, which JSON does not know."""
    return value if math.isfinite(value) else None
