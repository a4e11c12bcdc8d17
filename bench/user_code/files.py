"""Python files of a user: what they define, and which of their lines an error came from."""

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bench.user_code import UserCodeError

_run = set[str]()
"""Paths of the user's files that were run."""


def names_python(argument: str) -> bool:
    """Whether an option's argument names a Python file, or something in one."""
    return ".py:" in argument or argument.endswith(".py")


def load_attribute(argument: str, option: str, expected: str) -> tuple[Any, str]:
    """Load what `argument`, path/to/file.py:name, refers to; return it and its name.

    Raises:
        UserCodeError: there is no such file or name, or the file cannot be imported.
    """
    path, _, name = argument.rpartition(":")
    if not path or not name.isidentifier():
        raise UserCodeError(f"{option} {argument}: expected path/to/file.py:{expected}")
    if not Path(path).is_file():
        raise UserCodeError(f"{option} {argument}: there is no file {path} in {Path.cwd()}")
    module = _load_module(Path(path).resolve(), option, argument)
    if not hasattr(module, name):
        names = [n for n in vars(module) if not n.startswith("_")]
        close = get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"
        raise UserCodeError(f"{option} {argument}: {path} defines no {name}; {hint}")
    return getattr(module, name), name


def _load_module(path: Path, option: str, argument: str) -> ModuleType:
    """Import a file as a module; a file that several options name is run once."""
    name = f"user_code_{path.stem}"
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserCodeError(f"{option} {argument}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    _run.add(str(path))
    sys.modules[name] = module  # dataclasses and pickle look their module up there
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # the file may import its neighbours
    with blamed(f"{option} {argument}: importing {path}"):
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return module


@contextmanager
def blamed(doing: str) -> Iterator[None]:
    """Turn errors of the user's code into a `UserCodeError` that says what was done, and where."""
    try:
        yield
    except UserCodeError:
        raise
    except (Exception, SystemExit) as error:
        lines = traceback.extract_tb(error.__traceback__)
        theirs = [line for line in lines if line.filename in _run]
        at = f" at {Path(theirs[-1].filename).name}:{theirs[-1].lineno}" if theirs else ""
        raise UserCodeError(f"{doing} raised {type(error).__name__}{at}: {error}") from error


@contextmanager
def seeded() -> Iterator[None]:
    """Seed the global generators of numpy and torch, and restore their states afterwards."""
    state = np.random.get_state()  # noqa: NPY002  # the user's code may draw from it
    np.random.seed(0)  # noqa: NPY002
    try:
        if torch := sys.modules.get("torch"):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                yield
        else:
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002
