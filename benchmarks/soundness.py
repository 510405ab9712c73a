"""Are the sound certificates sound? Random networks, inputs and everything that could refute them.

    python benchmarks/soundness.py [--cases 10000] [--norms L2 Linf L1] [--chunk 500]
                                   [--out runs/soundness]
    python benchmarks/soundness.py --trained kw_mnist madry-l2 ... [--samples 10]
                                   [--certificates linear-relaxation ...]

A case is one input of a random network (`random_nets.py`: every layer, in float32 or float64).
Every certificate of the registry that calls itself sound and takes the network is compared, in
every norm it has, with the exact distance where the network is small and piecewise affine, and
with the nearest example of attacks; and its ball is sampled, inside and on its surface, from
where gradients descend the margin. With --trained, the cases are test images of networks of
`bench_models.py` or of those that come with the package, and the attack is `closest`. Every chunk
is a file of its own in OUT, so that an interrupted run goes on where it stopped. A violation is
stored with the number of its network.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench_models import first_correct, load
from bench_tables import markdown
from elbowroom import L1, L2, Classifier, Linf, attacks, data, models
from elbowroom.certificates import CERTIFICATES, Certificate
from elbowroom.files import write_atomically
from elbowroom.goals import Misclassified
from elbowroom.graph import UnsupportedOperationError
from elbowroom.graph.ops import LocalResponseNorm, LpPool, MaxPool, PiecewiseAffine, Smooth
from elbowroom.norms import Norm, per_sample
from elbowroom.regions import ExactDistance
from random_nets import INPUTS, RandomNet, random_net

SMALL, EXACT = 14, 3  # units that branch, and inputs of such a network that are solved exactly
SAMPLES, DESCENT = 96, 8  # points in each ball, and steps of descent from them
ROUNDING = 1 + 1e-9  # of the exact distances


@dataclass(frozen=True)
class Outcome:
    """What one certificate says of the inputs of one network, in one norm.

    certified: positive radii. violations: of them. ratio: the largest of the radius over the
    smallest distance known to be too far. exact: radii compared with exact distances.
    """

    certificate: str
    norm: str
    net: int
    words: str
    cases: int
    certified: int
    violations: int
    ratio: float
    exact: int


# Settings of certificates that are slow by default; what they prove has to hold with any.
QUICK: dict[str, dict[str, Any]] = {
    "linear-relaxation": {"search_steps": 5, "slope_steps": 2},
    "semidefinite": {"steps": 10},
    "branch-and-bound": {"seconds": 0.1},
}


@dataclass(frozen=True)
class Trained:
    """A trained network in the place of a random one."""

    name: str
    clf: Classifier
    x: Tensor
    seed: int = 0

    @property
    def words(self) -> str:
        return self.name

    @staticmethod
    def of(name: str, samples: int) -> Trained:
        if name in models.PRETRAINED:
            letters = data.load("fonts", "test")
            clf = Classifier(models.pretrained(name), bounds=letters.bounds)
            return Trained(name, clf, letters.x[first_correct(clf, letters.x, letters.y, samples)])
        problem = load(name, samples)
        return Trained(name, problem.clf, problem.x)


def sound_certificates(
    norm: Norm, names: Sequence[str] | None = None
) -> Iterator[tuple[str, Certificate]]:
    """Those of `names`, or of the registry, that have a sound bound in `norm`."""
    for name in names or CERTIFICATES:
        kind = CERTIFICATES[name]
        if kind.sound:
            try:
                yield name, kind(norm=norm, **QUICK.get(name, {}))
            except ValueError:
                continue


def check(
    net: RandomNet | Trained,
    norms: Sequence[Norm] = (L2, Linf, L1),
    names: Sequence[str] | None = None,
) -> list[Outcome]:
    """Every sound certificate, or those of `names`, on the inputs of `net`."""
    outcomes = []
    y = net.clf.logits(net.x).argmax(dim=1)
    for norm in norms:
        refuted: Tensor | None = None
        for name, certificate in sound_certificates(norm, names):
            try:
                radius = certificate(net.clf, net.x, y).radius
            except UnsupportedOperationError:
                continue
            except ValueError as error:  # too large
                if isinstance(net, RandomNet):
                    raise
                print(f"{net.words}: {error}", flush=True)
                continue
            if refuted is None:
                refuted, exact = refuting_distance(net, y, norm)
            inside = found_inside(net.clf, net.x, y, radius, norm, net.seed)
            # A radius of 0 says nothing; where logits tie, even the size of a batch can decide.
            violated = ((radius > refuted) | inside) & (radius > 0)
            ratio = float((radius / refuted).nan_to_num(0.0).max())
            outcomes.append(
                Outcome(name, str(norm), net.seed, net.words, len(radius), int((radius > 0).sum()),
                        int(violated.sum()), ratio, int(exact.sum()))
            )  # fmt: skip
    return outcomes


def refuting_distance(net: RandomNet | Trained, y: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    """`(N,)`: distances at which the decision is another; and which of them are exact."""
    if isinstance(net, Trained):
        nearest = attacks.Closest(norm=norm)(net.clf, net.x, y).distance
        return nearest, torch.zeros(len(y), dtype=torch.bool)
    methods: list[attacks.Attack] = [attacks.FMN(norm=norm, steps=30)]
    if norm == L2:
        methods = [attacks.DDN(steps=25, runner_ups=1), attacks.DeepFool(steps=15)]
    found = [method(net.clf, net.x, y) for method in methods]
    distance = torch.stack([result.distance for result in found]).amin(dim=0)
    exact = torch.zeros(len(y), dtype=torch.bool)
    if norm == L2 and _is_small(net):
        some = slice(EXACT)
        start = found[0].adversarial[some]
        solved = ExactDistance(seconds=2.0)(net.clf, net.x[some], y[some], start=start)
        distance[some] = torch.minimum(distance[some], solved.upper * ROUNDING)
        exact[some] = solved.finished
    return distance, exact


def _is_small(net: RandomNet) -> bool:
    nodes = net.clf.graph(tuple(net.x.shape[1:])).nodes
    branching = [node for node in nodes if isinstance(node.op, PiecewiseAffine | MaxPool)]
    smooth = any(isinstance(node.op, Smooth | LpPool | LocalResponseNorm) for node in nodes)
    return sum(math.prod(node.shape) for node in branching) <= SMALL and not smooth


def found_inside(
    clf: Classifier, x: Tensor, y: Tensor, radius: Tensor, norm: Norm, seed: int
) -> Tensor:
    """`(N,)` bool: a point of the ball, and of the input box, is decided otherwise."""
    limited = radius.clamp(max=1e3)
    generator = torch.Generator().manual_seed(seed)
    shape = (SAMPLES, *x.shape)
    direction = torch.randn(shape, generator=generator, dtype=torch.float64).flatten(0, 1)
    if norm == Linf:
        direction = direction.sign()
    share = torch.rand(SAMPLES, 1, generator=generator, dtype=torch.float64)
    share = torch.where(torch.arange(SAMPLES)[:, None] % 2 == 0, 1.0, share)  # on it, and in it
    length = (share * limited).flatten()
    start, labels = x.repeat(SAMPLES, *[1] * (x.ndim - 1)), y.repeat(SAMPLES)
    goal = Misclassified(labels)
    size = norm.length(direction).clamp(min=1e-300)
    point = _inside(clf, start, direction * per_sample(length / size, direction), length, norm)
    found = torch.zeros(len(start), dtype=torch.bool)
    for _ in range(DESCENT):
        logits, slope = clf.gradient(point, goal.margin)
        found |= goal.met(logits)
        step = norm.steepest(slope.double().nan_to_num()) * per_sample(length, direction)
        move = point.double() - start.double() - step
        point = _inside(clf, start, move, length, norm)
    found |= goal.met(clf.logits(point))
    return found.view(SAMPLES, -1).any(dim=0)


def _inside(clf: Classifier, x: Tensor, move: Tensor, length: Tensor, norm: Norm) -> Tensor:
    """`x + move`, in the box and, as rounded to the network's precision, within `length`."""
    move = norm.project(move, length) * (1 - 1e-12)
    point = clf.clamp((x.double() + move).to(clf.dtype))
    # Rounding may have left the ball: such points stay where they began.
    outside = norm.length(point.double() - x.double()) > length
    return torch.where(per_sample(outside, x), x, point)


def table(outcomes: Sequence[dict]) -> str:
    """Sums by certificate and norm."""
    rows = []
    keys = dict.fromkeys((found["certificate"], found["norm"]) for found in outcomes)
    for name, norm in sorted(keys):
        own = [found for found in outcomes if (found["certificate"], found["norm"]) == (name, norm)]
        sums = [sum(found[column] for found in own) for column in
                ("cases", "certified", "exact", "violations")]  # fmt: skip
        largest = max(found["ratio"] for found in own)
        rows.append([name, norm, *map(str, sums), f"{largest:.6f}"])
    header = ["certificate", "norm", "cases", "certified", "exact", "violations", "radius/distance"]
    return markdown(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--norms", nargs="+", default=["L2", "Linf", "L1"])
    parser.add_argument("--chunk", type=int, default=500, help="cases in each file")
    parser.add_argument("--out", type=Path, default=Path("runs/soundness"))
    parser.add_argument("--trained", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--samples", type=int, default=10, help="of every trained network")
    parser.add_argument(
        "--certificates", nargs="+", choices=list(CERTIFICATES), help="rather than all"
    )
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    norms = [Norm.parse(name) for name in options.norms]
    outcomes: list[dict] = []
    for path, nets in _chunks(options, norms):
        if not path.exists():
            found = [
                asdict(outcome)
                for net in nets
                for outcome in check(net, norms, options.certificates)
            ]
            write_atomically(path, json.dumps(found).encode())
        chunk = json.loads(path.read_text())
        outcomes += chunk
        wrong = sum(outcome["violations"] for outcome in chunk)
        print(f"{path.name}: {wrong} violations", flush=True)
        if options.trained:
            print(table(chunk), flush=True)
    print(table(outcomes))
    for outcome in outcomes:
        if outcome["violations"]:
            print(f"{outcome['certificate']} in {outcome['norm']}: network {outcome['net']}, "
                  f"{outcome['words']}")  # fmt: skip


def _chunks(
    options: argparse.Namespace, norms: Sequence[Norm]
) -> Iterator[tuple[Path, Iterator[RandomNet | Trained]]]:
    """What belongs into one file, which is only made if that is not there."""
    words = "-".join([*(options.certificates or []), *map(str, norms)])
    for name in options.trained:
        made = (Trained.of(name, options.samples) for name in [name])
        yield options.out / f"{name}-{words}-{options.samples}.json", made
    if not options.trained:
        nets = options.chunk // INPUTS
        for number in range(-(-options.cases // (nets * INPUTS))):
            seeds = range(number * nets, (number + 1) * nets)
            path = options.out / f"{words}-{nets}-{number:04d}.json"
            yield path, (random_net(seed) for seed in seeds)


if __name__ == "__main__":
    main()
