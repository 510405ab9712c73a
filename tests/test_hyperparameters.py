"""Values of hyperparameters that are not of their kind are refused, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import pytest

from elbowroom.audit.config import REGISTRIES
from elbowroom.hyperparameters import check_hyperparameters
from elbowroom.invariance import NSPGD, EquiConfidence, NullSpaceStep, PreimageDescent
from elbowroom.norms import L2, Norm


@dataclass(frozen=True)
class Every:
    """A field of every kind."""

    flag: bool = False
    steps: int = 1
    size: float = 1.0
    maybe: float | None = None
    rule: Literal["a", "b"] = "a"
    rates: Sequence[float] = (1.0,)
    pair: tuple[float, float] = (1.0, 2.0)
    many: tuple[str, ...] = ()
    norm: Norm = L2
    function: Callable[[int], int] | None = None
    anything: Any = None


@pytest.mark.parametrize(
    "good",
    [
        {"flag": True}, {"steps": 5}, {"size": 3}, {"size": math.inf}, {"size": np.float32(0.5)},
        {"size": np.int64(4)}, {"maybe": 2.5}, {"rule": "b"}, {"rates": [1, 2.5]}, {"rates": ()},
        {"pair": [0, 1]}, {"many": ("x", "y")}, {"function": abs}, {"anything": object()},
    ],
)  # fmt: skip
def test_what_fits_passes(good):
    check_hyperparameters(Every(**good))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"flag": "yes"}, "flag must be true or false, not 'yes'"),
        ({"flag": 1}, "flag must be true or false, not 1"),
        ({"steps": 0}, "steps must be an integer of at least 1, not 0"),
        ({"steps": True}, "steps must be an integer of at least 1, not True"),
        ({"steps": None}, "steps must be an integer of at least 1, not None"),
        ({"size": "abc"}, "size must be a number, not 'abc'"),
        ({"size": math.nan}, "size must be a number, not nan"),
        ({"size": True}, "size must be a number, not True"),
        ({"size": None}, "size must be a number, not None"),
        ({"maybe": "x"}, "maybe must be a number or none, not 'x'"),
        ({"rule": "c"}, "rule must be one of 'a', 'b', not 'c'"),
        ({"rates": 5}, r"rates must be a list of numbers, as in \[1, 2\], not 5"),
        ({"rates": "5,10"}, "rates must be a list of numbers"),
        ({"rates": [1, math.nan]}, "rates must be a list of numbers"),
        ({"pair": [1, 2, 3]}, "pair must be a list of 2 numbers"),
        ({"many": ["x", 1]}, "many must be a list of texts"),
        ({"norm": "L2"}, "norm must be of the type Norm, not 'L2'"),
        ({"function": 3}, "function must be"),
    ],
)
def test_what_does_not_fit_is_named(bad, message):
    with pytest.raises(ValueError, match=message):
        check_hyperparameters(Every(**bad))


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_registered_method_refuses_what_its_fields_do_not_promise(kind):
    for method in REGISTRIES[kind].values():
        needed = {"eps": 1.0} if "eps" in {f.name for f in fields(method)} else {}
        built = method(**needed)
        for f in fields(method):
            with pytest.raises(ValueError, match=f"^{f.name} must be"):
                replace(built, **{f.name: object()})


@pytest.mark.parametrize(
    ("method", "bad"),
    [
        (PreimageDescent, {"path": "yes"}),
        (NSPGD, {"two_sided": "zzz"}),
        (NSPGD, {"threshold": "abc"}),
        (NSPGD, {"perceptual": "ssim"}),
        (EquiConfidence, {"radii": 5}),
        (EquiConfidence, {"clip": 1}),
        (NullSpaceStep, {"reach": "abc"}),
    ],
)
def test_methods_without_a_registry_too(method, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        method(**bad)
