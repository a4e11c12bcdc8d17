"""Tests that need a package of an optional dependency group."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

import pytest

Test = TypeVar("Test", bound=Callable)


def needs(*packages: str) -> Callable[[Test], Test]:
    """Mark a test that needs these packages: it is skipped where one of them is missing.

    `nox -s correctness` installs no optional package; `nox -s optional` installs all of them and
    runs the tests with this mark.
    """
    missing = [package for package in packages if find_spec(package) is None]
    reason = f"needs {', '.join(missing)}: run `nox -s optional`"

    def mark(test: Test) -> Test:
        return pytest.mark.optional(pytest.mark.skipif(bool(missing), reason=reason)(test))

    return mark
