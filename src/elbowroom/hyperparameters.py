"""Whether the hyperparameters of a method are of the kinds that its fields promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from numbers import Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

# Hyperparameters that count something, by their names in all methods, and the least they may be.
COUNTS = {"steps": 1, "restarts": 1, "search_steps": 1, "candidates": 1}
COUNTS |= {"starts": 1, "regions": 1, "batch": 1, "budget": 1}
COUNTS |= {"path_steps": 1, "walk_steps": 0, "block": 1, "scattered": 0, "final_regions": 0}
COUNTS |= {"radius_steps": 0, "runner_ups": 0, "line_search_steps": 0, "seed": 0}
COUNTS |= {"path_every": 1, "final_steps": 0, "newton_steps": 0, "patience": 1, "adapt_every": 1}
COUNTS |= {"batch_size": 1, "targets": 1, "slope_steps": 0}


def check_hyperparameters(method: Any) -> None:
    """Raise `ValueError` for a field of the dataclass `method` whose value is not of its type.

    Numbers are no NaN; what `COUNTS` lists is no smaller than it may be.
    """
    kinds = get_type_hints(type(method))
    for name in (f.name for f in fields(method)):
        value, kind, least = getattr(method, name), kinds[name], COUNTS.get(name)
        if value is None and _fits(None, kind):
            continue
        if least is not None and (type(value) is not int or value < least):
            raise ValueError(f"{name} must be an integer of at least {least}, not {value!r}")
        if not _fits(value, kind):
            raise ValueError(f"{name} must be {_words(kind)}, not {value!r}")


def _fits(value: Any, kind: Any) -> bool:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if kind in (bool, int):
        return type(value) is kind
    if kind is float:
        return type(value) is not bool and isinstance(value, Real) and not math.isnan(value)
    if origin in (Sequence, tuple):
        if not isinstance(value, list | tuple):
            return False
        many = origin is tuple and args[-1] is not ...
        if many and len(value) != len(args):
            return False
        return all(_fits(each, args[0]) for each in value)
    return isinstance(value, origin or kind)


def _words(kind: Any) -> str:
    origin, args = get_origin(kind), get_args(kind)
    plain = {float: "a number", bool: "true or false", int: "an integer", str: "a text"}
    if kind in plain:
        return plain[kind]
    if origin in (Union, UnionType):
        return " or ".join("none" if arg is type(None) else _words(arg) for arg in args)
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    if origin in (Sequence, tuple):
        each = {float: "numbers", str: "texts"}.get(args[0], "values")
        many = f"{len(args)} {each}" if origin is tuple and args[-1] is not ... else each
        return f"a list of {many}, as in {'[1, 2]' if args[0] is float else '[...]'}"
    return f"of the type {(origin or kind).__name__}"
