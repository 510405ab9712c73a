"""Exact distances on small networks, and how often an attack finds them.

    python benchmarks/exact.py [--nets two-moons digits mnist-17] [--samples 50] [--seconds 60]
                               [--attacks closest ddn-targeted-9]

Three multilayer perceptrons with ReLU are trained on the first run (seconds; kept in OUT/nets):
2-8-4-2 on two moons, 64-16-16-10 on scikit-learn's digits, and 784-10-50-10-2 on the digits 1 and 7
of MNIST, the architecture of GeoCert (Jordan, Lewis and Dimakis 2019). The samples are the first
test samples that the network classifies correctly. Every sample is a file of its own in OUT, so
that an interrupted run goes on where it stopped. MNIST: see docs/data.md.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bench_attacks import Method, Ours, select
from bench_models import Problem, fingerprint, first_correct
from bench_store import Store
from bench_tables import markdown
from elbowroom import Classifier, attacks, data, models, training
from elbowroom.data import Dataset
from elbowroom.norms import L2
from elbowroom.regions import ExactDistance

EXACT = "exact"
START = attacks.DDN(runner_ups=9)
"""Finds the points to start from; its time counts."""
AGREES = 1e-4
"""Relative difference up to which an attack has found the exact distance."""


@dataclass(frozen=True)
class Net:
    """data: of `elbowroom.data`; pair: two of its classes, if not all; count: training points."""

    data: str
    sizes: tuple[int, ...]
    epochs: int
    pair: tuple[int, int] | None = None
    count: int | None = None

    def load(self, split: str) -> Dataset:
        loaded = data.load(self.data, split, self.count if split == "train" else None)
        if self.pair is None:
            return loaded
        first, second = self.pair
        two = loaded.take(((loaded.y == first) | (loaded.y == second)).nonzero().squeeze(1))
        return replace(two, y=(two.y == second).long(), classes=(str(first), str(second)))


NETS = {
    "two-moons": Net("two-moons", (2, 8, 4, 2), epochs=60, count=2000),
    "digits": Net("digits", (64, 16, 16, 10), epochs=60),
    "mnist-17": Net("mnist", (784, 10, 50, 10, 2), epochs=10, pair=(1, 7)),
}


def problem(name: str, samples: int, folder: Path) -> Problem:
    """The trained network of that name and its first correctly classified test samples."""
    net = NETS[name]
    file = folder / name / training.loop.WEIGHTS_FILE
    if not file.exists():
        torch.manual_seed(0)
        network = models.build("mlp", sizes=net.sizes)
        settings = training.TrainingRun(epochs=net.epochs)
        training.train(
            network, net.load("train"), training.Plain(), settings, folder=folder / name,
            accelerator="cpu",
        )  # fmt: skip
    network = models.load("mlp", file, sizes=net.sizes)
    test = net.load("test")
    clf = Classifier(network, bounds=test.bounds, name=name)
    indices = first_correct(clf, test.x, test.y, samples)
    return Problem(clf, test.x[indices], test.y[indices], indices, fingerprint(network))


def measure(store: Store, name: str, problem: Problem, solver: ExactDistance) -> None:
    """One file for each sample that is not stored yet."""
    config = {"method": repr(solver), "start": repr(START), "weights": problem.fingerprint}
    store.discard_stale(name, EXACT, config)
    replace(solver, regions=1)(problem.clf, problem.x[:1], problem.y[:1])  # traced, warm
    for row, index in enumerate(problem.indices):
        if store.has(name, EXACT, row, [index]):
            continue
        x, y = problem.x[row : row + 1], problem.y[row : row + 1]
        first = START(problem.clf, x, y)
        result = solver(problem.clf, x, y, start=first.adversarial)
        seconds = first.cost.seconds + result.cost.seconds
        columns = {
            "index": [index],
            "lower": result.lower.numpy(),
            "upper": result.upper.numpy(),
            "finished": result.finished.numpy(),
            "regions": result.regions.numpy(),
            "seconds": [seconds],
        }
        store.write(name, EXACT, row, columns, config, {"seconds": seconds})
        state = "exact" if bool(result.finished) else "stopped"
        print(
            f"{name} {row}: {float(result.lower):.6f} .. {float(result.upper):.6f}, {state}, "
            f"{int(result.regions)} regions, {seconds:.1f} s",
            flush=True,
        )


def exact_row(name: str, columns: dict[str, np.ndarray]) -> list[str]:
    seconds, regions = columns["seconds"], columns["regions"]
    return [
        name,
        str(len(seconds)),
        f"{columns['finished'].mean():.0%}",
        f"{np.median(columns['upper']):.4f}",
        f"{np.median(seconds):.2f}",
        f"{seconds.max():.2f}",
        f"{np.median(regions):.0f}",
        f"{regions.max():.0f}",
        f"{regions.sum() / seconds.sum():.0f}",
    ]


def methods(wanted: list[str]) -> dict[str, Method]:
    """Attacks by name: those of `ATTACKS` as they come, others as the benchmark has them."""
    found: dict[str, Method] = {}
    for name in wanted:
        if name in attacks.ATTACKS:
            found[name] = Ours(attacks.ATTACKS[name](norm=L2))
            continue
        for match, method in select([name]):
            if isinstance(method, Exception):
                print(f"{match}: left out: {method}", flush=True)
            else:
                found[match] = method
    return found


def attack_rows(
    name: str, problem: Problem, lower: np.ndarray, methods: dict[str, Method]
) -> list[list[str]]:
    rows = []
    for attack, method in methods.items():
        outcome = method.attack(problem, slice(None))
        excess = outcome.distance.numpy() / lower - 1
        rows.append(
            [
                name,
                attack,
                f"{(excess <= AGREES).mean():.0%}",
                f"{np.median(excess):.1e}",
                f"{excess.max():.1e}",
                f"{excess.min():.1e}",
                f"{outcome.cost.seconds / len(excess):.3f}",
            ]
        )
    return rows


def default_attack() -> str:
    return "closest" if "closest" in attacks.ATTACKS else "ddn-targeted-9"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0, help="limit of each sample")
    parser.add_argument("--attacks", nargs="+", default=None, help="names or patterns")
    parser.add_argument("--out", type=Path, default=Path("runs/exact"))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    store = Store(options.out / "results")
    table, against = [], []
    found = methods(options.attacks or [default_attack()])
    for name in options.nets:
        task = problem(name, options.samples, options.out / "nets")
        measure(store, name, task, ExactDistance(seconds=options.seconds))
        unit = store.read(name, EXACT)
        assert unit is not None
        columns = {key: values[: options.samples] for key, values in unit.columns.items()}
        table.append(exact_row(name, columns))
        against += attack_rows(name, task, columns["lower"], found)
    print(
        markdown(
            ["net", "samples", "finished", "median distance", "median s", "longest s",
             "median regions", "most", "regions/s"],
            table,
        )
    )  # fmt: skip
    print(
        markdown(
            ["net", "attack", "exact", "median excess", "largest", "smallest", "s/sample"], against
        )
    )


if __name__ == "__main__":
    main()
