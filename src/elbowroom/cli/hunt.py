"""What `certify --hunt` adds: the search for violated bounds, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from elbowroom.attacks import Closest
from elbowroom.certificates.hunt import (
    Counterexample,
    LayerSearch,
    ModelHunt,
    RuleHunt,
    hunt_model,
)
from elbowroom.certificates.rules import LAYER_RULES
from elbowroom.classifier import Classifier
from elbowroom.norms import L2
from elbowroom.results import CertificateResult

BUDGET = 1500  # of the attack
SHOWN = 6  # samples, and numbers of a vector, that lines of text show

Lines = list[tuple[str, str]]


@dataclass(frozen=True)
class Hunt:
    """Both hunts: in the model, and in the layers of the certificate's rules, if it has any."""

    model: ModelHunt
    layers: Sequence[RuleHunt]
    y: Tensor
    decisions: Tensor

    @staticmethod
    def run(
        method: str, claimed: CertificateResult, clf: Classifier, x: Tensor, y: Tensor, seed: int
    ) -> Hunt:
        """Attack the samples, and try the layer rules of the certificate called `method`."""
        attack = Closest(norm=claimed.norm, budget=BUDGET, seed=seed)
        model = hunt_model(claimed, attack, clf, x, y)
        rules = LAYER_RULES.get(method, ()) if claimed.norm == L2 else ()
        layers = LayerSearch(seed=seed)(rules)
        with clf.session():
            decisions = clf.logits(model.found.adversarial).argmax(dim=1)
        return Hunt(model, layers, y, decisions)

    @property
    def violated(self) -> bool:
        """Whether anything was found."""
        return bool(self.model.violated.any()) or any(rule.violations for rule in self.layers)

    def lines(self) -> Lines:
        """For people."""
        claimed, norm = self.model.claimed, self.model.found.norm
        count, tried = int(self.model.violated.sum()), int((claimed.radius > 0).sum())
        lines = [("hunt in the model", f"{count} of {tried} radii violated by the closest attack")]
        samples = self._samples()
        for case in samples[:SHOWN]:
            change = f"class {case['label']} becomes {case['decision']}"
            radius, distance = f"{case['radius']:.6g}", f"{case['distance']:.6g}"
            text = f"sample {case['sample']}: certified {radius}, but {change} at {distance} {norm}"
            lines.append(("", text))
        if len(samples) > SHOWN:
            lines.append(("", f"and {len(samples) - SHOWN} more; --json and --out have them all"))
        if not self.layers:
            return lines
        total = sum(rule.violations for rule in self.layers)
        lines.append(("hunt in layers", f"{total} violations of layer rules"))
        lines.append(("", f"{'rule':<24}{'h(x+r) by':<11}{'theorem':<9}violations  claimed/found"))
        for rule in self.layers:
            theorem = "yes" if rule.sound else "no"
            share = f"{rule.violations} of {rule.claims}"
            text = f"{rule.rule:<24}{rule.premise:<11}{theorem:<9}{share:<12}{rule.worst_ratio:.6g}"
            lines.append(("", text))
        worst = {rule.rule: rule.worst for rule in reversed(self.layers) if rule.worst is not None}
        for name, counterexample in reversed(worst.items()):
            lines += _told(name, counterexample)
        return lines

    def values(self) -> dict[str, Any]:
        """For programs."""
        return {
            "model": {
                "attack": "closest",
                "budget": BUDGET,
                "violations": self._samples(),
                "cost": asdict(self.model.found.cost),
            },
            "layers": [asdict(rule) for rule in self.layers],
        }

    def arrays(self) -> dict[str, Tensor]:
        """For files: the examples of the model hunt."""
        found = self.model.found
        return {
            "adversarial": found.adversarial,
            "distance": found.distance,
            "violated": self.model.violated,
        }

    def _samples(self) -> list[dict[str, Any]]:
        return [
            {
                "sample": n,
                "radius": float(self.model.claimed.radius[n]),
                "distance": float(self.model.found.distance[n]),
                "label": int(self.y[n]),
                "decision": int(self.decisions[n]),
            }
            for n in self.model.violated.nonzero()[:, 0].tolist()
        ]


def _told(rule: str, case: Counterexample) -> Lines:
    bounds = f"claimed {case.claimed:.6g}, found {case.found:.6g}"
    return [
        ("against", f"{rule}: {case.layer}; kappa={case.kappa:.4g} by {case.premise}: {bounds}"),
        ("", f"x = {_numbers(case.x)}, r = {_numbers(case.r)}"),
    ]


def _numbers(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:SHOWN])
    return f"({shown}{', ...' if len(values) > SHOWN else ''})"
