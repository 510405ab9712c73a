"""Is an audit bitwise the same for unit sizes 1, 7 and 64, and under permutation?

The tests ask this of shortened methods; here it is asked of the audit as people run it, with its
default methods and chunk size.

    python benchmarks/determinism.py [--samples 10] [--model fonts-plain] [--data fonts]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

import elbowroom
from elbowroom.audit import Store
from elbowroom.audit.tables import Tables, read_tables


def run(
    clf: elbowroom.Classifier, data: elbowroom.data.Dataset, order: list[int], unit: int
) -> Tables:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        elbowroom.audit(clf, data.take(order), out, indices=order, unit=unit)
        store = Store(str(out))
        return read_tables(store, store.config())


def differences(mine: Tables, reference: Tables, order: list[int]) -> list[str]:
    """The stored columns that are not the same bit for bit."""
    pairs = {"logits": (mine.logits, reference.logits)}
    for name, attack in reference.attacks.items():
        pairs[f"{name}.points"] = (mine.attacks[name].points, attack.points)
        pairs[f"{name}.distance"] = (mine.attacks[name].distance, attack.distance)
    for name, radius in reference.certificates.items():
        pairs[name] = (mine.certificates[name], radius)
    for name, inverted in reference.invariance.items():
        pairs[f"{name}.points"] = (mine.invariance[name].points, inverted.points)
        pairs[f"{name}.mse"] = (mine.invariance[name].feature_mse, inverted.feature_mse)
    return [name for name, (a, b) in pairs.items() if not np.array_equal(a, b[order])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--model", default="fonts-plain")
    parser.add_argument("--weights")
    parser.add_argument("--data", default="fonts")
    options = parser.parse_args()
    data = elbowroom.data.load(options.data, "test", options.samples)
    model = elbowroom.models.load(options.model, options.weights)
    clf = elbowroom.Classifier(model, bounds=data.bounds, name=options.model)
    plain = list(range(len(data)))
    shuffled = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    reference = run(clf, data, plain, 64)
    for name, order, unit in (
        ("unit size 7", plain, 7),
        ("unit size 1", plain, 1),
        ("permuted, unit size 7", shuffled, 7),
    ):
        start = perf_counter()
        differing = differences(run(clf, data, order, unit), reference, order)
        verdict = "bitwise equal" if not differing else f"DIFFERS in {', '.join(differing)}"
        print(f"{name:<24}{verdict} ({perf_counter() - start:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
