"""Tests that need a package of an optional dependency group."""

from importlib.util import find_spec

import pytest


def needs(*packages: str) -> list[pytest.MarkDecorator]:
    """Marks for a module's `pytestmark`: skip its tests where one of the packages is missing.

    `correctness` installs no optional package; `nox -s optional` installs all and runs these tests.
    """
    missing = [package for package in packages if find_spec(package) is None]
    reason = f"needs {', '.join(missing)}: run `nox -s optional`"
    return [pytest.mark.optional, pytest.mark.skipif(bool(missing), reason=reason)]
