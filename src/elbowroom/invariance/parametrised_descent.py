"""Descent without constraints on the parameters of the preimage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from elbowroom.invariance.base import Found, Inversion, Problem
from elbowroom.invariance.layer_preimages import Kernel
from elbowroom.invariance.parametrised import ParametrisedPreimage
from elbowroom.norms import L2, per_sample
from elbowroom.optimise import Adam, cosine_decay
from elbowroom.results import Cost

ARMIJO = 1e-2  # share of the predicted decrease that a Newton step must bring
SHORTER = 0.4  # a step that does not is multiplied by this,
TRIALS = 16  # so often at most
RIDGE = 1e-13  # added to the Gram matrix of the features' gradients, relative to it
DECAY = 0.3  # of the learning rate from one weight to the next
FLOOR = 1e-3  # share of its learning rate that a round ends with


@dataclass(frozen=True, kw_only=True)
class ParametrisedDescent(Inversion):
    """Descent on the parameters of the preimage: the features are exact at every step.

    Invariance thesis, section 3.4: `|x - x_0|^2 + w (|(l - x)+|^2 + |(x - u)+|^2)` (3.69) is
    lowered, from the parameters of `start`, for growing weights w. After each weight the bounds
    are shifted by the multipliers (the method of multipliers), which makes the penalty exact at
    finite weights. The answer is the nearest point met on the way that lies in the box: no point
    is clamped, since that would change its features. Where there is none, it is `start`; without a
    start, the end of the search, clamped, which is a miss.

    Runs by two methods, each from `start`. Gauss-Newton steps, measured in input space, suit smooth
    activations and small slopes, end exactly on affine networks and stop at kinks. Adam goes on at
    kinks, but needs slopes that differ little: the inverse of a leaky ReLU bends by their ratio.

    For the networks of `ParametrisedPreimage`; others are refused with its `ValueError`. With
    ReLU the active units of `start` stay active and the inactive ones inactive (which is part of
    the penalty), so that the rest of the preimage is out of reach; little is gained there, and
    nothing where fewer units are active than the next layer has outputs. In float64 inside.

    newton_steps:   for each weight; 0 for Adam alone.
    steps:          of Adam, for each weight and learning rate.
    weights:        of the penalty, one after the other.
    learning_rates: of Adam at the first weight, as shares of the width of the input bounds (of the
                    spread of `start` and `toward` where they are infinite), in the units of each
                    layer; `()` for Newton alone. They fall from weight to weight. Large ones end
                    nearer, small ones get out of more starts.
    margin:         by which the box is made smaller for the penalty, as a share of the same width:
                    what is left of the violation is less, so that the points lie in the box.
    kernel:         "basis" or "projector" (more parameters).
    beta2:          of Adam; the landscape changes from kink to kink.

    The network run backward is counted as a forward pass, its gradient as a backward one.
    """

    newton_steps: int = 20
    steps: int = 600
    weights: Sequence[float] = (1.0, 10.0, 100.0, 1e3, 1e4)
    learning_rates: Sequence[float] = (0.003, 0.001)
    margin: float = 1e-4
    kernel: Kernel = "basis"
    beta2: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weights or not all(weight > 0 for weight in self.weights):
            raise ValueError(f"weights must be positive, at least one, not {self.weights!r}")
        if not all(rate > 0 for rate in self.learning_rates):
            raise ValueError(f"learning_rates must be positive, not {self.learning_rates!r}")
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin must be at least 0 and less than 0.5, not {self.margin}")

    def descend(self, problem: Problem) -> Found:
        search = _Search(problem, self.margin, self.kernel)
        runs = [self._newton] + [partial(self._adam, rate=rate) for rate in self.learning_rates]
        for run in runs:
            search.reset()
            p = search.first
            for number, weight in enumerate(self.weights):
                p = run(search, p, weight, number)
                search.shift_bounds(p, weight, self.weights[number + 1 : number + 2])
            search.end(p)
        return Found(search.best.to(problem.toward.dtype))

    def _newton(self, search: _Search, p: Tensor, weight: float, number: int) -> Tensor:
        value, _ = search.value(p, weight)
        share = torch.ones_like(value)
        for _ in range(self.newton_steps):
            p, direction, slope = search.newton_direction(p, weight)
            best, lowest, done = p, value, torch.zeros_like(value, dtype=torch.bool)
            share = (share / SHORTER**2).clamp(max=1.0)
            for _ in range(TRIALS):
                trial = p + share[:, None] * direction
                found, _ = search.value(trial, weight)
                falls = ~done & (slope < 0) & (found <= value + ARMIJO * share * slope)
                best = torch.where(falls[:, None], trial, best)
                lowest = torch.where(falls, found, lowest)
                done |= falls
                if bool(done.all()):
                    break
                share = torch.where(done, share, SHORTER * share)
            p, value = best, lowest
        return p

    def _adam(self, search: _Search, p: Tensor, weight: float, number: int, rate: float) -> Tensor:
        adam = Adam(beta2=self.beta2)
        rates = rate * DECAY**number * search.scale
        value, gradient = search.value(p, weight)
        for step in range(self.steps):
            size = cosine_decay(step, self.steps, FLOOR) * rates
            trial = p - size * adam.step(gradient)
            value, slope = search.value(trial, weight)
            # Steps to where an activation's range ends are taken back, and later ones are shorter.
            there = value.isfinite()[:, None]
            p = torch.where(there, trial, p)
            gradient = torch.where(there, slope, gradient)
            rates = torch.where(there, rates, rates / 2)
        return p


class _Search:
    """The penalised distance as a function of the parameters, and the best point seen.

    first: `(N, P)`, the parameters of the start. scale: `(N, P)`, what the parameters would change
    by if the input changed by the width of its bounds.
    """

    def __init__(self, problem: Problem, margin: float, kernel: Kernel) -> None:
        self.clf = clf = problem.clf
        start, self.toward = problem.start.double(), problem.toward.double().flatten(1)
        shape = start.shape[1:]
        self.preimage = ParametrisedPreimage(clf, shape, kernel, like=start)
        # In float64, as the features of a start; those that are given are what they are.
        features = self.preimage.features(start)
        self.targets = features if problem.known else problem.goal.logits.double()
        self.first = self.preimage.parameters(start)
        self.lower, self.upper = (
            bound.double().expand(shape).flatten() for bound in (clf.lower, clf.upper)
        )
        width = problem.width.double().flatten(1)
        self.margin = margin * width
        self.scale = self._scale(start, problem.toward.double(), width)
        self.best = start
        self.distance = torch.full_like(width[:, 0], torch.inf)
        self.reset()
        self._offer(*self.preimage.relaxed(self.targets, self.first))
        if problem.known:
            self.distance = torch.minimum(self.distance, L2.length(start.flatten(1) - self.toward))

    def _scale(self, start: Tensor, toward: Tensor, width: Tensor) -> Tensor:
        """From the ratio of the differences between both ends, before each layer and at the input.

        Adam's steps have one length for all parameters of a layer, whatever their units.
        """

        def spread(a: Tensor, b: Tensor) -> Tensor:
            return (a - b).flatten(1).square().mean(dim=1, keepdim=True).sqrt()

        ends = (self.preimage.layer_inputs(end) for end in (start, toward))
        gains = [spread(*pair) for pair in zip(*ends, strict=True)]
        sizes = [size for _, size in self.preimage.sizes]
        parts = [gain.expand(-1, size) for gain, size in zip(gains, sizes, strict=True)]
        whole = spread(start, toward).clamp(min=torch.finfo(start.dtype).tiny)
        widest = width.amax(dim=1, keepdim=True)
        return torch.cat([width[:, :0], *parts], dim=1) / whole * widest

    def reset(self) -> None:
        """Put the bounds back to where they are."""
        self.shifts: tuple[Tensor | float, ...] = (0.0, 0.0, 0.0)

    def value(self, p: Tensor, weight: float) -> tuple[Tensor, Tensor]:
        """Values `(N,)` and gradients `(N, P)`; points in the box are offered to `best`."""
        self.clf.cost += Cost(forward=len(p), backward=len(p))
        with torch.enable_grad():
            p = p.detach().requires_grad_()
            x, slack = self.preimage.relaxed(self.targets, p)
            penalty = sum(v.square().sum(dim=1) for v in self._violations(x.flatten(1), slack))
            total = (x.flatten(1) - self.toward).square().sum(dim=1) + weight * penalty
            (gradient,) = torch.autograd.grad(total.sum(), p)
        self._offer(x.detach(), slack.detach())
        return total.detach(), gradient

    def newton_direction(self, p: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
        """The parameters of the same points, a direction in them, and the slope `(N,)` along it.

        The Gauss-Newton step: to the minimiser in input space of the value, with the violated
        bounds kept, on the tangent space of the preimage; then its derivative in the parameters.
        """
        with torch.enable_grad():
            x, slack = self.preimage.relaxed(self.targets, p)
            x = x.detach().requires_grad_()
            outputs = self.preimage.features(x).sum(dim=0)
            count = len(outputs)
            rows = [torch.autograd.grad(outputs[k], x, retain_graph=True)[0] for k in range(count)]
        self.clf.cost += Cost(forward=2 * len(p), vjp=count * len(p), jvp=len(p))
        x, J = x.detach(), torch.stack(rows, dim=1).flatten(2)
        flat = x.flatten(1)
        low, high, _ = self._violations(flat, slack.detach())
        gradient = 2 * (flat - self.toward + weight * (high - low))
        metric = 2 * (1 + weight * ((low > 0) | (high > 0)).to(flat))
        scaled = J / metric[:, None]
        gram = torch.bmm(scaled, J.mT)
        gram.diagonal(dim1=1, dim2=2).add_(RIDGE * gram.diagonal(dim1=1, dim2=2).amax(1, True))
        mu = torch.linalg.solve_ex(gram, torch.bmm(scaled, gradient[..., None])).result
        step = (torch.bmm(J.mT, mu).squeeze(2) - gradient) / metric
        parameters, direction = self.preimage.move(x, step.view_as(x))
        _, slopes = self.value(parameters, weight)
        return parameters, direction, (slopes * direction).sum(dim=1)

    def shift_bounds(self, p: Tensor, weight: float, following: Sequence[float]) -> None:
        """Shift the bounds for the weight that follows, if one does: half the multipliers over it.

        Minimising `w |(l + a - x)+|^2` makes `2 w (l + a - x)+` the multiplier.
        """
        for other in following:
            x, slack = self.preimage.relaxed(self.targets, p)
            ratio = weight / other
            self.shifts = tuple(ratio * v for v in self._violations(x.flatten(1), slack))

    def end(self, p: Tensor) -> None:
        """Take the end of a run as the best point where none in the box is known."""
        x, _ = self.preimage.relaxed(self.targets, p)
        usable = self.distance.isinf() & x.flatten(1).isfinite().all(dim=1)
        self.best = torch.where(per_sample(usable, x), x, self.best)

    def _violations(self, x: Tensor, slack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """How far the shifted bounds of the input, and those of active units, are violated."""
        low, high, inactive = self.shifts
        return (
            (self.lower + self.margin + low - x).clamp(min=0),
            (x - self.upper + self.margin + high).clamp(min=0),
            (inactive - slack).clamp(min=0),
        )

    def _offer(self, x: Tensor, slack: Tensor) -> None:
        flat = x.flatten(1)
        inside = ((flat >= self.lower) & (flat <= self.upper)).all(dim=1) & (slack >= 0).all(dim=1)
        distance = L2.length(flat - self.toward)
        better = inside & (distance < self.distance)
        self.best = torch.where(per_sample(better, x), x, self.best)
        self.distance = torch.where(better, distance, self.distance)
