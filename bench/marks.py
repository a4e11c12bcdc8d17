"""What benchmarks say about themselves to pytest."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from bench.core.cell import Case, Cell

T = TypeVar("T", bound=Callable)


def only_in_full_grid(value: Any) -> Any:
    """A parameter value that --quick leaves out."""
    return pytest.param(value, marks=pytest.mark.full)


def planned(cell: Callable[..., Cell], case: Callable[..., Case] | None = None) -> Callable[[T], T]:
    """Say which cell a test measures, so that it is raced with those of other tests.

    Cells of one net, batch size, data set and device are one race (`bench.races`). The first of
    their tests runs it, and each test then asks its fixture `speedup` for the cell of its own.

    Args:
        cell: makes the cell, from parameters of the test and `pytestconfig`.
        case: says how the cell is trained, from the same arguments after the cell; by default
            `bench.core.grid.case` does.
    """

    def decorate(test: T) -> T:
        test.cell, test.case = cell, case  # type: ignore[attr-defined]
        return test

    return decorate


def cell_test(cell: Callable[..., Cell]) -> Callable[..., None]:
    """Make a test of a function that returns a cell: the cell is measured and kept."""

    @planned(cell)
    @functools.wraps(cell)
    def test(speedup: Callable, **arguments: Any) -> None:
        speedup(cell(**arguments))

    own = inspect.signature(cell)
    speedup = inspect.Parameter("speedup", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [speedup, *own.parameters.values()]
    test.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return test
