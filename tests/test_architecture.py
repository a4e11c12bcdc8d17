"""Imports go down only, as pyproject.toml says, and so do names in strings and fixtures."""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.optional import needs

pytestmark = pytest.mark.workers(1)

ROOT = Path(__file__).parents[1]
FOLDERS = ("nn", "strategies", "bench", "tests")
"""From the bottom of the house to the top."""

MODULE = re.compile(rf"({'|'.join(FOLDERS)})(\.[a-z_]\w*)+")

FROM_THE_RANKS = {"comm", "workers"}
"""Fixtures of tests/ranks that benchmarks take by name. The root conftest.py loads tests/ranks as a
plugin, for bench/ and tests/ alike: nothing in bench/ imports it."""

FROM_PYTEST = {
    *("benchmark", "metafunc", "monkeypatch", "pytestconfig", "request"),
    *("tmp_path", "tmp_path_factory"),
}
"""Fixtures of pytest and pytest-benchmark, and the argument of pytest_generate_tests."""


def trees(folder: str) -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def strings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@needs("importlinter")
def test_imports_go_down_only(capsys, monkeypatch):
    from importlinter.cli import lint_imports

    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True) == 0, capsys.readouterr().out


@pytest.mark.parametrize("folder", FOLDERS[:-1])
def test_names_of_modules_in_strings_go_down_only(folder):
    above = FOLDERS[FOLDERS.index(folder) + 1 :]
    wrong = {
        f"{path}: {text}"
        for path, tree in trees(folder)
        for text in strings(tree)
        if MODULE.fullmatch(text) and text.split(".")[0] in above
    }
    assert not wrong


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            if find_spec(".".join(parts[:end])):
                return end > 1 or hasattr(__import__(parts[0]), parts[1])
        except ModuleNotFoundError:
            continue
    return False


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_of_modules_in_strings_exist(folder):
    """Linters do not read strings: a patch of a module that has moved would change nothing."""
    wrong = {
        f"{path}: {text}"
        for path, tree in trees(folder)
        for text in strings(tree)
        if MODULE.fullmatch(text) and not text.endswith((".py", ".md", ".toml"))
        if not exists(text)
    }
    assert not wrong


def fixtures(tree: ast.Module) -> Iterator[str]:
    """Names of the fixtures and parameters that a file defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            if any("fixture" in ast.unparse(mark) for mark in node.decorator_list):
                yield node.name
        elif isinstance(node, ast.Call) and "parametrize" in ast.unparse(node.func):
            first = node.args[0]
            given = first.elts if isinstance(first, ast.Tuple | ast.List) else [first]
            for name in given:
                if isinstance(name, ast.Constant):
                    yield from re.split(r",\s*", str(name.value))


def wanted(tree: ast.Module) -> Iterator[str]:
    """Names of the fixtures that tests and fixtures of a file ask for."""
    for node in tree.body:  # pytest collects no method of these classes: none is named Test...
        if isinstance(node, ast.FunctionDef):
            is_fixture = any("fixture" in ast.unparse(mark) for mark in node.decorator_list)
            if is_fixture or node.name.startswith("test_"):
                yield from (argument.arg for argument in node.args.args)


def test_benchmarks_take_two_fixtures_of_the_tests_and_no_other():
    bench = list(trees("bench"))
    # What a conftest or a plugin defines is there for every file.
    shared = {
        name
        for path, tree in bench
        if path.name == "conftest.py" or path.is_relative_to("bench/user_code")
        for name in fixtures(tree)
    }
    asked = {name for _, tree in bench for name in set(wanted(tree)) - set(fixtures(tree)) - shared}
    assert asked - FROM_PYTEST == FROM_THE_RANKS
