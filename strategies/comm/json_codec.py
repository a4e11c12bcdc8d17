"""Small Python objects as bytes, for communicators that send nothing but memory.

Text (JSON), so that reading what came executes nothing, as unpickling would.
"""

import base64
import builtins
import json
from typing import Any

import numpy as np


def encode(value: Any) -> bytes:
    """Encode None, booleans, numbers, text, arrays, exceptions, and lists, tuples, dicts of these.

    Numbers arrive to the last bit. An exception arrives as the nearest of Python's own classes,
    with its message.

    Raises:
        TypeError: `value` is something else.
    """
    return json.dumps(_plain(value)).encode()


def decode(data: bytes) -> Any:
    """Return the value that `encode` turned into `data`."""
    return _value(json.loads(data))


def _plain(value: Any) -> Any:
    """Return what JSON knows as it is, and anything else as an object {kind: content}."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_plain(item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        data = base64.b64encode(value.tobytes()).decode()
        return {"array": [value.dtype.str, list(value.shape), data]}
    if isinstance(value, Exception):
        own = next(kind for kind in type(value).__mro__ if kind.__module__ == "builtins")
        return {"exception": [own.__name__, str(value)]}
    raise TypeError(
        f"a {type(value).__name__} is not sent: expected None, numbers, text, arrays, exceptions, "
        "or lists, tuples and dicts of these"
    )


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    ((kind, content),) = plain.items()
    if kind == "tuple":
        return tuple(_value(item) for item in content)
    if kind == "dict":
        return {_value(key): _value(item) for key, item in content}
    if kind == "array":
        dtype, shape, data = content
        array = np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()
        return array if shape else array[()]
    return _exception(*content)


def _exception(name: str, message: str) -> Exception:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except TypeError:  # some, such as UnicodeDecodeError, take more than a message
            pass
    return RuntimeError(f"{name}: {message}")
