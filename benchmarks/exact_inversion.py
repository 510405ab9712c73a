"""How often preimage descent finds the exactly nearest point with given logits.

    python benchmarks/exact_inversion.py [--nets 3 4 5 6 7 8 digits] [--pairs 50] [--seconds 60]

Networks d-16-16-2 with ReLU, for d of 3 to 8 inputs, learn whether a point of the unit cube is
within a ball around its centre that holds about half of its volume; pairs are uniform points.
"digits" is the 64-16-16-10 network of exact.py with random pairs of test images. The exact distance
comes from branch and bound over activation patterns, at most --seconds a pair; it is given the
point that the descent found, as it only has to prove that there is none nearer. Pairs that it does
not close are counted apart: there the distance found is compared with the proved lower bound.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import elbowroom
from bench_models import first_correct
from bench_tables import markdown
from elbowroom import Classifier
from elbowroom.invariance import ExactInversion, PreimageDescent
from exact import NETS, problem

WITHIN = 1.01
STEPS = 600


def ball_network(features: int) -> Classifier:
    """A network trained on whether a point is near the centre of the unit cube."""
    torch.manual_seed(features)
    net = nn.Sequential(
        nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    x = torch.rand(4000, features)
    radius = (x - 0.5).norm(dim=1)
    y = (radius < radius.median()).long()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    clf = Classifier(net, dtype=torch.float64, name=f"ball-{features}")
    print(f"ball-{features}: accuracy {(net(x).argmax(dim=1) == y).float().mean():.1%}")
    return clf


def pairs(name: str, count: int, folder: Path) -> tuple[Classifier, Tensor, Tensor]:
    """A classifier in float64, and the points `start` and `toward` of each pair."""
    generator = torch.Generator().manual_seed(1)
    if name != "digits":
        clf = ball_network(int(name))
        start, toward = torch.rand(2, count, int(name), generator=generator, dtype=torch.float64)
        return clf, start, toward
    clf = problem(name, 1, folder).clf
    test = NETS[name].load("test")
    usable = torch.tensor(first_correct(clf, test.x, test.y, 300))
    chosen = usable[torch.randint(len(usable), (2, count), generator=generator)]
    clf = Classifier(clf.network, bounds=test.bounds, dtype=torch.float64, name=name)
    return clf, test.x[chosen[0]].double(), test.x[chosen[1]].double()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", nargs="+", default=[*"345678", "digits"])
    parser.add_argument("--pairs", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, default=Path("runs/exact"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"elbowroom {elbowroom.__version__}")
    rows = []
    for name in options.nets:
        clf, start, toward = pairs(name, options.pairs, options.out / "nets")
        began = time.process_time()
        found = PreimageDescent(tolerance=1e-20)(clf, start=start, toward=toward)
        middle = time.process_time()
        exact = ExactInversion(seconds=options.seconds)(
            clf, start=start, toward=toward, known=found.example
        )
        ended = time.process_time()
        closed = exact.finished
        near = found.distance <= WITHIN * exact.upper + 1e-9
        gap = (found.distance / exact.lower.clamp(min=1e-9))[~closed]
        rows.append(
            [
                clf.name,
                f"{int(closed.sum())} of {options.pairs}",
                f"{near[closed].double().mean():.1%}" if bool(closed.any()) else "",
                f"{(found.distance / exact.upper)[closed].max():.4f}" if bool(closed.any()) else "",
                f"{gap.quantile(0.5):.3f}" if len(gap) else "",
                f"{(middle - began) / options.pairs:.3f}",
                f"{(ended - middle) / options.pairs:.2f}",
            ]
        )
        print(rows[-1], flush=True)
    head = [
        "network", "closed", "within 1 % of exact", "worst ratio", "open: found / proved",
        "CPU s, descent", "CPU s, exact",
    ]  # fmt: skip
    print(markdown(head, rows))


if __name__ == "__main__":
    main()
