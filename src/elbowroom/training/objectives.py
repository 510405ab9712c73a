"""What a training step lowers. A new objective is one dataclass and one entry in `registry`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from elbowroom.attacks.pgd import StepRule
from elbowroom.classifier import Bound, Classifier
from elbowroom.norms import L2, Linf, Norm
from elbowroom.training.search import Search, check_search, search, uniform_in_distance


@dataclass(frozen=True, kw_only=True)
class Objective(ABC):
    """The loss of a batch, with hyperparameters as fields."""

    name: ClassVar[str]

    @abstractmethod
    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[Bound, Bound],
        generator: Generator,
    ) -> Tensor:
        """The mean loss `()` of a batch, to be differentiated by the parameters of `model`.

        model:     in training mode, and left so.
        x, y:      inputs `(N, *shape)` and labels `(N,)`, on one device.
        bounds:    smallest and largest input value.
        generator: for every random number, on the CPU.
        """

    def describe(self) -> dict[str, str]:
        """Its name and hyperparameters, as a checkpoint and a weights file keep them."""
        values = {f.name: str(getattr(self, f.name)) for f in fields(self)}
        return {"objective": self.name, **values}


@dataclass(frozen=True, kw_only=True)
class Plain(Objective):
    """Cross-entropy on the samples as they are."""

    name = "plain"

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[Bound, Bound],
        generator: Generator,
    ) -> Tensor:
        return F.cross_entropy(model(x), y)


@dataclass(frozen=True, kw_only=True)
class Perturbed(Objective):
    """Cross-entropy on a batch of which a part is perturbed first.

    weight: the part of the batch: 1 for all of it, 0.5 for the "50/50" of the Manifold paper (3.1).
    search: "full": all steps of the search for the worst perturbation; "first": until the decision
            changes (the weak variant of its suppl. H); "random": random ones (its baseline).
    """

    weight: float = 0.5
    search: Search = "full"

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise ValueError(f"weight must lie in (0, 1], got {self.weight}")
        check_search(self.search)

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[Bound, Bound],
        generator: Generator,
    ) -> Tensor:
        # The batch is in random order, so its first samples are a random part.
        count = round(self.weight * len(x))
        perturbed = self.perturbed(model, x[:count], y[:count], bounds, generator)
        return F.cross_entropy(model(torch.cat([perturbed, x[count:]])), y)

    @abstractmethod
    def perturbed(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[Bound, Bound],
        generator: Generator,
    ) -> Tensor:
        """What is trained on in the place of `x` `(N, *shape)`; N can be 0."""


@dataclass(frozen=True, kw_only=True)
class Adversarial(Perturbed):
    """Cross-entropy on a batch of which a part is attacked first (Madry et al. 2018).

    The inner maximum is sought by projected gradient ascent on the loss, from a random start in
    the ball. The network is in evaluation mode meanwhile, so that batch norm sees no statistics of
    half-finished attacks.

    norm:      Linf or L2.
    eps:       radius of the ball, in the input's units.
    steps:     of the ascent.
    step_size: length of a step in `norm`; `2.5 eps / steps` by default, as Madry et al. advise.
    rule:      of the steps, as in `PGD`; by default the norm's steepest direction. The Manifold
               paper has "adam" with a step_size of 0.005, in 40 steps.
    """

    name = "adversarial"
    norm: Norm = Linf
    eps: float
    steps: int = 10
    step_size: float | None = None
    rule: StepRule | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm not in (L2, Linf):
            raise ValueError(f"adversarial training works in L2 and Linf, not {self.norm}")
        if not self.eps > 0 or self.steps < 1:
            raise ValueError(
                f"eps and steps must be positive, got eps={self.eps}, steps={self.steps}"
            )
        if self.step_size is not None and not self.step_size > 0:
            raise ValueError(f"step_size must be positive, got {self.step_size}")
        if self.rule not in (None, *get_args(StepRule)):
            raise ValueError(f"rule must be one of {get_args(StepRule)}, not {self.rule!r}")

    def perturbed(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[Bound, Bound],
        generator: Generator,
    ) -> Tensor:
        """Samples `(N, *shape)` within `eps` of `x` and inside the bounds."""
        if len(x) == 0:
            return x
        clf = Classifier(model, bounds=bounds)
        radius = x.new_full((len(x),), self.eps)
        step_size = self.step_size or 2.5 * self.eps / self.steps
        with clf.session():
            return search(
                clf,
                x,
                self._start(x, generator),
                y,
                norm=self.norm,
                radius=radius,
                steps=self.steps,
                step_size=step_size,
                rule=self.rule or ("sign" if self.norm == Linf else "gradient"),
                how=self.search,
            )

    def _start(self, x: Tensor, generator: Generator) -> Tensor:
        """Random perturbations: uniform in the ball for Linf, in distance and direction for L2."""
        if self.norm == Linf:
            return (self.eps * (2 * torch.rand(x.shape, generator=generator) - 1)).to(x)
        return uniform_in_distance(x, self.norm, x.new_full((len(x),), self.eps), generator)


@dataclass(frozen=True, kw_only=True)
class OutputMargin(Objective):
    """Cross-entropy less the mean distance, in the last hidden layer, to the nearest decision.

    `L - weight * delta(h_L(x); f)` of the Bounds thesis, 4.4 and Fig. 4.3, where `delta` is that of
    its Theorem 3.6: the least `|z_c - z_j| / ||w_c - w_j||` over the classes j other than the
    decision c of the network. It is the decision's distance, right or wrong: misclassified
    samples are held where they are, which is why accuracy falls with the weight. With features
    that are not bounded, as those of ReLU are, the loss is not bounded from below.

    weight: of the distance; 0 is plain training.
    """

    name = "output-margin"
    weight: float

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"weight must not be negative, got {self.weight}")

    def loss(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        bounds: tuple[Bound, Bound],
        generator: Generator,
    ) -> Tensor:
        logits, last = _with_output_layer(model, x)
        decision = logits.argmax(dim=1)
        gap = logits.gather(1, decision[:, None]) - logits
        apart = torch.linalg.vector_norm(last.weight[:, None] - last.weight, dim=2)[decision]
        others = ~F.one_hot(decision, logits.shape[1]).bool()
        # Two equal rows are no boundary: far away, and no reason for a gradient that is not finite.
        apart = apart[others].clamp(min=torch.finfo(apart.dtype).eps)
        delta = (gap[others] / apart).view(len(x), -1).amin(dim=1)
        loss: Tensor = F.cross_entropy(logits, y) - self.weight * delta.mean()
        return loss


def _with_output_layer(model: nn.Module, x: Tensor) -> tuple[Tensor, nn.Linear]:
    """Logits, and the linear layer that they are the output of."""
    outputs: dict[nn.Linear, Tensor] = {}

    def keep(layer: nn.Module, inputs: object, output: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        outputs[layer] = output

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        logits = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    for layer, output in outputs.items():
        if output.shape == logits.shape and output.data_ptr() == logits.data_ptr():
            return logits, layer
    raise ValueError(
        "output-margin needs a network that ends in a linear layer (nn.Linear), without anything "
        "after it"
    )
