"""What a function computes with: digests by which a journal knows its code and its data again."""

import dis
import functools
import hashlib
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from joblib.hashing import NumpyHasher

_CONSTANTS = (bool, int, float, complex, str, bytes, type(None))
_HOUSE = ("nn", "strategies")
"""Packages whose global variables are none of a run's data, installed or not."""
_INSTALLED = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def code_of(function: Callable[..., Any]) -> dict[str, str]:
    """Return a digest for every module that holds code which the function reaches.

    Code is what the function names, and what that names in turn: functions, classes, and constants
    of modules, but nothing of the standard library or an installed package. Comments do not count.
    A function that is only found at run time, say by its name as text, is not seen.
    """
    reached = _Reached()
    _reach(function, reached)
    modules: dict[str, list[str]] = {}
    for module, text in reached.texts.values():
        modules.setdefault(module, []).append(text)
    return {module: _digest("\n".join(sorted(texts))) for module, texts in sorted(modules.items())}


def data_of(function: Callable[..., Any], data: Any) -> dict[str, str]:
    """Return digests of `data` and of all that the function computes with beside code, by name.

    That is what it carries (arguments of a partial, variables around it, fields of a dataclass that
    count in comparisons), and global variables that it reads. A dict of data is named by its keys.

    Raises:
        TypeError: something cannot be pickled, and so not be compared with another run's.
    """
    if isinstance(data, dict):
        carried = {f"data {name}": value for name, value in data.items()}
    else:
        carried = {} if data is None else {"data": data}
    found = {name: _hash(name, value) for name, value in (carried | _carried(function)).items()}
    reached = _Reached()
    _reach(function, reached)
    for name, value in sorted(reached.variables.items()):
        try:
            found[name] = _hash(name, value)
        except TypeError as error:
            warnings.warn(f"{error}, or a change of it goes unnoticed", stacklevel=2)
    return found


def _carried(function: Any) -> dict[str, Any]:
    """Return what a function holds beside its own code, by name."""
    if isinstance(function, functools.partial):
        given: dict[str, Any] = {f"argument {i}": arg for i, arg in enumerate(function.args)}
        given |= {f"argument {name}": value for name, value in function.keywords.items()}
        return _carried(function.func) | given
    if isinstance(function, MethodType):
        return _carried(function.__func__) | {"object of the method": function.__self__}
    if isinstance(function, FunctionType):
        around = zip(function.__code__.co_freevars, _contents(function))
        defaults = enumerate(_defaults(function))
        return {f"variable {name}": value for name, value in around} | {
            f"default {i}": value for i, value in defaults if not _is_constant(value)
        }
    if _is_called_dataclass(function):
        held: dict[str, Any] = {}
        for name in (each.name for each in fields(function) if each.compare):
            value = getattr(function, name)
            parts = value.items() if isinstance(value, dict) else ()
            held |= {f"{name} {key}": part for key, part in parts} or {name: value}
        return held
    return {} if _is_code(function) else {"object": function}


def _is_called_dataclass(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type) and callable(value)


def _contents(function: FunctionType) -> list[Any]:
    """Return what a function's variables from around it hold; None for one not assigned yet."""
    held = []
    for cell in function.__closure__ or ():
        try:
            held.append(cell.cell_contents)
        except ValueError:
            held.append(None)
    return held


def _defaults(function: FunctionType) -> list[Any]:
    return [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]


def _settings(named: Mapping[Any, Any]) -> list[str]:
    """Return the constants among what is named, as text; not what Python notes about a class."""
    return [
        f"{name} = {_plain(value)}"
        for name, value in named.items()
        if _is_constant(value) and not str(name).startswith("__")
    ]


def _is_code(value: Any) -> bool:
    return isinstance(value, FunctionType | type | ModuleType) or hasattr(value, "__wrapped__")


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple | frozenset):
        return all(map(_is_constant, value))
    return isinstance(value, _CONSTANTS)


def _hash(name: str, value: Any) -> str:
    try:
        return str(_Hasher().hash(value))
    except Exception as error:
        raise TypeError(
            f"{name}: a journal cannot tell a {type(value).__name__} from another one ({error}). "
            "Make it within the function"
        ) from None


class _Hasher(NumpyHasher):
    """Knows code by its name, and a function without one by its code and what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[Any] = []

    def save(self, value: Any) -> None:
        if _is_code(value):
            held: list[Any] = []
            is_known = not isinstance(value, FunctionType) or _has_name(value)
            if not is_known and not any(value is each for each in self._seen):
                self._seen.append(value)
                held = [*map(_text, _nested(value.__code__)), _contents(value), _defaults(value)]
            value = [_name(value), *held]
        super().save(value)


def _name(code: Any) -> str:
    return f"{getattr(code, '__module__', '')}.{getattr(code, '__qualname__', code.__name__)}"


def _has_name(function: FunctionType) -> bool:
    """Whether another process finds this very function by its name."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


@dataclass
class _Reached:
    """What a function reaches.

    Attributes:
        texts: code, by what it is: the module, and the code as text.
        variables: global variables that are no constants, by name.
    """

    texts: dict[Any, tuple[str, str]] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)


def _inside(value: Any) -> list[Any]:
    """Return what a partial, a collection or a function with fields holds."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, property):
        return [value.fget, value.fset]
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if _is_called_dataclass(value):
        return [getattr(value, each.name) for each in fields(value)]
    return []


def _reach(value: Any, found: _Reached) -> None:
    """Add what an object has of code to `found`, and go on with what that names."""
    if _is_constant(value):
        return
    for part in _inside(value):
        _reach(part, found)
    value = getattr(value, "__wrapped__", value)
    if isinstance(value, MethodType | staticmethod | classmethod):
        value = value.__func__
    if not isinstance(value, FunctionType | type):
        value = type(value)
    if id(value) in found.texts or not _is_own(value.__module__):
        return
    if isinstance(value, type):
        text = f"{value.__qualname__} {_settings(vars(value))}"
        found.texts[id(value)] = str(value.__module__), text
        for part in (*value.__mro__[1:], *vars(value).values()):
            if isinstance(part, FunctionType | type | property | staticmethod | classmethod):
                _reach(part, found)
        return
    codes = list(_nested(value.__code__))
    defaults = _settings(dict(enumerate(_defaults(value))))
    texts = [_text(code) for code in codes]
    found.texts[id(value)] = str(value.__module__), f"{value.__qualname__} {defaults} {texts}"
    for part in (*_contents(value), *_defaults(value)):
        _reach(part, found)
    names = {name for code in codes for name in code.co_names}
    assigned, read = (set().union(*each) for each in zip(*map(_globals, codes)))
    for name in names - assigned:
        for module, part in _named(name, value, read):
            if _is_constant(part):
                found.texts[module, name] = module, f"{name} = {_plain(part)}"
                continue
            _reach(part, found)
            if not (_is_code(part) or module.partition(".")[0] in _HOUSE):
                found.variables[f"variable {name} of {module}"] = part


def _named(name: str, function: FunctionType, read: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield what a name in a function may stand for, with its module: a global, or an attribute.

    Args:
        read: globals that the function reads.
    """
    around = function.__globals__
    if name in around and name in read:
        yield str(function.__module__), around[name]
    for other in read:
        module = around.get(other)
        if isinstance(module, ModuleType) and _is_own(module.__name__) and name in vars(module):
            yield module.__name__, vars(module)[name]


@functools.cache
def _globals(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the globals that code assigns, which say what was done, and those that it reads."""
    assigned, read = set(), set()
    for step in dis.get_instructions(code):
        if step.opname == "STORE_GLOBAL":
            assigned.add(step.argval)
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(step.argval)
    return assigned, read


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _text(code: CodeType) -> str:
    constants = [_plain(each) for each in code.co_consts if not isinstance(each, CodeType)]
    return f"{code.co_code.hex()} {constants} {code.co_names} {code.co_varnames}"


def _plain(constant: Any) -> str:
    """Return a constant as text, the same one in every process: sets have no order."""
    if isinstance(constant, frozenset):
        return f"frozenset({sorted(map(repr, constant))})"
    return repr(constant)


@functools.cache
def _is_own(module: str | None) -> bool:
    """Whether a module is neither Python's own nor an installed one."""
    if module is None or module == "__main__":
        return True
    if module.partition(".")[0] in (*sys.stdlib_module_names, *sys.builtin_module_names):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not any(Path(file).is_relative_to(each) for each in _INSTALLED)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
