"""The Invariance thesis's comparisons of attacks and of networks, on MNIST.

    python benchmarks/thesis.py ablation [--models kw_mnist madry-plain] [--pairs 5]
    python benchmarks/thesis.py attacks [--models kw_mnist WK17a] [--methods ...]
    python benchmarks/thesis.py training [--models madry-plain madry-l2 madry-linf]

ablation: the 12 configurations of the linear-region attack of Table 4.2 (Fig. 4.9), with --regions
          of --steps solver steps.
attacks:  Table 4.4 and Fig. 4.11: the attacks of invariance.py, on its first pairs. For the
          linear-region attack also the solution in the last region that the solver was not stopped
          in, however near its logits are, as the thesis measures in 4.3.1.
training: Fig. 4.17: networks trained plainly and adversarially in L2 and Linf.

Results of attacks are shared with invariance.py (--out); what is there already is not run again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from bench_models import WEIGHTS
from bench_store import Store
from bench_tables import markdown
from elbowroom.invariance.linear_region import VARIANTS, LinearRegionInversion
from elbowroom.papers.invariance import Ablation, Comparison, Factor, ablation
from elbowroom.regions import Accelerated
from invariance import draw, load
from invariance import run as run_method

FACTORS: tuple[Factor, ...] = ("begin", "adaptive", "directed", "explore")
ATTACKS = ("preimage-descent", "lra-toward", "lra-start", "pgd", "adam")
PICKED = ", region picked"


def run_ablation(store: Store, model: str, options: argparse.Namespace) -> None:
    """Store a unit for each configuration: of each pair the answer, and what each region gave."""
    clf, x, stamp = load(model, torch.float32, options.weights)
    rows = list(range(options.pairs))
    first, second = draw(len(x), options.seed)[:, rows]
    solver = Accelerated(steps=options.steps, sampled_rows=10)
    attack = LinearRegionInversion(
        solver=solver, regions=options.regions, tolerance=options.tolerance, final_steps=0
    )
    for number in VARIANTS:
        fields = asdict(replace(attack, **VARIANTS[number]))
        config = {"variant": number, "options": fields, "weights": stamp, "seed": options.seed}
        name = f"variant-{number:02d}"
        store.discard_stale(model, name, config)
        if store.has(model, name, 0, rows):
            continue
        began = time.process_time()
        found = ablation(
            {model: clf}, start=x[first], toward=x[second], attack=attack, variants=[number]
        )
        cpu = time.process_time() - began
        columns = {
            "index": rows,
            "final": found.final[0].numpy(),
            "apart": (x[first] - x[second]).double().flatten(1).norm(dim=1).numpy(),
            "distance": list(found.distance[0].T.double().numpy()),
            "feature_mse": list(found.feature_mse[0].T.double().numpy()),
        }
        store.write(model, name, 0, columns, config, {"cpu_seconds": cpu})
        print(f"{model} variant {number}: median {np.median(columns['final']):.3f}", flush=True)


def read_ablation(store: Store, models: Sequence[str]) -> Ablation:
    """What is stored, of the variants that all models have."""
    units = {(m, n): store.read(m, f"variant-{n:02d}") for m in models for n in VARIANTS}
    variants = [n for n in VARIANTS if all(units[m, n] is not None for m in models)]

    def grid(column: str) -> torch.Tensor:
        """`(V, N)` or `(V, N, R)`: rows of all models one after another."""
        found = [
            np.concatenate([np.stack(list(units[m, n].columns[column])) for m in models])
            for n in variants
        ]
        return torch.from_numpy(np.stack(found))

    return Ablation(
        variants=tuple(variants),
        classifiers=tuple(models),
        distance=grid("distance").transpose(1, 2),
        feature_mse=grid("feature_mse").transpose(1, 2),
        final=grid("final"),
    )


def ablation_tables(found: Ablation, apart: torch.Tensor) -> str:
    """Of each variant, and of each factor over all others as in Fig. 4.9."""
    rows = []
    for row, number in enumerate(found.variants):
        variant = VARIANTS[number]
        curve = found.curve([number])
        # Where nothing better was accepted, the answer is the start itself.
        moved = found.final[row] < apart - 1e-6
        rows.append(
            [
                str(number), variant["begin"], "yes" if variant["directed"] else "no",
                "yes" if variant["adaptive"] else "no", variant["explore"],
                f"{found.final[row].quantile(0.5):.3f}", f"{int(moved.sum())} of {len(moved)}",
                f"{curve.distance[-1]:.3f}", f"{curve.feature_mse[-1]:.1e}",
            ]
        )  # fmt: skip
    head = [
        "variant", "begin", "directed", "adaptive", "explore", "median answer",
        "nearer than start", "distance, last regions", "MSE, last regions",
    ]  # fmt: skip
    parts = [markdown(head, rows)]
    regions = found.distance.shape[1]
    marks = sorted({max(regions // 8, 1), max(regions // 4, 1), max(regions // 2, 1), regions})
    rows = []
    for factor in FACTORS:
        for value, curve in found.marginal(factor).items():
            cells = [
                f"{curve.distance[mark - 1]:.3f} ({curve.feature_mse[mark - 1]:.0e})"
                for mark in marks
            ]
            rows.append([factor, value, *cells])
    parts.append(markdown(["factor", "value", *(f"region {mark}" for mark in marks)], rows))
    return "\n\n".join(parts)


def read_comparison(store: Store, models: Sequence[str], names: Sequence[str]) -> Comparison:
    """The pairs that all units have; the linear-region attacks also by the thesis's own measure.

    There, the result is the solution in the region picked, however near its logits are.
    """
    units = {(m, name): store.read(m, name) for m in models for name in names}
    missing = [f"{name} on {m}" for (m, name), unit in units.items() if unit is None]
    if missing:
        sys.exit(f"not run yet: {', '.join(missing)}")
    pairs = min(unit.samples for unit in units.values())

    def grid(columns: dict[str, tuple[str, str]]) -> torch.Tensor:
        stacked = [
            [units[m, name].columns[column][:pairs].astype(float) for m in models]
            for name, column in columns.values()
        ]
        return torch.from_numpy(np.array(stacked))

    methods = list(names) + [name + PICKED for name in names if name.startswith("lra")]

    def columns(own: str, picked: str) -> dict[str, tuple[str, str]]:
        return {m: (m.removesuffix(PICKED), picked if m.endswith(PICKED) else own) for m in methods}

    return Comparison(
        tuple(methods),
        tuple(models),
        distance=grid(columns("distance", "picked_distance")),
        distance_linf=grid(columns("distance_linf", "picked_distance_linf")),
        feature_mse=grid(columns("feature_mse", "picked_mse")),
    )


def comparison_tables(found: Comparison) -> str:
    own = [name for name in found.methods if not name.endswith(PICKED)]
    rows = [index for index, name in enumerate(found.methods) if name in own]
    strict = replace(
        found,
        methods=tuple(own),
        distance=found.distance[rows],
        distance_linf=found.distance_linf[rows],
        feature_mse=found.feature_mse[rows],
    )
    cells = [
        [name, f"{row.mean:.2f}", f"{row.median:.2f}", str(row.best)]
        for name, row in strict.table_4_4().items()
    ]
    head = ["attack", "mean difference to best", "median difference to best", "times best"]
    return "\n\n".join([markdown(head, cells), spread_table(found)])


def spread_table(found: Comparison) -> str:
    """Fig. 4.11 and 4.17: medians over pairs; standard deviations in brackets."""
    rows = []
    l2, linf = found.spreads("L2"), found.spreads("Linf")
    for index, name in enumerate(found.methods):
        for column, model in enumerate(found.classifiers):
            two, most = l2[name][model], linf[name][model]
            mse = found.feature_mse[index, column]
            rows.append(
                [
                    name, model, f"{two.median:.3f} ({two.deviation:.3f})",
                    f"{most.median:.3f} ({most.deviation:.3f})", f"{mse.nanmedian():.1e}",
                ]
            )  # fmt: skip
    return markdown(["attack", "network", "L2", "Linf", "median MSE"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["ablation", "attacks", "training"])
    parser.add_argument("--models", nargs="+")
    parser.add_argument("--methods", nargs="+", help=f"of attacks: {', '.join(ATTACKS)}")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--regions", type=int, default=200, help="of the ablation")
    parser.add_argument("--steps", type=int, default=1000, help="of its solver")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of its logits, as MSE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/invariance"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of our own networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    store = Store(options.out)
    if options.what == "ablation":
        models = options.models or ["kw_mnist"]
        for model in models:
            run_ablation(store, model, options)
        apart = [store.read(m, "variant-00").columns["apart"] for m in models]
        print(
            ablation_tables(read_ablation(store, models), torch.from_numpy(np.concatenate(apart)))
        )
    else:
        every = {
            "attacks": ["kw_mnist", "WK17a"],
            "training": ["madry-plain", "madry-l2", "madry-linf"],
        }
        usual = ATTACKS if options.what == "attacks" else ("preimage-descent", "lra-toward")
        names = options.methods or usual
        models = options.models or every[options.what]
        for model in models:
            for name in names:
                run_method(store, model, name, options.pairs, options.seed, options.weights)
        print(comparison_tables(read_comparison(store, models, names)))


if __name__ == "__main__":
    main()
