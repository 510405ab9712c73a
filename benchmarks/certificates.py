"""How tight is each certificate, beside the nearest example known, and what does it cost?

    python benchmarks/certificates.py --models kw_mnist --methods linear-relaxation
    python benchmarks/certificates.py table
    python benchmarks/certificates.py exact     # branch and bound, on the networks of exact.py

Results are stored sample by sample under --out; the same command goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor

from bench_models import load
from elbowroom import Classifier, attacks, certificates
from elbowroom.files import write_atomically
from elbowroom.regions import ExactDistance
from exact import NETS, problem

Method = Callable[[Classifier, Tensor, Tensor], tuple[Tensor, object]]


def certificate(name: str, *, box: bool = True, **options: object) -> Method:
    def run(clf: Classifier, x: Tensor, y: Tensor) -> tuple[Tensor, object]:
        if not box:
            clf = Classifier(clf.network, bounds=(-math.inf, math.inf))
        found = certificates.CERTIFICATES[name](**options)(clf, x, y)
        return found.radius, found.cost

    return run


def attack(**options: object) -> Method:
    def run(clf: Classifier, x: Tensor, y: Tensor) -> tuple[Tensor, object]:
        found = attacks.Closest(**options)(clf, x, y)
        return found.distance, found.cost

    return run


METHODS: dict[str, Method] = {
    "closest": attack(),
    "global-lipschitz": certificate("global-lipschitz"),
    "layer-wise": certificate("layer-wise"),
    "linear-relaxation-without-box": certificate("linear-relaxation", box=False),
    "optimised-without-box": certificate("linear-relaxation", box=False, slope_steps=20),
    "linear-relaxation": certificate("linear-relaxation"),
    "semidefinite-8": certificate("semidefinite", steps=8),
    "semidefinite": certificate("semidefinite"),
}


def run(args: argparse.Namespace) -> None:
    for model in args.models:
        problem = load(model, args.samples)
        clf, x, y = problem.clf, problem.x, problem.y
        for name in args.methods:
            for start in range(0, args.samples, args.chunk):
                rows = slice(start, start + args.chunk)
                path = Path(args.out) / model / name / f"{start}.json"
                if path.exists():
                    continue
                radius, cost = METHODS[name](clf, x[rows], y[rows])
                stored = {
                    "rows": problem.indices[rows],
                    "radius": radius.tolist(),
                    "cost": asdict(cost),
                }
                stored |= {"commit": _commit(), "threads": torch.get_num_threads()}
                write_atomically(path, json.dumps(stored).encode())
                print(model, name, start, f"{float(radius.mean()):.4f}", flush=True)


def table(args: argparse.Namespace) -> None:
    for model in args.models:
        found: dict[str, dict[int, float]] = {}
        cost: dict[str, list[dict[str, float]]] = {}
        for name in METHODS:
            for path in sorted((Path(args.out) / model / name).glob("*.json")):
                part = json.loads(path.read_text())
                rows = zip(part["rows"], part["radius"], strict=True)
                found.setdefault(name, {}).update(rows)
                cost.setdefault(name, []).append(part["cost"])
        if not found:
            continue
        nearest = found.get("closest", {})
        print(f"\n{model}\n\n| method | images | mean | of the attack | s | passes |")
        print("|---|---:|---:|---:|---:|---:|")
        for name, radii in found.items():
            shared = [row for row in radii if row in nearest]
            share = fmean(radii[row] / nearest[row] for row in shared) if shared else math.nan
            seconds = sum(part["seconds"] for part in cost[name]) / len(radii)
            kinds = ("forward", "backward", "vjp", "jvp")
            passes = sum(part[kind] for part in cost[name] for kind in kinds) / len(radii)
            mean = fmean(radii.values())
            figures = f"{len(radii)} | {mean:.4f} | {share:.3f} | {seconds:.2f} | {passes:.0f}"
            print(f"| {name} | {figures} |")
        excess = [
            (name, row)
            for name, radii in found.items()
            for row, value in radii.items()
            if name != "closest" and row in nearest and value > nearest[row]
        ]
        print(f"violations: {len(excess)} {excess[:5]}")


def exact(args: argparse.Namespace) -> None:
    """Certified over exact distance, where both methods finish; the network in both precisions."""
    for name in NETS:
        task = problem(name, args.samples, Path(args.out) / "nets")
        for dtype in (torch.float64, torch.float32):
            network, bounds = task.clf.network.to(dtype), (task.clf.lower, task.clf.upper)
            clf = Classifier(network, bounds=bounds, dtype=dtype)
            x = task.x.to(dtype)
            truth = ExactDistance(seconds=60)(clf, x, task.y)
            found = certificates.BranchAndBound(seconds=60)(clf, x, task.y)
            closed = truth.finished
            ratio = found.radius[closed] / truth.upper[closed]
            print(
                f"{name}, {dtype}: {int(closed.sum())} of {args.samples} closed, certified / "
                f"exact from {float(ratio.min()):.6f} to {float(ratio.max()):.9f}",
                flush=True,
            )


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("action", nargs="?", choices=("run", "table", "exact"), default="run")
    parser.add_argument("--models", nargs="+", default=["kw_mnist", "WK17a", "RSL18a"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--chunk", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/certificates")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    {"run": run, "table": table, "exact": exact}[args.action](args)


if __name__ == "__main__":
    sys.exit(main())
