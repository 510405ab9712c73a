"""What an audit computes, in a form that can be stored, hashed and compared."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import fields
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from elbowroom import attacks, certificates, invariance
from elbowroom.attacks import Attack
from elbowroom.audit.summary import DataSummary, ModelSummary
from elbowroom.certificates import Certificate
from elbowroom.classifier import Classifier
from elbowroom.data import Dataset
from elbowroom.graph import UnsupportedOperationError
from elbowroom.invariance import Inversion
from elbowroom.manifold import LATENT_ATTACKS, LatentAttack
from elbowroom.norms import L2, Linf, Norm

# Preimage descent costs a VJP for each logit at every step, Adam one for all of them.
MOST_LOGITS = 50
# The difference of logits that counts: the rounding of the largest one, but no less than this.
ROUNDING_ULPS = 8
FINEST = {torch.float32: 1e-9, torch.float64: 1e-20}
BATCH = 100

Method = Attack | Certificate | Inversion | LatentAttack
Kind = Literal["attack", "certificate", "invariance", "on-manifold"]

REGISTRIES: dict[Kind, dict[str, Any]] = {
    "attack": attacks.ATTACKS,
    "certificate": certificates.CERTIFICATES,
    "invariance": invariance.INVERSIONS,
    "on-manifold": LATENT_ATTACKS,
}


class MethodConfig(BaseModel):
    """A method by its registered name and the hyperparameters that differ from its defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    method: str
    options: dict[str, Any] = {}

    def build(self) -> Method:
        """The method itself. Raises `ValueError` for a name or an option that does not exist."""
        registry = REGISTRIES[self.kind]
        if self.method not in registry:
            raise ValueError(
                f"unknown {self.kind} {self.method!r}; there are {', '.join(registry)}"
            )
        known = {f.name for f in fields(registry[self.method])}
        if unknown := set(self.options) - known:
            raise ValueError(
                f"{self.method} has no option {sorted(unknown)[0]!r}; it has {sorted(known)}"
            )
        options = dict(self.options)
        if "norm" in options:
            options["norm"] = Norm.parse(options["norm"])
        built: Method = registry[self.method](**options)
        return built


class AuditConfig(BaseModel):
    """Everything that the stored results depend on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    elbowroom: str
    model: ModelSummary
    data: DataSummary
    bounds: str
    samples: int
    norm: str
    seed: int
    chunk: int
    unit: int
    methods: dict[str, MethodConfig]
    decoder: str | None = None  # of the manifold that the data lie on, as manifold.registry has it

    @property
    def hash(self) -> str:
        """A short fingerprint; results carry it and are never mixed with others."""
        text = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: AuditConfig) -> list[str]:
        """`field: mine -> other's` for every field in which two configurations differ."""
        mine, theirs = _flat(self.model_dump()), _flat(other.model_dump())
        return [
            f"{name}: {mine.get(name)!r} -> {theirs.get(name)!r}"
            for name in dict.fromkeys([*mine, *theirs])
            if mine.get(name) != theirs.get(name)
        ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


# Run only where they are named: seconds to a minute for a sample.
SLOW_CERTIFICATES = ("linear-relaxation", "semidefinite")


def default_methods(
    clf: Classifier, x: Tensor, norm: Norm, seed: int, decoder: str | None = None
) -> dict[str, MethodConfig]:
    """The methods of an audit in `norm`, by the names reports show: all that can be named, save
    the inversion that is not the default and the certificates that take long.
    """
    every = all_methods(clf, x, norm, seed, decoder)
    inversions = [name for name, method in every.items() if method.kind == "invariance"]
    left_out = [*inversions[1:], *SLOW_CERTIFICATES]
    return {name: method for name, method in every.items() if name not in left_out}


def all_methods(
    clf: Classifier, x: Tensor, norm: Norm, seed: int, decoder: str | None = None
) -> dict[str, MethodConfig]:
    """What an audit in `norm` can run, from cheap to thorough; of the inversions the default first.

    Radii are shares of the size of the input box, so that they fit inputs of any unit. Attacks
    along the manifold need a `decoder`.
    """
    name = str(norm)
    size = _box_size(clf, x, norm)

    def attack(method: str, **options: Any) -> MethodConfig:
        return MethodConfig(kind="attack", method=method, options={**options, "seed": seed})

    methods = {
        "fgs": attack("fgs", norm=name),
        "fgv": attack("fgv", norm=name),
        "deepfool": attack("deepfool", norm=name),
    }
    if norm in (L2, Linf):
        methods["pgd"] = attack("pgd", norm=name, eps=0.15 * size, early_stop=False, radius_steps=6)
    if norm == L2:
        methods |= {
            "ddn": attack("ddn"),
            "carlini-wagner": attack(
                "carlini-wagner", steps=200, search_steps=4, learning_rate=0.05
            ),
        }
    # Part of the default budget: on ordinary networks more gains little.
    methods["closest"] = attack("closest", norm=name, budget=500)
    if why_uncertified(clf, x, norm) is None:
        for certificate in ("global-lipschitz", "layer-wise", *SLOW_CERTIFICATES):
            if norm in certificates.CERTIFICATES[certificate].norms:
                methods[certificate] = MethodConfig(
                    kind="certificate", method=certificate, options={"norm": name}
                )
    if decoder is not None:
        methods["on-manifold"] = MethodConfig(
            kind="on-manifold", method="pgd", options={"seed": seed}
        )
    return methods | _inversions(clf, x, seed)


def _inversions(clf: Classifier, x: Tensor, seed: int) -> dict[str, MethodConfig]:
    """Preimage descent, which is nearer and more exact, and Adam: whatever many logits cost."""
    with clf.session():
        parts = [clf.logits(part) for part in torch.split(x, BATCH)]
    size = max(1.0, *(float(part.abs().max()) for part in parts))
    options = {"tolerance": _same(size, clf.dtype), "seed": seed}
    # Of equal cost, one long approach ends nearer than two short ones and a longer walk.
    descent = {"begin": ["start"], "steps": 100, "walk_steps": 5, **options}
    both = {
        "preimage-descent": MethodConfig(
            kind="invariance", method="preimage-descent", options=descent
        ),
        "adam-on-logits": MethodConfig(kind="invariance", method="adam", options={"seed": seed}),
    }
    return both if parts[0].shape[1] <= MOST_LOGITS else dict(reversed(both.items()))


def _same(size: float, dtype: torch.dtype) -> float:
    """The mean squared difference of logits of this size that counts as none: a power of ten."""
    rounding = (ROUNDING_ULPS * torch.finfo(dtype).eps * size) ** 2
    if not math.isfinite(rounding):
        return FINEST[torch.float32]  # the audit will refuse such a model
    return max(FINEST.get(dtype, 0.0), 10.0 ** round(math.log10(rounding)))


def why_uncertified(clf: Classifier, x: Tensor, norm: Norm) -> str | None:
    """The layer that no certificate covers, in words; None if there is none."""
    try:
        certificates.GlobalLipschitz(norm=norm)(clf, x[:1])
    except UnsupportedOperationError as error:
        return str(error)
    return None


def _box_size(clf: Classifier, x: Tensor, norm: Norm) -> float:
    """Length of the diagonal of the input box, or of the data's own box where it is infinite."""
    if clf.bounded:
        sides = (clf.upper - clf.lower).expand(x.shape[1:])
    else:
        sides = x.amax(dim=0) - x.amin(dim=0)
    return float(norm.length(sides[None])[0]) or 1.0


def describe_model(clf: Classifier) -> ModelSummary:
    """Name, size and fingerprint of the classifier's network."""
    digest = hashlib.sha256(repr(clf.network).encode())
    for name, tensor in sorted(clf.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(tensor))
    return ModelSummary(
        name=clf.name,
        dtype=str(clf.dtype).removeprefix("torch."),
        fingerprint=digest.hexdigest(),
        parameters=sum(parameter.numel() for parameter in clf.network.parameters()),
    )


def describe_data(data: Dataset, x: Tensor, y: Tensor, indices: list[int]) -> DataSummary:
    """Name and fingerprint of the samples measured, whatever their order."""
    digest = hashlib.sha256()
    for position in sorted(range(len(indices)), key=indices.__getitem__):
        digest.update(f"{indices[position]} {int(y[position])}".encode())
        digest.update(_bytes(x[position]))
    return DataSummary(
        name=data.name,
        split=data.split,
        source=data.source,
        classes=list(data.classes),
        shape=list(x.shape[1:]),
        fingerprint=digest.hexdigest(),
    )


def describe_bounds(clf: Classifier) -> str:
    """The bounds in a form that can be compared: two numbers, or a hash of all of them."""
    if clf.lower.ndim == 0 and clf.upper.ndim == 0:
        return f"[{float(clf.lower):g}, {float(clf.upper):g}]"
    return hashlib.sha256(_bytes(clf.lower) + b"|" + _bytes(clf.upper)).hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
