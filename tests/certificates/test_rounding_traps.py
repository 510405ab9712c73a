"""Networks built to fool verifiers by rounding: huge and tiny weights that cancel.

Jia and Rinard 2020 (exploiting verified networks by floating point error) and Zombori et al. 2021
(fooling a complete verifier): a certificate must be about the network as it is computed.
"""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

from elbowroom import L1, L2, Classifier, Linf
from elbowroom.certificates import Certificate, GlobalLipschitz
from elbowroom.graph import UnsupportedOperationError
from elbowroom.norms import Norm, per_sample
from soundness import sound_certificates

POINTS, ALONE = 1500, 20


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight))
    layer.weight.data.copy_(torch.tensor(weight, dtype=torch.float64))
    layer.bias.data.copy_(torch.tensor(bias, dtype=torch.float64))
    return layer


def absorbed(size: float) -> nn.Module:
    """Zombori et al.: `x` is added to `size` and taken out again; in float32 it is lost.

    In exact arithmetic the logits are `(x + 1/2, 1)`; computed, x comes back rounded to the grid of
    `size`, or as 0.
    """
    return nn.Sequential(
        linear([[1.0]], [size]), nn.ReLU(), linear([[1.0]], [-size]), nn.ReLU(),
        linear([[1.0], [0.0]], [0.5, 1.0]),
    )  # fmt: skip


def switch(size: float) -> nn.Module:
    """A backdoor: a unit that is 0 in exact arithmetic and `size * rounding` as computed."""
    return nn.Sequential(
        linear([[size / 3], [size], [1.0]], [0.0, 0.0, 0.0]), nn.ReLU(),
        linear([[3.0, -1.0, 0.0], [0.0, 0.0, 1.0]], [0.0, 0.0]), nn.ReLU(),
        linear([[1e3, 0.5], [0.0, 0.0]], [0.0, 1.0]),
    )  # fmt: skip


def cancelling(size: float) -> nn.Module:
    """Two inputs, whose difference is multiplied by `size`: margins are differences of big sums."""
    return nn.Sequential(
        linear([[size, -size], [-size, size], [1.0, 1.0]], [1.0, 1.0, 0.0]), nn.ReLU(),
        linear([[1.0, -1.0, 1.0], [-1.0, 1.0, 0.9]], [0.05, 0.0]),
    )  # fmt: skip


def smooth_sum(size: float) -> nn.Module:
    """Many units of a smooth layer whose huge weights in the next one cancel in pairs."""
    first = nn.Linear(3, 8)
    first.weight.data[4:] = first.weight.data[:4]
    first.bias.data[4:] = first.bias.data[:4]
    weight = torch.zeros(2, 8)
    weight[0, :4], weight[0, 4:] = size, -size
    weight[1, 0] = 1.0
    return nn.Sequential(first, nn.Softplus(), linear(weight.tolist(), [0.3, 0.0]))


def batch_norm(size: float) -> nn.Module:
    """Batch norm with a running mean of `size` that the bias before it restores."""
    norm = nn.BatchNorm1d(2)
    norm.running_mean += size
    return nn.Sequential(
        linear([[1.0], [-1.0]], [size, size]), norm, linear([[1, 0], [0, 1]], [0, 0])
    )


TRAPS = {
    "absorbed": (absorbed, 1), "switch": (switch, 1), "cancelling": (cancelling, 2),
    "smooth sum": (smooth_sum, 3), "batch norm": (batch_norm, 1),
}  # fmt: skip
SIZES = [1.0, 1e3, 3e5, 1.7e7, 1e9, 1e12]


def trap(name: str, size: float) -> tuple[Classifier, Tensor]:
    build, inputs = TRAPS[name]
    torch.manual_seed(0)
    clf = Classifier(build(size).eval(), bounds=(-4.0, 4.0))
    x = 8 * torch.rand(24, inputs, generator=torch.Generator().manual_seed(1)) - 4
    x[:8] = 1.0 + 1e-3 * x[:8]  # near a decision boundary of most
    return clf, x


def changes_inside(clf: Classifier, x: Tensor, y: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """`(N,)` bool: the network in float32, in batches or alone, decides otherwise inside."""
    generator = torch.Generator().manual_seed(2)
    changed = torch.zeros(len(x), dtype=torch.bool)
    for n in range(len(x)):
        move = torch.randn(POINTS, x.shape[1], generator=generator, dtype=torch.float64)
        share = torch.rand(POINTS, generator=generator, dtype=torch.float64)
        share[::2] = 1 - 1e-6
        length = share * min(float(radius[n]), 10.0)
        points = x[n].double() + move * per_sample(length / norm.length(move), move)
        points = clf.clamp(points.float())
        inside = norm.length(points.double() - x[n].double()) < radius[n]
        moved = clf.logits(points).argmax(dim=1)
        alone = torch.cat([clf.logits(point[None]).argmax(dim=1) for point in points[:ALONE]])
        moved[:ALONE] = torch.where(alone != y[n], alone, moved[:ALONE])
        changed[n] = bool(((moved != y[n]) & inside).any())
    return changed


def radii(certificate: Certificate, clf: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """`(N,)`; 0 where the network is refused: for a layer, or as its outputs are all rounding."""
    try:
        return certificate(clf, x, y).radius
    except UnsupportedOperationError:
        return torch.zeros(len(x), dtype=torch.float64)
    except ValueError as error:
        if not re.search("depend on the other samples|differs from the model", str(error)):
            raise
        return torch.zeros(len(x), dtype=torch.float64)


@pytest.mark.parametrize("name", TRAPS)
def test_no_sound_certificate_is_fooled(name):
    certified = 0
    for size in SIZES:
        clf, x = trap(name, size)
        y = clf.logits(x).argmax(dim=1)
        for norm in (L2, Linf, L1):
            for method, certificate in sound_certificates(norm):
                radius = radii(certificate, clf, x, y)
                assert not changes_inside(clf, x, y, radius, norm).any(), (method, size, norm)
                certified += int((radius > 0).sum())
    assert certified > 0


def test_the_traps_snap_shut_without_an_account_of_rounding():
    # The radii of the same networks in exact arithmetic: the computed ones change inside of them.
    caught = 0
    for name in TRAPS:
        for size in SIZES:
            clf, x = trap(name, size)
            y = clf.logits(x).argmax(dim=1)
            exact = Classifier(clf.network, bounds=(-4.0, 4.0), dtype=torch.float64)
            radius = radii(GlobalLipschitz(), exact, x.double(), y)
            caught += int(changes_inside(clf, x, y, radius, L2).sum())
    assert caught > 0
