"""The linear-region attack at its published settings against the default attack.

    python benchmarks/published.py [--models kw_mnist madry-plain] [--images N] [--chunk 4]

On the first correctly classified test images: 16 of each published network, 2 of each Madry
network, which take far longer. Interrupted runs go on where they stopped, chunk by chunk.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bench_attacks import Ours
from bench_models import MODELS, WEIGHTS, Problem, load
from bench_store import Store
from bench_tables import compare, markdown
from elbowroom import attacks, data
from sensitivity import run_unit

PUBLISHED, DEFAULT = "linear-region-published", "closest-default"
DEFAULT_MODELS = ("kw_mnist", "WK17a", "RSL18a", "madry-plain", "madry-l2", "madry-linf")


def images_of(model: str) -> int:
    return 16 if MODELS[model].published else 2


def methods(points: torch.Tensor, labels: torch.Tensor) -> dict[str, Ours]:
    """Both attacks; the published one starts from the training set `points`, `labels`."""
    published = attacks.LinearRegion.published(points, labels)
    return {PUBLISHED: Ours(published), DEFAULT: Ours(attacks.Closest())}


def row(store: Store, model: str, problem: Problem) -> list[str]:
    """One line of the table; dashes where a chunk failed."""
    units = [store.read(model, name) for name in (PUBLISHED, DEFAULT)]
    if any(unit is None or unit.samples < len(problem.x) for unit in units):
        return [model, *["-"] * 7]
    published, default = (unit for unit in units if unit is not None)
    count = len(problem.x)
    found = compare(published.columns["distance"][:count], default.columns["distance"][:count])
    seconds = [unit.per_sample("cpu_seconds") for unit in (published, default)]
    return [
        f"{model} ({count})",
        f"{found.mean_first:.4f}",
        f"{found.mean_second:.4f}",
        f"{found.worst_excess:+.2%}",
        str(found.over_one_percent),
        f"{seconds[0]:.2f}",
        f"{seconds[1]:.2f}",
        f"{seconds[0] / seconds[1]:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(DEFAULT_MODELS))
    parser.add_argument("--images", type=int, help="of each model; 16 or 2 by default")
    parser.add_argument("--chunk", type=int, default=4, help="images attacked and stored at a time")
    parser.add_argument("--out", type=Path, default=Path("runs/published"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of our own networks")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    store = Store(options.out)
    train = data.load("mnist", "train")
    rows = []
    for model in options.models:
        try:
            problem = load(model, options.images or images_of(model), options.weights)
        except (FileNotFoundError, ValueError) as error:
            print(f"{model}: left out: {error}", flush=True)
            continue
        for name, method in methods(train.x, train.y).items():
            run_unit(store, model, name, method, problem, options.chunk)
        rows.append(row(store, model, problem))
    header = [
        "model (images)", "mean L2 published", "mean L2 default", "worst excess", "over 1 %",
        "CPU s published", "CPU s default", "ratio",
    ]  # fmt: skip
    text = markdown(header, rows)
    print(text)
    if rows:
        (options.out / "tables.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
