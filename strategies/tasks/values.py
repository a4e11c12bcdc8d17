"""What a journal keeps of a value, as JSON, and back."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from strategies.comm import json_codec

_ARRAY, _FLOAT = "$array", "$float"


def to_json(value: Any) -> Any:
    """Return a value as dicts, lists, text, numbers and None.

    A tuple becomes a list and a number of numpy one of Python. An array becomes an object with its
    bytes, and inf and nan become text, from which `from_json` makes them again.

    Raises:
        TypeError: anything else, or a dict with keys that are not text or begin with "$".
    """
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str) or key.startswith("$")]:
            raise TypeError(f"key {wrong[0]!r:.40}: expected text that does not begin with $")
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind not in "OV":  # V: its fields have names
        return {_ARRAY: json.loads(json_codec.encode(value))["array"]}
    raise TypeError(
        f"a journal does not keep a {type(value).__name__}: expected None, numbers, text, arrays, "
        "or lists, tuples and dicts of these. Write anything else to a file, and return its name"
    )


def from_json(kept: Any) -> Any:
    """Return the value that `to_json` turned into this."""
    if isinstance(kept, list):
        return [from_json(item) for item in kept]
    if not isinstance(kept, dict):
        return kept
    if kept.keys() == {_FLOAT}:
        return float(kept[_FLOAT])
    if kept.keys() == {_ARRAY}:
        return json_codec.decode(json.dumps({"array": kept[_ARRAY]}).encode())
    return {key: from_json(item) for key, item in kept.items()}
