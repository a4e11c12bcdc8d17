"""Python text of what a user gave, so that a line of it can be run again."""

from collections.abc import Mapping
from functools import partial
from typing import Any


def expression(value: Any) -> str:
    """Return a Python expression for text, numbers, lists, dicts, functions and partials of these.

    Functions are named with their modules. Anything else is its `repr`.
    """
    if isinstance(value, partial):
        named = [f"{name}={expression(each)}" for name, each in value.keywords.items()]
        return (
            f"functools.partial({', '.join([*map(expression, (value.func, *value.args)), *named])})"
        )
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {expression(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(expression, value))}]"
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def modules(value: Any) -> set[str]:
    """Return the modules that an expression of `value` names."""
    if isinstance(value, partial):
        inner = [modules(each) for each in (value.func, *value.args, *value.keywords.values())]
        return {"functools"}.union(*inner)
    if isinstance(value, Mapping):
        return set().union(*map(modules, value.values()))
    if isinstance(value, list):
        return set().union(*map(modules, value))
    if callable(value) and hasattr(value, "__qualname__"):
        return {value.__module__}
    return set()
