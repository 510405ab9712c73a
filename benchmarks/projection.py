"""Projections onto linear regions: against DAQP, and against the solver of the LRA paper.

    python benchmarks/projection.py [--nets kw_mnist RSL18a digits-cnn ...] [--regions 100]
                                    [--accelerated 20] [--threads 1]

In float64. The regions are those that the attack `LinearRegion` visits on its walk along the
decision boundary, from 10 test samples of each network. Every one is projected onto three times:

- ours: `WorkingSet()` as it comes, in batches of up to 20 regions;
- DAQP (Arnstrom, Bemporad and Axehill 2022), one region at a time, on all rows of the region if
  these are at most 2000. The matrices of larger ones are too large: there DAQP solves a growing
  subset of the rows, to which the most violated ones are added until none is left, which is the
  same optimum. The time is that of DAQP only, without the computation of rows.
- the paper's solver, `Accelerated()` with 500 steps, for the first regions only, in batches of 20.

The small networks are trained on scikit-learn's digits on the first run (seconds; kept in
OUT/nets). The others: docs/data.md and benchmarks/README.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import daqp
import numpy as np
import torch
from torch import Tensor

import bench_models
from bench_tables import markdown
from elbowroom import Classifier, data, models, training
from elbowroom.attacks import Towards
from elbowroom.attacks.linear_region import QUICK
from elbowroom.attacks.region_walk import RegionWalk, Solved
from elbowroom.goals import Misclassified
from elbowroom.norms import L2
from elbowroom.regions import Accelerated, Polytopes, WorkingSet
from elbowroom.sampling import SampleRng

SAMPLES, STARTS, BATCH = 10, 2, 20
ALL_ROWS = 2000
ADDED = 48
TOLERANCE = 1e-9
INFEASIBLE = -1  # DAQP's exit flag
SMALL = {
    "digits-mlp": ("mlp", {"sizes": (64, 32, 32, 10)}),
    "digits-resnet": ("resnet13", {"width": 2, "size": 8}),
    "digits-cnn": ("fonts-cnn", {"size": 8}),
}
NETS = ("kw_mnist", "madry-linf", "RSL18a", *SMALL)


@dataclass
class Comparison:
    """What one network's regions gave; a list entry per region."""

    name: str
    slots: int
    distances: list[float]
    exact: list[float]
    violations: list[float]
    ours_seconds: float = 0.0
    daqp_seconds: float = 0.0
    accelerated: tuple[float, float, float] = (np.nan, np.nan, np.nan)


def load(name: str, folder: Path) -> tuple[Classifier, Tensor, Tensor]:
    """A classifier in float64 and samples that it classifies correctly, with their labels."""
    if name not in SMALL:
        problem = bench_models.load(name, SAMPLES)
        network = problem.clf.network.double()
        return Classifier(network, bounds=(0, 1), name=name), problem.x.double(), problem.y
    architecture, options = SMALL[name]
    file = folder / name / training.loop.WEIGHTS_FILE
    if not file.exists():
        torch.manual_seed(0)
        train, settings = data.load("digits", "train"), training.TrainingRun(epochs=20)
        training.train(
            models.build(architecture, **options), train, training.Plain(), settings,
            folder=folder / name, accelerator="cpu",
        )  # fmt: skip
    network = models.load(architecture, file, **options).double()
    test = data.load("digits", "test")
    clf = Classifier(network, bounds=test.bounds, name=name)
    x = test.x.double()
    rows = bench_models.first_correct(clf, x, test.y, SAMPLES)
    return clf, x[rows], test.y[rows]


def regions(
    clf: Classifier, x: Tensor, y: Tensor, count: int
) -> Iterator[tuple[Polytopes, Tensor]]:
    """Batches of regions with their samples, as the walk of `LinearRegion` visits them."""
    goal, rng = Misclassified(y), SampleRng(0, range(len(x)))
    points = Towards().find(clf, x, goal, STARTS, rng, L2).flatten(0, 1)
    rows = torch.arange(len(x)).repeat_interleave(STARTS)
    lanes = torch.arange(len(rows))
    seen: list[tuple[Polytopes, Tensor]] = []

    def solve(polytopes, x, ceiling, guess, lanes):
        seen.append((polytopes, x))
        found = QUICK(polytopes, x, ceiling=ceiling, guess=guess)
        return Solved(found.iterates, found.multipliers)

    walk = RegionWalk(
        clf, x[rows], goal.take(rows), points, rows, rng.children(rows, lanes % STARTS), solve,
        q=0.8, gamma=6.0, block=BATCH,
    )  # fmt: skip
    while count > 0:
        seen.clear()
        walk.step(lanes)
        for polytopes, samples in seen:
            first = torch.arange(min(count, len(polytopes)))
            yield polytopes.take(first), samples[first]
            count -= len(first)


def by_daqp(polytopes: Polytopes, x: Tensor) -> tuple[float, float]:
    """The distance of one region, `inf` if it is infeasible, and the seconds DAQP took."""
    clf = polytopes.clf
    origin = x.flatten().numpy()
    lower, upper = (b.expand(x.shape[1:]).flatten().numpy() for b in (clf.lower, clf.upper))
    at_x = polytopes.excess(x)
    slots = torch.arange(polytopes.slots if polytopes.slots <= ALL_ROWS else 1)[None]
    rows, bounds = np.zeros((0, len(origin))), np.zeros(0)
    seconds = 0.0
    while True:
        new = _rows(polytopes, slots)
        length = np.linalg.norm(new, axis=1)
        keep = (length > 0) & at_x[0, slots[0]].isfinite().numpy()
        rows = np.vstack([rows, new[keep] / length[keep, None]])
        right = -at_x[0, slots[0]].numpy()[keep] / length[keep]
        bounds = np.concatenate([bounds, right])
        start = perf_counter()
        moved, _, flag, _ = daqp.solve(
            np.eye(len(origin)), np.zeros(len(origin)), np.ascontiguousarray(rows),
            np.concatenate([upper - origin, bounds]),
            np.concatenate([lower - origin, np.full(len(bounds), -1e30)]),
            np.zeros(len(origin) + len(bounds), dtype=np.int32), primal_tol=1e-10,
        )  # fmt: skip
        seconds += perf_counter() - start
        if flag == INFEASIBLE:
            return np.inf, seconds
        if flag != 1:
            raise RuntimeError(f"DAQP ended with {flag}")
        excess = polytopes.excess(x + torch.from_numpy(moved).view_as(x))
        largest = float(excess[excess.isfinite()].abs().max())
        if polytopes.slots <= ALL_ROWS or float(excess.max()) <= TOLERANCE * largest:
            return float(np.linalg.norm(moved)), seconds
        slots = excess.topk(ADDED, dim=1).indices
        slots = slots[excess.gather(1, slots) > 0][None]


def _rows(polytopes: Polytopes, slots: Tensor) -> np.ndarray:
    """`(R, d)`, some at a time: the paths of all rows at once need much memory."""
    batched = Polytopes(polytopes.clf, polytopes.affine, polytopes.decision, block=64)
    return batched.rows(slots)[0].flatten(1).numpy()


def compare(name: str, folder: Path, count: int, accelerated: int) -> Comparison:
    clf, x, y = load(name, folder)
    result = Comparison(name, 0, [], [], [])
    slow: list[tuple[float, float, float]] = []
    for polytopes, samples in regions(clf, x, y, count):
        result.slots = polytopes.slots
        start = perf_counter()
        found = WorkingSet()(polytopes, samples)
        result.ours_seconds += perf_counter() - start
        unsolved = ~(found.solved | found.infeasible)
        if bool(unsolved.any()):
            print(f"{name}: {int(unsolved.sum())} neither solved nor infeasible", flush=True)
        result.distances += torch.where(found.solved, found.lower, torch.inf).tolist()
        lengths = (found.z - samples).flatten(1).norm(dim=1)
        result.violations += (lengths / found.lower - 1)[found.solved].abs().tolist()
        for row in range(len(polytopes)):
            one = torch.tensor([row])
            exact, seconds = by_daqp(polytopes.take(one), samples[one])
            result.exact.append(exact)
            result.daqp_seconds += seconds
        if len(slow) < accelerated:
            slow += _published(polytopes, samples, found.lower, accelerated - len(slow))
        print(f"{name}: {len(result.exact)} regions", flush=True)
    if slow:
        seconds, below, away = (np.array(column) for column in zip(*slow, strict=True))
        result.accelerated = (seconds.mean(), np.median(below), np.median(away))
    return result


def _published(
    polytopes: Polytopes, x: Tensor, exact: Tensor, count: int
) -> list[tuple[float, float, float]]:
    """Seconds, how far the bound is below the optimum, how far the point is from the polytope.

    Of the feasible ones among the first `count` regions; both relative to the distance.
    """
    some = torch.arange(min(count, len(polytopes)))
    polytopes, x, exact = polytopes.take(some), x[some], exact[some]
    start = perf_counter()
    found = Accelerated()(polytopes, x, SampleRng(0, some.tolist()))
    seconds = (perf_counter() - start) / len(some)
    away = WorkingSet()(polytopes, found.z).lower / exact
    return [
        (seconds, 1 - float(found.lower[row] / exact[row]), float(away[row]))
        for row in exact.isfinite().nonzero().squeeze(1).tolist()
    ]


def row_of(result: Comparison) -> list[str]:
    ours, exact = np.array(result.distances), np.array(result.exact)
    both = np.isfinite(ours) & np.isfinite(exact)
    count = len(ours)
    seconds, below, away = result.accelerated
    return [
        result.name,
        str(count),
        f"{result.slots:,}",
        f"{(np.isfinite(ours) == np.isfinite(exact)).mean():.0%}",
        str(int(np.isinf(exact).sum())),
        f"{np.abs(ours[both] / exact[both] - 1).max():.1e}",
        f"{(ours[both] / exact[both] - 1).max():.1e}",
        f"{max(result.violations):.1e}",
        f"{1e3 * result.ours_seconds / count:.1f}",
        f"{1e3 * result.daqp_seconds / count:.1f}",
        f"{1e3 * seconds:.0f}",
        f"{below:.1%}",
        f"{away:.1%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--regions", type=int, default=100, help="of each network")
    parser.add_argument("--accelerated", type=int, default=20, help="of these, for its solver")
    parser.add_argument("--out", type=Path, default=Path("runs/projection"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = [
        row_of(compare(name, options.out / "nets", options.regions, options.accelerated))
        for name in options.nets
    ]
    print(
        markdown(
            ["net", "regions", "slots", "agree on feasibility", "infeasible",
             "largest difference", "bound above optimum", "point against bound", "ours ms",
             "DAQP ms", "published ms", "its bound below", "its point outside"],
            table,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
