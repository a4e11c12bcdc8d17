"""Check that every rank builds a strategy from the same arguments, before anything depends on it.

A number of buckets that differs leaves ranks waiting; a learning rate that differs trains on.
"""

import inspect
import io
import logging
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial, wraps
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np

Named = Iterator[tuple[str, str]]
"""Names of what is compared, like "optimizer.lr", with values as text."""

SHOWN = 3
"""The differences that a message tells at most."""

_OF_A_MODEL = ("input_shape", "seed", "compute", "loss")
_DEEPEST = 6


def compares_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """Have the constructor of a strategy compare its arguments over the ranks first.

    The outermost constructor that has a `comm` does, which has all of them: not those that it calls
    by `super`.
    """

    @wraps(init)
    def compared(self: Any, *args: Any, **kwargs: Any) -> None:
        if vars(type(self)).get("same_arguments", True) and "_is_compared" not in vars(self):
            arguments = _arguments(init, self, args, kwargs)
            if _ranks(comm := arguments.pop("comm", None)) > 1:
                self._is_compared = True
                check_same_arguments(type(self), arguments, comm)
        init(self, *args, **kwargs)

    return compared


def check_same_arguments(kind: type, arguments: Mapping[str, Any], comm: Any) -> None:
    """Compare the ranks' arguments: one number per rank, and all of them if it differs. Collective.

    Raises:
        ValueError: they differ; on every rank, with the argument and the ranks.
    """
    mine = _all_described(kind, arguments)
    if len(set(comm.allgather(zlib.crc32(repr(sorted(mine.items())).encode())))) == 1:
        return
    everyone = comm.allgather(mine)
    names = list(dict.fromkeys(name for each in everyone for name in each))
    differing = [name for name in names if len({each.get(name) for each in everyone}) > 1]
    told = [_told(name, [each.get(name) for each in everyone]) for name in differing[:SHOWN]]
    more = f"; and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    what = "models" if all(name.startswith("model") for name in differing) else "arguments"
    raise ValueError(
        f"the ranks' {what} differ: {'; '.join(told)}{more}. Build the strategy from the same "
        "arguments and the same seed on every rank (what may differ is named in its `may_differ`)"
    )


def _all_described(kind: Any, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return all that is compared, by name. Never raises, since the other ranks wait for it."""
    described = {"strategy": _name(kind)}
    for name, value in arguments.items():
        try:
            described |= dict(_described(name, value))
        except Exception as error:
            described[name] = f"something that raises {type(error).__name__}"
    may_differ = tuple(getattr(kind, "may_differ", ()))
    return {name: text for name, text in described.items() if not name.startswith(may_differ)}


def _ranks(comm: Any) -> int:
    """The number of ranks of a communicator; 1 if it is none, or null, as the constructor says."""
    try:
        return int(comm.size)
    except Exception:
        return 1


def _arguments(
    init: Callable[..., None], strategy: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call by name, with defaults; the call need not be a right one."""
    signature = inspect.signature(init)
    try:
        bound = signature.bind(strategy, *args, **kwargs)
    except TypeError as error:  # `init` will say so too, but perhaps on this rank only
        given = dict(zip(list(signature.parameters)[1:], args)) | dict(kwargs)
        return given | {"call": str(error)}
    bound.apply_defaults()
    return dict(list(bound.arguments.items())[1:])


def _told(name: str, values: Sequence[str | None]) -> str:
    """Say which ranks have which value."""
    ranks: dict[str | None, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(str(rank))
    of_each = (f"{value} on rank {', '.join(which)}" for value, which in ranks.items())
    return f"{name} is {', but '.join(of_each)}"


def _described(name: str, value: Any, depth: int = 0) -> Named:
    """Yield all that has to agree of an argument, by name. Never an address, nor the device."""
    if isinstance(value, np.generic):
        value = value.item()
    if depth > _DEEPEST:
        return
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | Enum):
        yield name, repr(value)
    elif isinstance(value, type | BuiltinFunctionType):
        yield name, _name(value)
    elif hasattr(value, "params") and hasattr(value, "bind"):
        yield from _model(name, value)
    elif hasattr(value, "dtype") and hasattr(value, "shape"):
        yield name, _array(value)
    elif hasattr(value, "named_modules"):
        yield name, _without_addresses(value)
        yield from _described(name, value.state_dict(), depth + 1)
    elif isinstance(value, Mapping):
        for key in value:
            known = repr(key) if isinstance(key, str | int | float) else type(key).__name__
            yield from _described(f"{name}[{known}]", value[key], depth + 1)
    elif isinstance(value, Sequence):
        yield name, f"{len(value)} of {type(value).__name__}"
        for i, each in enumerate(value):
            yield from _described(f"{name}[{i}]", each, depth + 1)
    elif isinstance(value, set | frozenset):
        yield name, repr(sorted(map(repr, value)))
    elif isinstance(value, partial):
        yield from _described(name, value.func, depth + 1)
        yield from _described(f"{name}.args", value.args, depth + 1)
        yield from _described(f"{name}.keywords", value.keywords, depth + 1)
    elif isinstance(value, FunctionType):
        yield from _function(name, value, depth)
    elif isinstance(value, MethodType):
        yield from _described(name, value.__func__, depth + 1)
        yield from _described(f"{name} of", value.__self__, depth + 1)
    elif type(value).__module__ in ("torch", "numpy"):  # a dtype, a generator
        yield name, _without_addresses(value)
    else:
        yield name, _name(type(value))
        if not isinstance(value, logging.Logger | io.IOBase):
            yield from _attributes(name, value, depth)


def _attributes(name: str, value: Any, depth: int) -> Named:
    """Yield the public settings of an object; not what an optimizer has kept of its steps."""
    for key, setting in sorted(getattr(value, "__dict__", {}).items()):
        kept = name.startswith("optimizer") and (key == "state" or hasattr(setting, "dtype"))
        if not key.startswith("_") and not kept:
            yield from _described(f"{name}.{key}", setting, depth + 1)


def _function(name: str, value: FunctionType, depth: int) -> Named:
    """Yield a function's code, and what it has taken from around it: a schedule's rates."""
    yield name, f"{value.__module__}.{value.__qualname__}"
    constants = [c for c in value.__code__.co_consts if isinstance(c, int | float | str)]
    yield f"{name}'s code", f"{zlib.crc32(value.__code__.co_code):08x} with {constants}"
    for key, cell in zip(value.__code__.co_freevars, value.__closure__ or ()):
        try:
            taken = cell.cell_contents
        except ValueError:  # not assigned yet
            continue
        yield from _described(f"{name}'s {key}", taken, depth + 1)
    yield from _described(f"{name}'s defaults", value.__defaults__ or (), depth + 1)


def _model(name: str, model: Any) -> Named:
    """Yield a model's structure and its weights, the frozen ones too."""
    yield name, _name(type(model))
    yield f"{name}.dtype", str(model.params.dtype)
    vector = np.asarray(model.params)
    yield f"{name}.params", f"{len(vector)} parameters"
    named = getattr(model, "parameters", None)
    for part in named if isinstance(named, list) else ():
        yield f"{name}.{part.name}", f"of shape {tuple(part.shape)} at {part.start}"
    for i, layer in enumerate(getattr(model, "layers", ())):
        yield f"{name}.layers[{i}]", _layer(layer)
    for key in _OF_A_MODEL:
        if hasattr(model, key):
            yield from _described(f"{name}.{key}", getattr(model, key))
    weights = _checksum(vector, *getattr(model, "frozen", {}).values())
    yield f"{name}.weights", f"of checksum {weights:08x}"


def _layer(layer: Any) -> str:
    """Return what a layer is, with its settings: a torch module as torch shows it."""
    module = getattr(layer, "module", None)
    if module is not None:
        return _without_addresses(module)
    settings: dict[str, Any] = {
        key: value
        for key, value in sorted(getattr(layer, "__dict__", {}).items())
        if not key.startswith("_") and isinstance(value, bool | int | float | str)
    }
    inside = [*getattr(layer, "layers", ()), *filter(None, [getattr(layer, "layer", None)])]
    settings |= {f"layer {i}": _layer(each) for i, each in enumerate(inside)}
    return f"{_name(type(layer))}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"


def _array(value: Any) -> str:
    """Describe an array, or a torch tensor on any device."""
    value = value.detach().cpu() if hasattr(value, "detach") else value
    return f"{value.dtype} {tuple(value.shape)} of checksum {_checksum(value):08x}"


def _checksum(*arrays: Any) -> int:
    found = 0
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, found)
    return found


def _without_addresses(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _name(kind: Any) -> str:
    return kind.__qualname__
