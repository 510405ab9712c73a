"""Find a Python object by its dotted name, as command-line options give it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def is_reference(text: str) -> bool:
    """Whether `text` has the form `package.module:callable`."""
    module, colon, attribute = text.partition(":")
    parts = [*module.split("."), *attribute.split(".")]
    return bool(colon) and all(part.isidentifier() for part in parts)


def resolve(reference: str) -> Callable[..., Any]:
    """The callable that `package.module:callable` names.

    The working directory is searched too, so that a script next to the user's
    prompt is found. Raises `ValueError` naming the part that is wrong.
    """
    if not is_reference(reference):
        raise ValueError(f"{reference!r} is not of the form package.module:callable")
    module_name, _, attribute = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"cannot import module {module_name!r} ({error}); run from the folder that holds it, "
            "or install it"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ValueError(f"module {module_name!r} has no attribute {attribute!r}")
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{reference!r} is a {type(found).__name__}, not a callable")
    return found  # type: ignore[no-any-return]


def call(reference: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """What the user's function returns. Raises `ValueError` naming it where it raises anything."""
    try:
        return function(*args, **options)
    except Exception as error:
        raise ValueError(f"{reference} failed: {type(error).__name__}: {error}") from error
