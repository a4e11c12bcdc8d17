"""What a function computes with: digests by which a journal knows its code and its data again."""

import dis
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import joblib

_CONSTANTS = (bool, int, float, complex, str, bytes, tuple, frozenset, type(None))
_INSTALLED = tuple(
    {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def code_of(function: Callable[..., Any]) -> dict[str, str]:
    """Return a digest for every module that holds code which the function reaches.

    Code is what the function names, and what that names in turn: functions, classes, and constants
    of modules, but nothing of the standard library or an installed package. Comments do not count.
    A function that is only found at run time, say by its name as text, is not seen.
    """
    found: dict[int, tuple[str, str]] = {}
    _reach(function, found)
    modules: dict[str, list[str]] = {}
    for module, text in found.values():
        modules.setdefault(module, []).append(text)
    return {module: _digest("\n".join(sorted(texts))) for module, texts in sorted(modules.items())}


def data_of(function: Callable[..., Any], data: Any) -> dict[str, str]:
    """Return digests of `data` and of what the function carries with it: arguments and closures.

    Raises:
        TypeError: something cannot be pickled, and so not be compared with another run's.
    """
    carried = {} if data is None else {"data": data}
    return {
        name: _hash(name, value) for name, value in [*carried.items(), *_carried(function).items()]
    }


def _carried(function: Any) -> dict[str, Any]:
    """Return what a function holds beside code: arguments of a partial, closures, an object."""
    if isinstance(function, functools.partial):
        given: dict[str, Any] = {f"argument {i}": arg for i, arg in enumerate(function.args)}
        given |= {f"argument {name}": value for name, value in function.keywords.items()}
        return _carried(function.func) | {k: v for k, v in given.items() if not _is_code(v)}
    if isinstance(function, MethodType):
        return _carried(function.__func__) | {"object of the method": function.__self__}
    if isinstance(function, FunctionType):
        names = function.__code__.co_freevars
        held = {
            f"variable {name}": value
            for name, value in zip(names, _contents(function))
            if not _is_code(value)
        }
        defaults = enumerate(_defaults(function))
        others = {i: value for i, value in defaults if not isinstance(value, _CONSTANTS)}
        return held | {f"default {i}": v for i, v in others.items() if not _is_code(v)}
    return {} if _is_code(function) else {"object": function}


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
        if isinstance(value, _CONSTANTS) and not str(name).startswith("__")
    ]


def _is_code(value: Any) -> bool:
    return isinstance(value, FunctionType | type | ModuleType) or hasattr(value, "__wrapped__")


def _hash(name: str, value: Any) -> str:
    try:
        return str(joblib.hash(value))
    except Exception as error:
        raise TypeError(
            f"{name}: a journal cannot tell a {type(value).__name__} from another one ({error}). "
            "Make it within the function"
        ) from None


def _reach(value: Any, found: dict[int, tuple[str, str]]) -> None:
    """Add what an object has of code to `found`, by id, and go on with what that names."""
    if isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            _reach(part, found)
        return
    value = getattr(value, "__wrapped__", value)
    if isinstance(value, MethodType):
        value = value.__func__
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    if isinstance(value, property):
        for part in (value.fget, value.fset):
            _reach(part, found)
        return
    if not isinstance(value, FunctionType | type):
        value = type(value)
    if id(value) in found or not _is_own(value.__module__):
        return
    if isinstance(value, type):
        found[id(value)] = str(value.__module__), f"{value.__qualname__} {_settings(vars(value))}"
        for part in (*value.__mro__[1:], *vars(value).values()):
            if isinstance(part, FunctionType | type | property | staticmethod | classmethod):
                _reach(part, found)
        return
    codes = list(_nested(value.__code__))
    defaults = _settings(dict(enumerate(_defaults(value))))
    texts = [_text(code) for code in codes]
    found[id(value)] = str(value.__module__), f"{value.__qualname__} {defaults} {texts}"
    for part in (*_contents(value), *_defaults(value)):
        if _is_code(part) or isinstance(part, functools.partial):
            _reach(part, found)
    names = {name for code in codes for name in code.co_names}
    for name in names - _assigned(codes):
        for part in _named(name, value, codes):
            if _is_code(part):
                _reach(part, found)
            elif isinstance(part, _CONSTANTS):
                module = str(value.__module__)
                found[hash((module, name, repr(part)))] = module, f"{name} = {_plain(part)}"


def _named(name: str, function: FunctionType, codes: list[CodeType]) -> Iterator[Any]:
    """Yield what a name in a function may stand for: a global, or an attribute of a module."""
    around = function.__globals__
    if name in around:
        yield around[name]
    for other in {other for code in codes for other in code.co_names}:
        module = around.get(other)
        if isinstance(module, ModuleType) and _is_own(module.__name__) and name in vars(module):
            yield vars(module)[name]


def _assigned(codes: list[CodeType]) -> set[str]:
    """Return the globals that a function assigns: they say what was done, and not what to do."""
    return {
        step.argval
        for code in codes
        for step in dis.get_instructions(code)
        if step.opname == "STORE_GLOBAL"
    }


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
