"""Objectives by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from elbowroom.norms import Norm
from elbowroom.training.objectives import Adversarial, Objective, OutputMargin, Plain
from elbowroom.training.on_manifold import Combined, OnManifold

OBJECTIVES: dict[str, type[Objective]] = {
    "plain": Plain,
    "adversarial": Adversarial,
    "on-manifold": OnManifold,
    "combined": Combined,
    "output-margin": OutputMargin,
}


def make_objective(name: str, options: Mapping[str, object] | None = None) -> Objective:
    """The objective `name` of `OBJECTIVES` with the hyperparameters `options`.

    Raises `ValueError` for an unknown name, and for an unknown, missing or bad hyperparameter.
    """
    if name not in OBJECTIVES:
        raise ValueError(f"unknown objective {name!r}; choose {', '.join(OBJECTIVES)}")
    kind = OBJECTIVES[name]
    known = [f.name for f in fields(kind)]
    options = dict(options or {})
    if "norm" in options:
        options["norm"] = Norm.parse(options["norm"])  # type: ignore[arg-type]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise ValueError(
            f"objective {name!r} has no option {unknown[0]!r}; its options: "
            f"{', '.join(known) or 'none'}"
        )
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(f"objective {name!r}: {error}") from error
