"""Dataclasses as values that JSON knows, and back.

JSON has no infinity and no NaN: they become "inf", "-inf" and "nan", and numbers again in fields
that are declared to hold a float. numpy's numbers and arrays become numbers and lists. A field that
is declared as a tuple is a tuple again. Keys that a class does not know stay with the object, so
that what a newer version wrote is written again.
"""

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np

INLINE = {"inline": True}
"""Metadata of a field that holds a dataclass whose keys stand among the object's own keys."""

_OTHER_KEYS = "_other_keys"


def plain(value: Any) -> Any:
    """Turn dataclasses and arrays into dicts, lists, text, numbers and None.

    Raises:
        TypeError: anything else, or a dict with keys that are not text.
    """
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        keys: dict[str, Any] = {}
        for field in fields(value):
            item = plain(getattr(value, field.name))
            keys |= item if field.metadata.get("inline") else {field.name: item}
        return keys | other_keys(value)
    raise TypeError(
        f"expected None, numbers, text, arrays, dataclasses, and lists, tuples and dicts of these "
        f"(keys are text), not {value!r:.60}"
    )


def build(cls: Any, keys: Mapping[str, Any]) -> Any:
    """Make an object of a dataclass from its keys as `plain` gave them.

    Raises:
        ValueError: a key is missing, or does not hold what its field is declared to hold.
    """
    left, values = dict(keys), {}
    for field in fields(cls):
        hint = _hints(cls)[field.name]
        if field.metadata.get("inline"):
            names = [inner.name for inner in fields(hint) if inner.name in left]
            values[field.name] = build(hint, {name: left.pop(name) for name in names})
        elif field.name in left:
            try:
                values[field.name] = _typed(hint, left.pop(field.name))
            except (ValueError, TypeError, OverflowError) as error:
                raise ValueError(f"{field.name}: {error}") from None
    try:
        made = cls(**values)
    except TypeError as error:  # its text names the missing keys
        raise ValueError(str(error)) from None
    if left:
        made.__dict__[_OTHER_KEYS] = left
    return made


def other_keys(value: Any) -> dict[str, Any]:
    """The keys that `build` was given beside the fields of the object."""
    return dict(getattr(value, _OTHER_KEYS, {}))


_hints = cache(get_type_hints)


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as the type that a field declares."""
    origin, args = get_origin(hint), get_args(hint)
    if NoneType in args:
        (other,) = (arg for arg in args if arg is not NoneType)
        return None if value is None else _typed(other, value)
    if hint is float:
        if isinstance(value, bool):
            raise ValueError(f"expected a number, not {value}")
        if isinstance(value, str) and value not in ("inf", "-inf", "nan"):
            raise ValueError(f"could not convert {value!r:.40}: expected a number")
        return float(value)
    if is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"expected an object, not {value!r:.40}")
        return build(hint, value)
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, not {value!r:.40}")
        each = args[:1] * len(value) if args[-1] is Ellipsis else args
        return tuple(_typed(arg, item) for arg, item in zip(each, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: _typed(args[-1], item) for key, item in value.items()}
    if origin is list and isinstance(value, list):
        return [_typed(args[0], item) for item in value]
    # Numbers are told from truth values, which Python counts among them.
    kind = origin or hint
    if kind is not Any and (type(value) is not kind):
        raise ValueError(f"expected {getattr(kind, '__name__', kind)}, not {value!r:.40}")
    return value
