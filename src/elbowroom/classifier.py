"""The model under test: its input bounds, its normalisation, and a count of every pass.

Attacks and certificates never call the model themselves; they ask a `Classifier`, so that every
pass is counted and no method can leave the model in another state than it found it in.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import perf_counter

import torch
from torch import Tensor, nn

from elbowroom.graph import Graph, trace
from elbowroom.graph.normalize import Normalize
from elbowroom.results import Cost

Bound = float | Sequence[float] | Tensor

BOUNDS_TOLERANCE_ULPS = 4


class Classifier:
    """A network with everything that has to be known to measure it.

    model:  any `nn.Module` from `(N, *shape)` to logits `(N, K)`. It is not changed: mode,
            `requires_grad` and random state are restored after every call.
    bounds: smallest and largest input value, as the caller of the classifier sees inputs
            (before `mean` and `std`); scalars, or tensors with one value per feature.
    mean, std: normalisation applied inside, per channel or scalars; None for none.
    device, dtype: where and in which precision to run; a copy of the model is moved there.
    name:   for reports; the class name of the model by default.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        bounds: tuple[Bound, Bound] = (0.0, 1.0),
        mean: Bound | None = None,
        std: Bound | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        name: str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model must be a torch.nn.Module, not {type(model).__name__}")
        self.name = name or type(model).__name__
        example = next(itertools.chain(model.parameters(), model.buffers()), torch.zeros(()))
        if not example.dtype.is_floating_point:
            example = example.float()
        self.device = torch.device(device) if device is not None else example.device
        self.dtype = dtype or example.dtype
        if (self.device, self.dtype) != (example.device, example.dtype):
            model = copy.deepcopy(model).to(device=self.device, dtype=self.dtype)
        self.network = model
        if mean is not None or std is not None:
            shift = self._tensor(0.0 if mean is None else mean)
            scale = self._tensor(1.0 if std is None else std)
            if bool((scale <= 0).any()) or not bool(scale.isfinite().all()):
                raise ValueError("std must be positive and finite")
            self.network = nn.Sequential(Normalize(shift, scale), model)
            self.network.training = model.training  # so that the mode seen is the user's
        self.lower, self.upper = (self._tensor(bound) for bound in bounds)
        if not bool((self.lower <= self.upper).all()) or bool((self.lower == self.upper).all()):
            raise ValueError(f"bounds must be (lower, upper) with lower <= upper, not {bounds}")
        self.cost = Cost()
        self._row_independent_for: set[tuple[int, ...]] = set()
        self._graphs: dict[tuple[int, ...], Graph] = {}

    def __repr__(self) -> str:
        return f"Classifier({self.name}, {self.dtype}, {self.device})"

    def _tensor(self, value: Bound) -> Tensor:
        return torch.as_tensor(value, device=self.device).to(self.dtype)

    # -- passes ------------------------------------------------------------------------------

    def logits(self, x: Tensor) -> Tensor:
        """Logits `(N, K)`, without a gradient. One forward pass a sample."""
        self.cost += Cost(forward=len(x))
        with torch.no_grad():
            return self._forward(x)

    def gradient(self, x: Tensor, objective: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Logits `(N, K)` and the gradient `(N, *shape)` of `objective(logits)` `(N,)`."""
        self.cost += Cost(forward=len(x), backward=len(x))
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = self._forward(x)
            if not logits.requires_grad:
                raise ValueError(
                    "the model's logits carry no gradient (a detach, no_grad or a step function "
                    "inside?); attacks that follow gradients cannot be used"
                )
            (gradient,) = torch.autograd.grad(objective(logits).sum(), x)
        return logits.detach(), gradient

    def jacobian_rows(self, x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, K)` and the gradients `(N, C, *shape)` of the logits `classes` `(N, C)`.

        One forward pass, one backward pass and C - 1 further VJPs a sample.
        """
        count = classes.shape[1]
        self.cost += Cost(forward=len(x), backward=len(x), vjp=len(x) * (count - 1))
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = self._forward(x)
            wanted = logits.gather(1, classes).sum(dim=0)
            rows = [
                torch.autograd.grad(wanted[c], x, retain_graph=c + 1 < count)[0]
                for c in range(count)
            ]
        return logits.detach(), torch.stack(rows, dim=1)

    def jvp(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, K)` and `J(x) v` `(N, K)` for directions `v` `(N, *shape)`."""
        self.cost += Cost(forward=len(x), jvp=len(x))
        logits, product = torch.func.jvp(self._forward, (x,), (v,))[:2]
        return logits.detach(), product.detach()

    def vjp(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, K)` and `u J(x)` `(N, *shape)` for cotangents `u` `(N, K)`."""
        return self.gradient(x, lambda logits: (logits * u).sum(dim=1))

    def _forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    def graph(self, shape: Sequence[int]) -> Graph:
        """The network as a graph of known operations, for samples of `shape`; traced once.

        Layers have the names of the user's model, with or without a mean and std.
        """
        key = tuple(shape)
        if key not in self._graphs:
            with self.session():
                graph = trace(self.network, key, dtype=self.dtype, device=self.device)
            normalised = isinstance(self.network, nn.Sequential) and isinstance(
                self.network[0], Normalize
            )
            self._graphs[key] = graph.renamed(_own_name) if normalised else graph
        return self._graphs[key]

    def with_graph(self, shape: Sequence[int], graph: Graph) -> Classifier:
        """This classifier, its graph for samples of `shape` known already."""
        self._graphs[tuple(shape)] = graph
        return self

    # -- inputs ------------------------------------------------------------------------------

    def clamp(self, x: Tensor) -> Tensor:
        """`x` moved into the input bounds."""
        return torch.maximum(torch.minimum(x, self.upper), self.lower)

    @property
    def bounded(self) -> bool:
        """Whether every feature has a finite lower and upper bound."""
        return bool((self.lower.isfinite() & self.upper.isfinite()).all())

    def validate(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Check inputs and labels once, before any work; returns them ready for use.

        x: `(N, *shape)`. y: `(N,)` labels; the classifier's own decisions if None.
        Raises `ValueError` (or `TypeError`) naming the offending value and the remedy.
        """
        if not isinstance(x, Tensor):
            raise TypeError(f"inputs must be a torch.Tensor, not {type(x).__name__}")
        if x.ndim < 2 or len(x) == 0:
            raise ValueError(
                f"inputs must be a non-empty batch (N, *shape), got shape {tuple(x.shape)}; "
                "for a single sample pass x[None]"
            )
        if not x.dtype.is_floating_point:
            hint = "; divide images by 255 first: x.float() / 255" if x.dtype == torch.uint8 else ""
            raise ValueError(f"inputs must be floating point, got {x.dtype}{hint}")
        if x.dtype != self.dtype:
            raise ValueError(
                f"inputs are {x.dtype} but the model is {self.dtype}; convert the inputs, or build "
                f"Classifier(..., dtype={x.dtype})"
            )
        if x.device != self.device:
            raise ValueError(
                f"inputs are on {x.device} but the model is on {self.device}; use "
                f"x.to({str(self.device)!r})"
            )
        x = self._within_bounds(x.detach())
        logits = self._probe(x)
        if y is None:
            return x, logits.argmax(dim=1)
        return x, self._labels(y, len(x), logits.shape[1])

    def _within_bounds(self, x: Tensor) -> Tensor:
        bad = ~x.isfinite().flatten(1).all(dim=1)
        if bool(bad.any()):
            raise ValueError(f"sample {int(bad.nonzero()[0])} has NaN or infinite values")
        for bound in (self.lower, self.upper):
            if bound.ndim and bound.shape != x.shape[1:]:
                raise ValueError(
                    f"bounds are given for samples of shape {tuple(bound.shape)}, but the inputs "
                    f"have shape {tuple(x.shape[1:])}"
                )
        ulps = BOUNDS_TOLERANCE_ULPS * torch.finfo(x.dtype).eps
        low = (x < self.lower - ulps * self.lower.abs().clamp(min=1)).flatten(1).any(dim=1)
        high = (x > self.upper + ulps * self.upper.abs().clamp(min=1)).flatten(1).any(dim=1)
        if bool((low | high).any()):
            sample = int((low | high).nonzero()[0])
            raise ValueError(
                f"sample {sample} has values in [{float(x[sample].min()):.6g}, "
                f"{float(x[sample].max()):.6g}], outside the input bounds "
                f"[{float(self.lower.min()):.6g}, {float(self.upper.max()):.6g}]; rescale the "
                "inputs, or pass the right bounds to Classifier"
            )
        return self.clamp(x)

    def _probe(self, x: Tensor) -> Tensor:
        """One forward pass that shows whether the model is a classifier we can measure."""
        with self.session():
            try:
                logits = self.logits(x)
            except RuntimeError as error:
                first_line = str(error).splitlines()[0]
                raise ValueError(
                    f"the model rejects inputs of shape {tuple(x.shape)}: {first_line}"
                ) from error
            self._check_logits(logits, len(x))
            if len(x) > 1 and tuple(x.shape[1:]) not in self._row_independent_for:
                self._check_rows_independent(x, logits)
                self._row_independent_for.add(tuple(x.shape[1:]))
        return logits

    @staticmethod
    def _check_logits(logits: object, count: int) -> None:
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"the model must return logits of shape ({count}, classes), got {got}")
        if logits.shape[1] < 2:
            raise ValueError(
                "the model returns one logit; a two-class model needs two, e.g. "
                "torch.cat([-z, z], dim=1)"
            )
        bad = ~logits.isfinite().all(dim=1)
        if bool(bad.any()):
            raise ValueError(
                f"the model returns NaN or infinite logits for sample {int(bad.nonzero()[0])}"
            )

    def _check_rows_independent(self, x: Tensor, logits: Tensor) -> None:
        again = self.logits(x)
        try:
            alone = self.logits(x[:1])
        except (RuntimeError, ValueError):  # batch norm refuses to take statistics of one value
            alone = torch.full_like(logits[:1], torch.inf)
        scale = logits.abs().amax().clamp(min=1.0)
        tolerance = 1e4 * torch.finfo(self.dtype).eps * scale
        randomised = bool((again - logits).abs().amax() > tolerance)
        if not randomised and bool((alone - logits[:1]).abs().amax() > tolerance):
            raise ValueError(
                "the model's logits for one sample depend on the other samples of the batch (for "
                "example batch norm without running statistics); such a model has no decision "
                "boundary of its own. Give it running statistics"
            )

    def _labels(self, y: Tensor, count: int, classes: int) -> Tensor:
        if not isinstance(y, Tensor) or y.dtype.is_floating_point or y.dtype == torch.bool:
            raise ValueError("labels must be a tensor of integers, one per sample")
        if y.shape != (count,):
            raise ValueError(f"labels must have shape ({count},), got {tuple(y.shape)}")
        if int(y.min()) < 0 or int(y.max()) >= classes:
            raise ValueError(
                f"labels must lie in 0..{classes - 1} for a model with {classes} classes, got "
                f"{int(y.min())}..{int(y.max())}"
            )
        return y.to(device=self.device, dtype=torch.int64)

    # -- state -------------------------------------------------------------------------------

    @contextmanager
    def session(self) -> Iterator[None]:
        """Evaluation mode, frozen parameters, deterministic kernels; all restored afterwards."""
        modes = [(module, module.training) for module in self.network.modules()]
        grads = [(parameter, parameter.requires_grad) for parameter in self.network.parameters()]
        devices = [self.device] if self.device.type == "cuda" else []
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices))
            # TF32 would leave certificates about another function than the float32 network.
            stack.enter_context(
                torch.backends.cudnn.flags(
                    enabled=True, benchmark=False, deterministic=True, allow_tf32=False
                )
            )
            try:
                self.network.eval()
                for parameter, _ in grads:
                    parameter.requires_grad_(False)
                yield
            finally:
                for module, training in modes:
                    module.training = training
                for parameter, requires_grad in grads:
                    parameter.requires_grad_(requires_grad)

    @contextmanager
    def metered(self) -> Iterator[Callable[[], Cost]]:
        """A `session` that also yields a function telling what it has cost so far."""
        before, start = self.cost, perf_counter()

        def spent() -> Cost:
            return self.cost - before + Cost(seconds=perf_counter() - start)

        with self.session():
            yield spent


def as_classifier(model: Classifier | nn.Module) -> Classifier:
    """A `Classifier` as it is; a bare module with the default bounds [0, 1]."""
    return model if isinstance(model, Classifier) else Classifier(model)


def _own_name(layer: str) -> str:
    """Of a layer beside `Normalize`, the name in the user's model."""
    return "normalize" if layer == "0" else layer.removeprefix("1.")
