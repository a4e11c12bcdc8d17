"""What a run of tasks was asked to do, as text: for a journal that must not be taken for another's.

Functions are known by their names and arguments, not by their code.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from nn.data import Dataset


def identity(value: Any) -> Any:
    """Return dicts, lists and text that are equal for equal values, in any process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Dataset):
        return f"{value.reload or value!r}"
    if isinstance(value, partial):
        arguments = {str(i): each for i, each in enumerate(value.args)} | value.keywords
        return {"function": identity(value.func), "arguments": identity(arguments)}
    if isinstance(value, Mapping):
        return {str(key): identity(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [identity(each) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: identity(getattr(value, each.name)) for each in fields(value)}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return {"object": kind, **identity(getattr(value, "__dict__", {}))}
