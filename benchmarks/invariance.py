"""How near another image do inversions get, how exactly, and what do they cost?

    python benchmarks/invariance.py                                   # run and table
    python benchmarks/invariance.py run --models kw_mnist --methods 'preimage*' adam
    python benchmarks/invariance.py table --out runs/invariance

Pairs of MNIST test images are drawn at random (--seed): the logits of the first, near the second.
Slow methods run on the first pairs only (see METHODS). Runs can be interrupted at any time; the
same command goes on with what is missing. See README.md.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import elbowroom
from bench_models import MODELS, WEIGHTS, fingerprint
from bench_store import Store, Unit
from elbowroom import Classifier
from elbowroom.invariance import (
    AdamOnLogits,
    Inversion,
    LinearRegionInversion,
    PGDOnLogits,
    PreimageDescent,
)
from elbowroom.norms import L2, Linf
from elbowroom.perception import median_interval

NETWORKS = ["kw_mnist", "WK17a", "madry-plain", "madry-l2", "madry-linf"]
QUICK = {"begin": ("toward",), "steps": 20, "memory": 0.7, "walk_steps": 0}
DRAWN = 1000  # pairs, of which the first are used
PASSES = ("forward", "backward", "jvp", "vjp")


@dataclass(frozen=True)
class Method:
    """pairs: how many, on small networks and on Madry's. chunk: so many at a time, likewise."""

    build: Callable[[], Inversion]
    dtype: torch.dtype
    pairs: tuple[int, int] = (200, 200)
    chunk: tuple[int, int] = (40, 40)


def linear_region(variant: int) -> LinearRegionInversion:
    """A configuration of the thesis's Table 4.2, and how it picks the final region in 4.3.1."""
    return LinearRegionInversion.variant(variant, tolerance=1e-5, regions=400, pick="last full")


# What counts as the same logits: for PGD the thesis's limit; the linear-region attack ends at a
# mean squared error of 1e-8 to 1e-4 there, so that its limit favours it.
METHODS: dict[str, Method] = {
    "preimage-descent": Method(lambda: PreimageDescent(tolerance=1e-20), torch.float64),
    "preimage-descent-quick": Method(
        lambda: PreimageDescent(tolerance=1e-20, **QUICK), torch.float64
    ),
    "preimage-descent-float32": Method(lambda: PreimageDescent(tolerance=1e-9), torch.float32),
    "preimage-descent-path": Method(
        lambda: PreimageDescent(tolerance=1e-20, path=True), torch.float64
    ),
    "adam": Method(lambda: AdamOnLogits(tolerance=1e-8), torch.float32),
    "pgd": Method(lambda: PGDOnLogits(tolerance=5e-8), torch.float32, (20, 5), (20, 5)),
    "lra-toward": Method(lambda: linear_region(9), torch.float32, (20, 5), (20, 1)),
    "lra-start": Method(lambda: linear_region(1), torch.float32, (5, 5), (5, 1)),
}


def load(name: str, dtype: torch.dtype, weights: Path) -> tuple[Classifier, Tensor, str]:
    """The classifier, the test images, and a fingerprint of the weights."""
    entry = MODELS[name]
    network = elbowroom.models.load(entry.architecture, entry.file(weights))
    data = elbowroom.data.load(entry.data, "test")
    clf = Classifier(network, bounds=data.bounds, dtype=dtype, name=name)
    return clf, data.x.to(dtype), fingerprint(network)


def draw(count: int, seed: int) -> Tensor:
    """`(2, DRAWN)`: numbers of the images of each pair."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(count, (2, DRAWN), generator=generator)


def run(store: Store, model: str, name: str, samples: int, seed: int, weights: Path) -> None:
    method = METHODS[name]
    clf, x, stamp = load(model, method.dtype, weights)
    large = model.startswith("madry")
    pairs, chunk = min(samples, method.pairs[large]), method.chunk[large]
    first, second = draw(len(x), seed)
    inversion = method.build()
    options = json.loads(json.dumps(asdict(inversion), default=repr))
    config = {"method": name, "options": options, "weights": stamp, "seed": seed}
    config["dtype"] = str(method.dtype)
    store.discard_stale(model, name, config)
    stored = store.read(model, name)
    done = set() if stored is None else set(stored.columns["index"].tolist())
    missing = [row for row in range(pairs) if row not in done]
    for at in range(0, len(missing), chunk):
        rows = missing[at : at + chunk]
        x_t, x_0 = x[first[rows]], x[second[rows]]
        began = time.process_time()
        arguments = {"start": x_t, "toward": x_0, "indices": rows}
        if isinstance(inversion, LinearRegionInversion):
            trace = inversion.trace(clf, **arguments)
            found, picked, picked_mse = trace.result, trace.final, trace.final_mse
        else:
            found = inversion(clf, **arguments)
            picked, picked_mse = found.example, found.feature_mse
        cpu = time.process_time() - began
        columns = {
            "index": rows,
            "distance": found.distance.numpy(),
            "distance_linf": found.distance_linf.numpy(),
            "feature_mse": found.feature_mse.numpy(),
            "apart": (x_t - x_0).double().flatten(1).norm(dim=1).numpy(),
            "picked_distance": L2.length(picked.double() - x_0.double()).numpy(),
            "picked_distance_linf": Linf.length(picked.double() - x_0.double()).numpy(),
            "picked_mse": picked_mse.numpy(),
            "worst_on_path": worst_on_path(clf, found.path, x_t).numpy(),
        }
        cost = {**asdict(found.cost), "cpu_seconds": cpu}
        store.write(model, name, rows[0], columns, config, cost)
        median = float(found.distance.median())
        print(f"{model} {name}: {rows[-1] + 1} pairs, median {median:.4f}", flush=True)


def worst_on_path(clf: Classifier, path: Tensor | None, x_t: Tensor) -> Tensor:
    """`(N,)`: the largest feature MSE of any point of the path; NaN without one."""
    worst = torch.full((len(x_t),), torch.nan, dtype=torch.float64)
    if path is None:
        return worst
    with clf.session():
        wanted = clf.logits(x_t)
        errors = [(clf.logits(point) - wanted).square().mean(dim=1) for point in path]
    return torch.stack(errors).amax(dim=0).double()


def table(store: Store, models: list[str], names: list[str]) -> str:
    """Markdown: one table per network, and its ratios."""
    parts = []
    for model in models:
        units = {name: unit for name in names if (unit := store.read(model, name)) is not None}
        if not units:
            continue
        lines = [
            f"**{model}**",
            "",
            "| method | pairs | median L2 (80 % interval) | median Linf | on the first pairs of "
            "the slow ones | MSE within limit | largest MSE | on the path | passes a pair | "
            "CPU s a pair |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        few = min(unit.samples for unit in units.values())
        lines += [row(name, unit, few) for name, unit in units.items()]
        for name in ("preimage-descent", "preimage-descent-quick"):
            if {name, "lra-toward"} <= set(units):
                share = passes(units["lra-toward"]) / passes(units[name])
                lines += [
                    "",
                    f"The linear-region attack takes {share:.0f} times the passes of {name}.",
                ]
        commits = sorted({commit for unit in units.values() for commit in unit.commits})
        lines += ["", f"Commits: {', '.join(commits)}.", ""]
        parts += lines
    return "\n".join(parts)


def row(name: str, unit: Unit, few: int) -> str:
    distance, mse = unit.columns["distance"], unit.columns["feature_mse"]
    limit = 1e-20 if METHODS[name].dtype == torch.float64 else unit.config["options"]["tolerance"]
    interval = median_interval(torch.tensor(distance))
    path = unit.columns["worst_on_path"]
    cells = [
        name,
        str(unit.samples),
        f"{interval.median:.3f} ({interval.lower:.3f} to {interval.upper:.3f})",
        f"{np.median(unit.columns['distance_linf']):.3f}",
        f"{np.median(distance[:few]):.3f}",
        f"{(mse <= limit).mean():.1%} (<= {limit:.0e})",
        f"{mse.max():.1e}",
        "" if np.isnan(path).all() else f"{path.max():.1e}",
        f"{passes(unit):,.0f}",
        f"{unit.per_sample('cpu_seconds'):.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def passes(unit: Unit) -> float:
    """A pair's passes of any kind; K rows of a Jacobian count K."""
    return sum(unit.per_sample(kind) for kind in PASSES)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="step", help="run, table; both")
    parser.add_argument("--models", nargs="+", default=NETWORKS, help=", ".join(NETWORKS))
    parser.add_argument("--methods", nargs="+", default=["*"], help=", ".join(METHODS))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/invariance"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of our own networks")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    store = Store(options.out)
    names = [n for n in METHODS if any(fnmatch.fnmatch(n, p) for p in options.methods)]
    if not names:
        sys.exit(f"no method is called {' or '.join(options.methods)}")
    steps = options.steps or ["run", "table"]
    if "run" in steps:
        for model in options.models:
            for name in names:
                run(store, model, name, options.samples, options.seed, options.weights)
    if "table" in steps:
        text = table(store, options.models, names)
        print(text)
        (options.out / "tables.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
