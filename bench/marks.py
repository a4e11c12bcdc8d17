"""What benchmarks say about themselves to pytest."""

from typing import Any

import pytest


def only_in_full_grid(value: Any) -> Any:
    """A parameter value that --quick leaves out."""
    return pytest.param(value, marks=pytest.mark.full)
