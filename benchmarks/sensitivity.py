"""How near do the attacks get, and what do they cost? Every model x attack in one run, one table.

    python benchmarks/sensitivity.py                              # run, table and plot
    python benchmarks/sensitivity.py run --models WK17a --attacks 'closest-*' 'foolbox-*'
    python benchmarks/sensitivity.py table plot --out runs/sensitivity

The first --samples correctly classified test images of each model are attacked. Runs can be
interrupted at any time; the same command goes on with what is missing. See README.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import bench_plot
import bench_report
from bench_attacks import LINE_SEARCH_STEPS, Method, Outcome, select
from bench_models import MODELS, WEIGHTS, Problem, load
from bench_store import Store

STEPS = ("run", "table", "plot")


def run(store: Store, models: list[str], patterns: list[str], samples: int, weights: Path) -> None:
    attacks = list(select(patterns))
    for name, made in attacks:
        if isinstance(made, Exception):
            print(f"{name}: left out: {made}", flush=True)
    for model in models:
        try:
            problem = load(model, samples, weights)
        except (FileNotFoundError, ValueError) as error:
            print(f"{model}: left out: {error}", flush=True)
            continue
        for name, made in attacks:
            if not isinstance(made, Exception):
                run_unit(store, model, name, made, problem, MODELS[model].batch)


def run_unit(
    store: Store, model: str, name: str, method: Method, problem: Problem, batch: int
) -> None:
    """Attack in batches; each is stored as soon as it is done."""
    config = {
        "attack": method.config,
        "weights": problem.fingerprint,
        "batch": batch,
        "line_search_steps": LINE_SEARCH_STEPS,
    }
    store.discard_stale(model, name, config)
    warm = False
    for start in range(0, len(problem.x), batch):
        rows = slice(start, start + batch)
        indices = problem.indices[rows]
        if store.has(model, name, start, indices):
            continue
        try:
            if not warm:
                method.warm_up(problem)
                warm = True
            outcome = method.attack(problem, rows)
        except Exception as error:  # one broken attack must not cost the others their run
            print(f"{model} {name}: failed: {type(error).__name__}: {error}", flush=True)
            return
        store.write(model, name, start, columns(indices, outcome), config, cost(outcome))
        found = outcome.distance[outcome.distance.isfinite()]
        seconds = outcome.cost.seconds / len(indices)
        print(
            f"{model} {name}: {start + len(indices)} samples, batch mean {found.mean():.4f} "
            f"({len(found)}/{len(indices)} found), {seconds:.4f} s each",
            flush=True,
        )


def columns(indices: list[int], outcome: Outcome) -> dict[str, object]:
    return {
        "index": indices,
        "distance": outcome.distance.numpy(),
        "raw_distance": outcome.raw_distance.numpy(),
        "success": outcome.distance.isfinite().numpy(),
    }


def cost(outcome: Outcome) -> dict[str, float]:
    passes = outcome.cost
    return {
        "forward": passes.forward,
        "backward": passes.backward,
        "jvp": passes.jvp,
        "vjp": passes.vjp,
        "seconds": passes.seconds,
        "cpu_seconds": outcome.cpu_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="step", help=f"of {', '.join(STEPS)}; all")
    parser.add_argument("--models", nargs="+", default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument(
        "--attacks", nargs="+", default=["*"], help="names, or patterns like 'ddn*'"
    )
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/sensitivity"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of our own networks")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    for step in options.steps:
        if step not in STEPS:
            parser.error(f"there is no step {step!r}; choose from {', '.join(STEPS)}")
    for model in options.models:
        if model not in MODELS:
            parser.error(f"there is no model {model!r}; choose from {', '.join(MODELS)}")
    torch.set_num_threads(options.threads)
    store = Store(options.out)
    steps = options.steps or STEPS
    if "run" in steps:
        run(store, options.models, options.attacks, options.samples, options.weights)
    results = bench_report.collect(store, options.models, options.attacks, options.samples)
    if not results:
        sys.exit(f"there are no results in {options.out}")
    if "table" in steps:
        text = bench_report.tables(results)
        print(text)
        (options.out / "tables.md").write_text(text + "\n")
    if "plot" in steps:
        bench_plot.plot(results, options.out)


if __name__ == "__main__":
    main()
