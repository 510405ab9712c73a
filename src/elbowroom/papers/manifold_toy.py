"""Robust and accurate at once? The toy data of Tsipras et al. (Manifold, suppl. I, Fig. 20)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elbowroom.manifold import is_adversarial
from elbowroom.papers.page import About, Figure, Panel, render
from elbowroom.report.figures import count, number, percent

CLASSES = ("y = -1", "y = 1")


@dataclass(frozen=True, eq=False)
class Toy:
    """Points `x` `(N, 2)` with labels `y` in 0, 1 (eq. 26), and where an adversary moves them.

    Their first coordinate is the label's sign with probability `p`, the second one normal around
    `eta` times the sign. moved: the second one less `2 eta` times the sign, as Tsipras et al. do.
    misclassified, adversarial: `(N,)`, of `moved` by the best classifier of all; and which of
    them are adversarial examples by Definition 3, so that their true label is still `y`.
    """

    x: Tensor
    y: Tensor
    moved: Tensor
    misclassified: Tensor
    adversarial: Tensor
    p: float
    eta: float


def posterior(x: Tensor, p: float, eta: float) -> Tensor:
    """`(N, 2)`: the probabilities of both labels at `x` `(N, 2)`."""
    # Of normal densities only the terms that differ remain.
    odds = 2 * eta * x[:, 1] + x[:, 0].sign() * math.log(p / (1 - p))
    return torch.stack([torch.sigmoid(-odds), torch.sigmoid(odds)], dim=1)


def toy(count: int = 1000, *, p: float = 0.9, eta: float = 3.0, seed: int = 0) -> Toy:
    """Raises `ValueError` for a `p` outside of [0.5, 1) or an `eta` that is not positive."""
    if not 0.5 <= p < 1 or not eta > 0 or count < 1:
        raise ValueError(
            f"p must lie in [0.5, 1), eta and count be positive, got {p}, {eta} and {count}"
        )
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (count,), generator=generator)
    sign = (2 * y - 1).double()
    agrees = torch.rand(count, generator=generator) < p
    second = eta * sign + torch.randn(count, generator=generator, dtype=torch.float64)
    x = torch.stack([torch.where(agrees, sign, -sign), second], dim=1)
    moved = x - 2 * eta * torch.stack([torch.zeros_like(sign), sign], dim=1)
    probabilities = posterior(moved, p, eta)
    decisions = probabilities.argmax(dim=1)
    adversarial = is_adversarial(decisions, y, probabilities)
    return Toy(x, y, moved, decisions != y, adversarial, p, eta)


def toy_sentence(found: Toy) -> str:
    return (
        f"Moved by {number(2 * found.eta)} towards the other label, "
        f"{percent(float(found.misclassified.double().mean()))} of the points are misclassified by "
        f"the best classifier there is. {count(int(found.adversarial.sum()))} of them are "
        "adversarial examples by Definition 3: the true label of the others has changed as well, "
        "so that no conflict of robustness and accuracy follows from them."
    )


def toy_page(found: Toy, about: About) -> str:
    """Both labels as points, before and after the move."""
    panels = []
    for key, title, points in (("data", "The data", found.x), ("moved", "Moved", found.moved)):
        spread = torch.rand(len(points), generator=torch.Generator().manual_seed(0)).double()
        traces = [
            {
                "meta": curve,
                "name": name,
                # Spread out beside -1 and 1, where all points lie.
                "x": (points[rows, 0] + 0.3 * (spread[rows] - 0.5)).tolist(),
                "y": points[rows, 1].tolist(),
                "mode": "markers",
                "marker": {"size": 4},
            }
            for curve, name, rows in (
                ("curve-8", CLASSES[0], found.y == 0),
                ("curve-1", CLASSES[1], found.y == 1),
            )
        ]
        layout = {
            "xaxis": {"title": {"text": "first coordinate"}, "range": [-1.6, 1.6]},
            "yaxis": {"title": {"text": "second coordinate"}},
            "showlegend": False,
        }
        panels.append(Panel(key, title, {"data": traces, "layout": layout}))
    figure = Figure(
        name="Manifold, Fig. 20",
        title="is an adversarial example one if its label changes?",
        lede="On these data no classifier is accurate and robust, it was said. But an adversary "
        "that moves a point among those of the other label changes what it is.",
        captions=[toy_sentence(found)],
        panels=panels,
        legend=[("curve-8", CLASSES[0]), ("curve-1", CLASSES[1])],
        last=None,
    )
    return render(figure, about)
