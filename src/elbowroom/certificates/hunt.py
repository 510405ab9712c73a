"""The hunt for violated bounds: in a model, by attacks, and in random layers, rule by rule.

A certificate says that nothing can happen within a radius. Here is looked for what happens there:
by the strongest attack on a whole network, and, for single layers, by the shortest perturbation
that changes the layer's output as much as the rule says it cannot. Whatever is found is checked
again by a plain evaluation, and is a counterexample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from elbowroom.attacks import Attack
from elbowroom.classifier import Classifier
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.norms import L2, per_sample
from elbowroom.results import AttackResult, CertificateResult

Premise = Literal["change", "norm", "decision"]
"""What a perturbation r of the input must do to count, h being the layer:

change: `|h(x + r) - h(x)| >= kappa`, what the next layer needs. norm: `|h(x + r)| >= |h(x)| +
kappa`, what the Bounds thesis asks for, which is more. decision: another class is as likely.
"""
EXCEEDS = 1 + 1e-9  # a claim this much beyond what was found is a violation


@dataclass(frozen=True)
class ModelHunt:
    """What a certificate claims of N samples, and the nearest examples of an attack.

    violated: `(N,)` bool: the example lies within the radius, and a plain forward pass of the
              network decides otherwise than at the sample.
    """

    claimed: CertificateResult
    found: AttackResult
    violated: Tensor


def hunt_model(
    claimed: CertificateResult, attack: Attack, clf: Classifier, x: Tensor, y: Tensor
) -> ModelHunt:
    """Look for examples within radii that were certified of the samples `x` with labels `y`.

    Raises `ValueError` where the attack measures in another norm than the certificate.
    """
    norm = claimed.norm
    if attack.norm != norm:
        raise ValueError(f"the attack is in {attack.norm}, the certificate in {norm}")
    found = attack(clf, x, y)
    with clf.session():
        other = clf.logits(found.adversarial).argmax(dim=1) != y
    distance = norm.length(found.adversarial.double() - x.double())
    return ModelHunt(claimed, found, other & (distance < claimed.radius))


@dataclass(frozen=True)
class Case:
    """A layer, P inputs of it, and what a rule claims of them. All in float64.

    words: the layer, for people. x: `(P, *shape)`. kappa, claim: `(P,)`: no perturbation shorter
    than `claim` changes the output by `kappa`, in the sense of a `Premise`.
    """

    layer: nn.Module
    words: str
    x: Tensor
    kappa: Tensor
    claim: Tensor


def excess(output: Tensor, before: Tensor, kappa: Tensor, premise: Premise) -> Tensor:
    """`(N,)`: by how much the outputs fulfil the premise; negative where they do not."""
    if premise == "change":
        return L2.length(output - before) - kappa
    if premise == "norm":
        return L2.length(output) - L2.length(before) - kappa
    label = before.argmax(dim=1, keepdim=True)
    other = output.scatter(1, label, -torch.inf).amax(dim=1)
    return other - output.gather(1, label)[:, 0]


@dataclass(frozen=True)
class LayerRule:
    """A bound for one kind of layer, with random layers of that kind to try it on.

    name: as in tables. sound: whether it is a theorem. draw: a random case. premises: those that
    the rule is meant for.
    """

    name: str
    sound: bool
    draw: Callable[[torch.Generator], Case]
    premises: tuple[Premise, ...] = ("change",)


@dataclass(frozen=True)
class Counterexample:
    """A perturbation `r` of `x`, of length `found` < `claimed`, that fulfils the premise.

    parameters: the numbers of the layer, by name. x and r are flat.
    """

    layer: str
    parameters: dict[str, list[Any]]
    premise: Premise
    x: list[float]
    kappa: float
    r: list[float]
    claimed: float
    found: float


@dataclass(frozen=True)
class RuleHunt:
    """What the hunt found of one rule and premise.

    claims: tried. violations: of them. worst_ratio: the largest of `claimed / found`, above 1 for
    a violation. worst: the counterexample with that ratio; None without a violation.
    """

    rule: str
    sound: bool
    premise: Premise
    claims: int
    violations: int
    worst_ratio: float
    worst: Counterexample | None


@dataclass(frozen=True, kw_only=True)
class LayerSearch:
    """Looks for the shortest perturbations that fulfil a premise.

    Ascends along the direction of the perturbation from random starts, while its length shrinks
    where the premise is fulfilled and grows where it is not, as in DDN (Rony et al. 2019); then
    bisects the length.

    layers: random ones of each rule. starts, steps: of every input. bisections: at the end.
    """

    layers: int = 6
    starts: int = 12
    steps: int = 120
    bisections: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_hyperparameters(self)

    def __call__(self, rules: Sequence[LayerRule]) -> list[RuleHunt]:
        """One result for every rule and each of its premises."""
        return [self._rule(rule, premise) for rule in rules for premise in rule.premises]

    def _rule(self, rule: LayerRule, premise: Premise) -> RuleHunt:
        generator = torch.Generator().manual_seed(self.seed)
        claims = violations = 0
        ratio, worst = 0.0, None
        for _ in range(self.layers):
            case = rule.draw(generator)
            r, found = self.shortest(case, premise, generator)
            ratios = case.claim / found
            violated = case.claim > found * EXCEEDS
            claims, violations = claims + len(found), violations + int(violated.sum())
            n = int(ratios.argmax())
            if float(ratios[n]) > ratio:
                ratio = float(ratios[n])
                worst = _counterexample(case, premise, n, r, found) if violated[n] else worst
        return RuleHunt(rule.name, rule.sound, premise, claims, violations, ratio, worst)

    def shortest(
        self, case: Case, premise: Premise, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Perturbations `(P, *shape)` and their lengths `(P,)`; `inf` where none was found."""
        count, starts = len(case.x), self.starts
        parts = (case.x, case.kappa, case.claim)
        x, kappa, claim = (part.repeat_interleave(starts, dim=0) for part in parts)
        with torch.no_grad():
            before = case.layer(x)

        def more(r: Tensor) -> Tensor:
            return excess(case.layer(x + r), before, kappa, premise)

        direction = L2.steepest(_normal(x, generator))
        shares = torch.logspace(-1.5, 0.3, starts, dtype=torch.float64).repeat(count)
        length = (claim * shares).clamp(min=1e-12)
        best, at = torch.full_like(length, torch.inf), direction
        for step in range(self.steps):
            rate = 0.5 ** (1 + 5 * step / self.steps)
            with torch.enable_grad():
                r = (direction * per_sample(length, x)).requires_grad_()
                value = more(r)
                (slope,) = torch.autograd.grad(value.sum(), r)
            met = value.detach() >= 0
            shorter = met & (length < best)
            best = torch.where(shorter, length, best)
            at = torch.where(per_sample(shorter, x), direction, at)
            # Where there is no slope to follow, any direction is as good.
            usable = slope.flatten(1).isfinite().all(dim=1) & (L2.length(slope) > 0)
            slope = torch.where(per_sample(usable, x), slope, _normal(x, generator))
            direction = L2.steepest(direction + 2 * rate * L2.steepest(slope))
            length = length * torch.where(met, 1 - rate / 2, 1 + rate / 2)
        with torch.no_grad():
            low, high = torch.zeros_like(best), best
            for _ in range(self.bisections):
                middle = (low + high) / 2
                met = more(at * per_sample(middle.nan_to_num(posinf=1.0), x)) >= 0
                low, high = torch.where(met, low, middle), torch.where(met, middle, high)
            r = at * per_sample(high.nan_to_num(posinf=1.0), x)
            # A plain evaluation decides.
            found = torch.where(more(r) >= 0, L2.length(r), torch.inf).view(count, starts)
        nearest = found.argmin(dim=1)
        rows = torch.arange(count) * starts + nearest
        return r[rows], found.amin(dim=1)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def _counterexample(
    case: Case, premise: Premise, n: int, r: Tensor, found: Tensor
) -> Counterexample:
    return Counterexample(
        layer=case.words,
        parameters={name: value.tolist() for name, value in case.layer.state_dict().items()},
        premise=premise,
        x=case.x[n].flatten().tolist(),
        kappa=float(case.kappa[n]),
        r=r[n].flatten().tolist(),
        claimed=float(case.claim[n]),
        found=float(found[n]),
    )
