"""Figures 3.3 and 3.4 of the Invariance thesis: exact preimages under networks of two inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elbowroom.classifier import Classifier
from elbowroom.models import build
from elbowroom.regions import ExactPreimage, Polyhedron, PolyhedronUnion

HIDDEN = (8, 4)
ACTIVATIONS = ("leaky-relu", "relu")
MARGIN = 0.2  # of what is drawn around the data, relative to their range


@dataclass(frozen=True, kw_only=True)
class MoonsTraining:
    """The thesis's 2-8-4-2 network, trained by Adam on all samples at once.

    Small ReLU networks often get stuck: where some samples are still misclassified after `steps`,
    training starts anew from the next seed, up to `attempts` times.
    """

    activation: str = "relu"
    steps: int = 600
    learning_rate: float = 0.02
    attempts: int = 10
    seed: int = 0

    def __call__(self, x: Tensor, y: Tensor) -> tuple[nn.Module, float, int]:
        """The network in float64, its accuracy on the samples, and the seed it has.

        x: `(N, 2)`. y: `(N,)` labels. The accuracy is 1 unless every attempt failed; then it is
        that of the best one.
        """
        results = []
        classes = max(2, int(y.max()) + 1)
        for seed in range(self.seed, self.seed + self.attempts):
            with torch.random.fork_rng([]), torch.enable_grad():
                torch.manual_seed(seed)
                sizes = [2, *HIDDEN, classes]
                model = build("mlp", sizes=sizes, activation=self.activation).double()
                optimiser = torch.optim.Adam(model.parameters(), lr=self.learning_rate)
                for _ in range(self.steps):
                    optimiser.zero_grad()
                    torch.autograd.backward(F.cross_entropy(model(x.double()), y))
                    optimiser.step()
            with torch.no_grad():
                right = model(x.double()).argmax(dim=1) == y
            results.append((model.eval(), float(right.double().mean()), seed))
            if results[-1][1] == 1.0:
                break
        return max(results, key=lambda result: result[1])


@dataclass(frozen=True, eq=False)
class NetworkSets:
    """The preimages of some polytopes under one network of two inputs.

    accuracy:  on the samples. logits: of the samples, `(N, K)`.
    regions:   number of linear regions of the input plane, of positive area.
    targets:   polytopes in output space.
    preimages: of each target, in the whole input plane.
    """

    name: str
    accuracy: float
    logits: Tensor
    regions: int
    targets: Sequence[Polyhedron]
    preimages: Sequence[PolyhedronUnion]


def network_sets(
    clf: Classifier, x: Tensor, y: Tensor, targets: Sequence[Polyhedron], method: ExactPreimage
) -> NetworkSets:
    """The preimages of `targets`, as in Fig. 3.4, for samples `x` `(N, 2)` with labels `y`.

    Raises `ValueError` for inputs of another shape, and as `ExactPreimage` does.
    """
    if x.shape[1:] != (2,):
        raise ValueError(
            "preimages are drawn for networks of two inputs; these samples have shape "
            f"{tuple(x.shape[1:])}: use elbowroom.regions.ExactPreimage for the sets alone"
        )
    x, y = clf.validate(x, y)
    with clf.session():
        logits = clf.logits(x)
    graph = clf.graph((2,))
    regions = method.regions(graph)
    if method.approach == "forward":
        found = [regions.preimage(target) for target in targets]
    else:
        found = [method(graph, target) for target in targets]
    accuracy = float((logits.argmax(dim=1) == y).double().mean())
    return NetworkSets(clf.name, accuracy, logits, len(regions.regions.solid), targets, found)


def window(points: Tensor) -> Polyhedron:
    """The box around points `(N, d)` that is drawn."""
    low, high = (bound.double().cpu().numpy() for bound in points.aminmax(dim=0))
    margin = MARGIN * np.maximum(high - low, 1e-3)
    return Polyhedron.box(low - margin, high + margin)
