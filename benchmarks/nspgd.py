"""Table 1 and the success matrix of NSPGD on MNIST, for plain and adversarially trained networks.

    python benchmarks/nspgd.py [--models madry-plain madry-linf] [--targets 10] [--sources 1]

Steps of 0.01, at most 2,000, confidence within 0.05, as in the paper. LPIPS with AlexNet and 0.03
is replaced by an LPIPS-style distance whose backbone is one network for all rows (--backbone),
below the value that it has for noise of --noise in L2 (the radius for MNIST in the Invariance
thesis's Table 2.1): half of such noisy copies are nearer. The paper draws 10 target images a class;
--sources images of each other class walk to each of them.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import torch

from bench_models import MODELS, WEIGHTS
from bench_store import describe_run
from bench_tables import markdown
from elbowroom.files import write_atomically
from elbowroom.invariance import NSPGD
from elbowroom.papers.nspgd import success_matrix, table_1, transform
from elbowroom.perception import SSIM, FeatureDistance, NoticeableNoise
from invariance import load

NETWORKS = ["madry-plain", "madry-l2", "madry-linf", "kw_mnist", "WK17a"]
CALIBRATION = 500  # test images


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=NETWORKS, choices=list(MODELS))
    parser.add_argument("--targets", type=int, default=10)
    parser.add_argument("--sources", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--two-sided", action="store_true", help="as in the text of section 5.1")
    parser.add_argument("--backbone", default="madry-l2")
    parser.add_argument("--noise", type=float, default=1.5)
    parser.add_argument("--out", type=Path, default=Path("runs/nspgd"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of our own networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone, images, _ = load(options.backbone, torch.float32, options.weights)
    distance = FeatureDistance(backbone, kind="lpips")
    threshold = NoticeableNoise(size=options.noise)(
        distance, images[:CALIBRATION], bounds=(0.0, 1.0)
    )
    print(f"{distance.name}: below {threshold.value:.4g} ({threshold.meaning})")
    attack = NSPGD(
        steps=options.steps,
        two_sided=options.two_sided,
        perceptual=distance,
        threshold=threshold.value,
    )
    ssim = SSIM()
    rows, matrices = [], []
    for name in options.models:
        clf, x, _ = load(name, torch.float32, options.weights)
        began = time.process_time()
        found = transform(
            clf, x[:2000], attack=attack, targets=options.targets, sources=options.sources,
            similarity=lambda a, b: 1 - ssim(a, b),
        )  # fmt: skip
        summary, matrix = table_1(found), success_matrix(found)
        seconds = (time.process_time() - began) / summary.pairs
        similarity = summary.similarity or (float("nan"),) * 2
        rows.append(
            [
                name,
                f"{summary.success:.1%}",
                str(summary.pairs),
                f"{summary.distance[0]:.3f}",
                f"{summary.distance[1]:.3f}",
                f"{similarity[0]:.3f}",
                f"{similarity[1]:.3f}",
                f"{summary.confidence:.3f}",
                f"{seconds:.2f}",
            ]
        )
        print(rows[-1], flush=True)
        rates = [
            [f"{rate:.0%}" if rate == rate else "" for rate in row] for row in by_class(matrix)
        ]
        heads = [str(label) for label in matrix.source_classes.tolist()]
        body = [[str(label), *row] for label, row in zip(heads, rates, strict=True)]
        matrices.append(f"{name}, target class by source class:\n\n{markdown(['', *heads], body)}")
        record = {"summary": asdict(summary), "rates": matrix.rates.tolist(), **describe_run()}
        text = json.dumps({**record, "threshold": threshold.value})
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out / f"{name}.json", text.encode())
    head = [
        "network", "success", "pairs", "mean L2", "median L2", "mean SSIM", "median SSIM",
        "confidence", "CPU s a pair",
    ]  # fmt: skip
    print(markdown(head, rows), *matrices, sep="\n\n")


def by_class(matrix) -> list[list[float]]:
    """The success matrix, averaged over the target images of a class."""
    return [
        matrix.rates[matrix.target_classes == label].mean(dim=0).tolist()
        for label in matrix.source_classes
    ]


if __name__ == "__main__":
    main()
