"""Peak memory of the attacks that search linear regions, on networks with many units.

    python benchmarks/memory.py [--cases fab-cifar resnet18] [--images 4] [--threads 1]

Each figure is the peak of the resident memory of a fresh process, less what stays resident after
the same work on one image: the network, code, and buffers that libraries keep for good. Linux only,
where the record of the peak can be reset. Random weights and images, in float32; few steps and
regions, which do not change the peak. `forward-backward` is one gradient of the same batch.
The working set is the rows that a projection holds, in float64: regions at a time, times rows,
times features. The share is the peak less the working set, over that of forward-backward.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor

from bench_tables import markdown
from elbowroom import Classifier, models
from elbowroom.attacks import Attack, Closest, LinearRegion
from elbowroom.goals import Misclassified
from elbowroom.regions import working_set

SHAPE = (3, 32, 32)
MEGABYTE = 2**20
RESET_PEAK = "5"
# Freed memory goes back at once, so that what is resident is what is in use.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
WORK = {
    "forward-backward": None,
    "LinearRegion, 1 start": LinearRegion(starts=1, regions=1),
    "LinearRegion, 9 starts": LinearRegion(starts=9, regions=1),
    "Closest": Closest(budget=500),
}


def status(field: str) -> int:
    """Bytes: `VmRSS`, resident now, or `VmHWM`, its peak so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        name, value = line.split(":")
        if name == field:
            return 1024 * int(value.split()[0])
    raise ValueError(f"/proc/self/status has no {field}")


def measure(case: str, work: str, images: int) -> tuple[int, int]:
    """The growth of this process's peak, and the bytes of the largest working set."""
    torch.manual_seed(0)
    clf = Classifier(models.build(case))
    x = torch.rand(images, *SHAPE)
    largest = 0
    add = working_set._Problems.add

    def watched(self, *args, **options):
        nonlocal largest
        add(self, *args, **options)
        largest = max(largest, self.rows.nbytes)

    working_set._Problems.add = watched
    run(clf, x[:1], WORK[work])
    largest, before = 0, status("VmRSS")
    Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    run(clf, x, WORK[work])
    return status("VmHWM") - before, largest


def run(clf: Classifier, x: Tensor, attack: Attack | None) -> None:
    if attack is not None:
        attack(clf, x)
        return
    with clf.session():
        clf.gradient(x, Misclassified(clf.logits(x).argmax(dim=1)).margin)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=["fab-cifar", "resnet18"])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(*measure(*options.one, options.images))
        return
    table = []
    for case in options.cases:
        plain = 0
        for work in WORK:
            command = [sys.executable, __file__, "--one", case, work]
            command += ["--images", str(options.images), "--threads", str(options.threads)]
            done = subprocess.run(
                command, check=True, capture_output=True, text=True, env={**os.environ, **MALLOC}
            )
            grown, held = map(int, done.stdout.split())
            plain = plain or grown
            table.append(
                [
                    case,
                    work,
                    f"{grown / MEGABYTE:.0f}",
                    f"{held / MEGABYTE:.0f}",
                    f"{(grown - held) / plain:.1f}",
                ]
            )
            print(*table[-1], flush=True)
    print(markdown(["net", "work", "peak MB", "working set MB", "share"], table))


if __name__ == "__main__":
    main()
