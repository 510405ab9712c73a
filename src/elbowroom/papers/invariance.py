"""Section 4.2 and Fig. 4.17 of the Invariance thesis, as numbers: the linear region attack.

Fig. 4.1, 4.2, 4.4 and 4.5 (`step_sweep`), Fig. 4.9 (`ablation`), Table 4.4, Fig. 4.11 and 4.17
(`compare`), for any classifiers and pairs of inputs. All pairs are run on all classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elbowroom.classifier import Classifier, as_classifier
from elbowroom.invariance.base import Inversion
from elbowroom.invariance.linear_region import VARIANTS, LinearRegionInversion
from elbowroom.invariance.linear_region_walk import Begin, Pick
from elbowroom.papers.lra import Advance
from elbowroom.regions import Accelerated

Classifiers = Mapping[str, Classifier | nn.Module]
Factor = Literal["begin", "adaptive", "directed", "explore"]

SOLVER_STEPS = (100, 500, 1000, 2500, 5000, 10_000)
BEGINS: tuple[Begin, ...] = ("start", "toward")
WINDOW = 25


@dataclass(frozen=True)
class Curve:
    """Over R regions: medians `(R,)` of the distance to `toward` and of the feature MSE."""

    distance: Tensor
    feature_mse: Tensor


@dataclass(frozen=True)
class Ablation:
    """Table 4.2's configurations, V of them, over R regions of N runs.

    variants:    their numbers. classifiers: their names; runs are in their order, then by pair.
    distance:    `(V, R, N)`, L2, of each region's proposal to `toward`. feature_mse: of the same.
                 Where a region was not solved, of the last one that was; NaN before the first.
    final:       `(V, N)`: distances of the results, `inf` for failures.
    """

    variants: tuple[int, ...]
    classifiers: tuple[str, ...]
    distance: Tensor
    feature_mse: Tensor
    final: Tensor

    def curve(self, variants: Sequence[int], window: int = WINDOW) -> Curve:
        """Region-wise medians over all runs of `variants`, as running averages over `window`."""
        rows = [self.variants.index(number) for number in variants]
        medians = (
            values[rows].transpose(0, 1).flatten(1).nanquantile(0.5, dim=1)
            for values in (self.distance, self.feature_mse)
        )
        return Curve(*(_running_average(median, window) for median in medians))

    def marginal(self, factor: Factor, window: int = WINDOW) -> dict[str, Curve]:
        """One graph of Fig. 4.9: a curve for each value of a factor, over all other factors.

        As in the thesis, what has no counterpart is left out: variants 4 to 7 of `begin`, and 8 to
        11 of `directed` and `explore`.
        """
        groups: dict[str, list[int]] = {}
        for number in self.variants:
            variant = VARIANTS[number]
            lonely = not variant["directed"] if factor == "begin" else False
            if factor in ("directed", "explore"):
                lonely = variant["begin"] == "toward"
            if not lonely:
                groups.setdefault(_value(number, factor), []).append(number)
        return {name: self.curve(numbers, window) for name, numbers in groups.items()}


def _value(number: int, factor: Factor) -> str:
    variant = VARIANTS[number]
    if factor == "begin":
        return variant["begin"]
    if factor == "adaptive":
        return "adaptive" if variant["adaptive"] else "fixed"
    if factor == "directed":
        return "directed" if variant["directed"] else "undirected"
    if factor == "explore":
        return variant["explore"] if variant["explore"] in ("exploit", "explore") else "mixed"
    raise ValueError(f"factor must be one of {', '.join(get_args(Factor))}, not {factor!r}")


def ablation(
    classifiers: Classifiers,
    *,
    start: Tensor,
    toward: Tensor,
    attack: LinearRegionInversion,
    variants: Sequence[int] = tuple(VARIANTS),
    advance: Advance | None = None,
) -> Ablation:
    """Run the configurations of Table 4.2 (section 4.2.5). start, toward: `(P, *shape)`.

    attack: its other settings; in the thesis 1,000 regions and 10,000 solver steps, on ResNet-18
            trained plainly and with RATIO, and 5 pairs.
    """
    _require(classifiers, variants, "variants")
    distances, errors, finals = [], [], []
    done, total = 0, len(variants) * len(classifiers)
    for number in variants:
        runs = []
        for model in classifiers.values():
            chosen = replace(attack, **VARIANTS[number])
            runs.append(chosen.trace(as_classifier(model), start=start, toward=toward))
            done += 1
            if advance is not None:
                advance(done, total)
        distances.append(_filled(torch.cat([run.visits.distance for run in runs], dim=1)))
        errors.append(_filled(torch.cat([run.visits.feature_mse for run in runs], dim=1)))
        finals.append(torch.cat([run.result.distance for run in runs]))
    return Ablation(
        variants=tuple(variants),
        classifiers=tuple(classifiers),
        distance=torch.stack(distances),
        feature_mse=torch.stack(errors),
        final=torch.stack(finals),
    )


@dataclass(frozen=True)
class StepSweep:
    """Runs with S numbers of solver steps, on C classifiers, from B beginnings, of P pairs.

    steps, classifiers, begins: what these are.
    distance, feature_mse: `(S, C, B, P)`, of the picked region after it was solved again
             (Fig. 4.1); NaN where a walk had nothing to solve.
    regions_full, regions_least: `(S, C, B, P)`: regions until the last one in which the solver ran
             all its steps, and until the one with the least feature MSE (Fig. 4.4 and 4.5); 0 for
             none.
    solver_steps, region_mse: `(S, R, C, B, P)`: of each region (Fig. 4.2); 0 and NaN where it had
             been solved before.
    """

    steps: tuple[int, ...]
    classifiers: tuple[str, ...]
    begins: tuple[Begin, ...]
    distance: Tensor
    feature_mse: Tensor
    regions_full: Tensor
    regions_least: Tensor
    solver_steps: Tensor
    region_mse: Tensor

    def regions_by(self, group: Literal["begin", "classifier"]) -> dict[str, dict[Pick, Spread]]:
        """Fig. 4.4: regions until the final one, at the largest number of steps, by both rules."""
        row = max(range(len(self.steps)), key=self.steps.__getitem__)
        dim, names = (1, self.begins) if group == "begin" else (0, self.classifiers)
        numbers: dict[Pick, Tensor] = {
            "last full": self.regions_full[row],
            "least feature distance": self.regions_least[row],
        }
        return {
            name: {rule: Spread.of(values.select(dim, i)) for rule, values in numbers.items()}
            for i, name in enumerate(names)
        }

    def regions_by_steps(self) -> dict[int, dict[Pick, Spread]]:
        """Fig. 4.5: regions until the final one, by both rules, for each number of steps."""
        return {
            count: {
                "last full": Spread.of(self.regions_full[row]),
                "least feature distance": Spread.of(self.regions_least[row]),
            }
            for row, count in enumerate(self.steps)
        }


@dataclass(frozen=True)
class Spread:
    """Over runs: the median, and the standard deviation of the finite values (error bars)."""

    median: float
    deviation: float

    @staticmethod
    def of(values: Tensor) -> Spread:
        """NaN is left out; a failure, `inf`, counts in the median."""
        values = values.double().flatten()
        values = values[~values.isnan()].sort().values
        if not len(values):
            return Spread(torch.nan, torch.nan)
        middle = values[(len(values) - 1) // 2] + values[len(values) // 2]
        finite = values[values.isfinite()]
        return Spread(float(middle) / 2, float((finite - finite.mean()).square().mean().sqrt()))


def step_sweep(
    classifiers: Classifiers,
    *,
    start: Tensor,
    toward: Tensor,
    attack: LinearRegionInversion,
    steps: Sequence[int] = SOLVER_STEPS,
    begins: Sequence[Begin] = BEGINS,
    advance: Advance | None = None,
) -> StepSweep:
    """How the number of solver steps matters (sections 4.2.2 and 4.2.3). start: `(P, *shape)`.

    attack: its other settings; in the thesis 1,000 regions, adaptive, "exploit", and 10,000
            `final_steps`; the region of the least feature distance is the one solved again.
    """
    _require(classifiers, steps, "steps")
    _require(classifiers, begins, "begins")
    solver = attack.solver
    if not isinstance(solver, Accelerated):
        raise ValueError("the sweep is over the steps of Accelerated; give the attack that solver")
    columns: dict[str, list[Tensor]] = {}
    done, total = 0, len(steps) * len(classifiers) * len(begins)
    for count in steps:
        for model in classifiers.values():
            for begin in begins:
                chosen = replace(
                    attack,
                    solver=replace(solver, steps=count),
                    begin=begin,
                    pick="least feature distance",
                )
                run = chosen.trace(as_classifier(model), start=start, toward=toward)
                found = {
                    "distance": run.final_distance,
                    "feature_mse": run.final_mse,
                    "regions_full": run.final_region("last full"),
                    "regions_least": run.final_region("least feature distance"),
                    "solver_steps": run.visits.steps,
                    "region_mse": run.visits.feature_mse,
                }
                for name, values in found.items():
                    columns.setdefault(name, []).append(values)
                done += 1
                if advance is not None:
                    advance(done, total)
    shape = (len(steps), len(classifiers), len(begins))
    arrays = {name: _grid(values, shape) for name, values in columns.items()}
    for name in ("solver_steps", "region_mse"):
        arrays[name] = arrays[name].movedim(3, 1)
    return StepSweep(tuple(steps), tuple(classifiers), tuple(begins), **arrays)


@dataclass(frozen=True)
class MethodRow:
    """A row of Table 4.4.

    mean, median: over runs, of the method's distance less the best method's. A failure is
                  infinitely far; runs in which all fail are left out.
    best:         runs in which no method is nearer.
    """

    mean: float
    median: float
    best: int


@dataclass(frozen=True)
class Comparison:
    """M methods on C classifiers and P pairs.

    distance, distance_linf: `(M, C, P)`, float64, to `toward`; `inf` for failures.
    feature_mse: `(M, C, P)`, float64.
    """

    methods: tuple[str, ...]
    classifiers: tuple[str, ...]
    distance: Tensor
    distance_linf: Tensor
    feature_mse: Tensor

    def table_4_4(self) -> dict[str, MethodRow]:
        """How far each method is from the best one."""
        distance = self.distance.flatten(1)
        nearest = distance.amin(dim=0)
        distance, nearest = (v[..., nearest.isfinite()] for v in (distance, nearest))
        beyond = distance - nearest
        rows = {}
        for name, values in zip(self.methods, beyond, strict=True):
            mean = float(values.mean()) if len(values) else torch.nan
            rows[name] = MethodRow(mean, Spread.of(values).median, int((values == 0).sum()))
        return rows

    def spreads(self, norm: Literal["L2", "Linf"] = "L2") -> dict[str, dict[str, Spread]]:
        """Fig. 4.11 and 4.17: the distances over pairs, by method and classifier."""
        if norm not in ("L2", "Linf"):
            raise ValueError(f"norm must be 'L2' or 'Linf', not {norm!r}")
        values = self.distance if norm == "L2" else self.distance_linf
        return {
            method: {
                name: Spread.of(values[row, column]) for column, name in enumerate(self.classifiers)
            }
            for row, method in enumerate(self.methods)
        }


def compare(
    classifiers: Classifiers,
    *,
    start: Tensor,
    toward: Tensor,
    methods: Mapping[str, Inversion],
    advance: Advance | None = None,
) -> Comparison:
    """Run methods on all classifiers and pairs. start, toward: `(P, *shape)`.

    Table 4.4 and Fig. 4.11 compare attacks on plain and robust networks; Fig. 4.17 has one method,
    variant 9 with 400 regions and 1,000 solver steps, and networks trained plainly and
    adversarially in L2 and Linf.
    """
    _require(classifiers, methods, "methods")
    found = []
    for method in methods.values():
        for model in classifiers.values():
            found.append(method(as_classifier(model), start=start, toward=toward))
            if advance is not None:
                advance(len(found), len(methods) * len(classifiers))
    shape = (len(methods), len(classifiers))
    return Comparison(
        tuple(methods),
        tuple(classifiers),
        distance=_grid([result.distance for result in found], shape),
        distance_linf=_grid([result.distance_linf for result in found], shape),
        feature_mse=_grid([result.feature_mse for result in found], shape),
    )


def _require(classifiers: Classifiers, others: object, name: str) -> None:
    if not classifiers or not others:
        raise ValueError(f"give at least one of classifiers and {name}")


def _grid(values: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Stacked, the first dimension cut into `shape`."""
    return torch.stack(list(values)).view(*shape, *values[0].shape)


def _filled(values: Tensor) -> Tensor:
    """`(R, N)`: NaN replaced by the last value above."""
    rows = torch.arange(len(values), device=values.device)[:, None]
    last = torch.where(values.isnan(), 0, rows).cummax(dim=0).values
    return values.gather(0, last)


def _running_average(values: Tensor, window: int) -> Tensor:
    """`(R,)`: means over up to `window` values around each, fewer at the ends."""
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be odd and at least 1, not {window}")
    half = min(window, 2 * len(values) - 1) // 2
    padded = F.pad(values, (half, half))
    there = F.pad(torch.ones_like(values), (half, half))
    sums, counts = (v.unfold(0, 2 * half + 1, 1).sum(dim=1) for v in (padded, there))
    return sums / counts
