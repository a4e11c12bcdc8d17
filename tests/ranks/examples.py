"""Hypothesis on several ranks: all draw the same examples and reach one verdict on each.

Shrinking follows the verdicts. If an example failed on one rank only, the ranks would go on to
different examples and wait for each other in collectives that never match.
"""

import functools
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest

from tests.ranks.control import allgather
from tests.ranks.groups import Group
from tests.ranks.mpi import MPI

_GRACE = 0.25


class ExampleTorn(BaseException):
    """An example failed on this rank while others were waiting for it: no shrinking after that."""


def load_profile() -> None:
    """Examples that are a function of the test alone: no clock, no database, no chance."""
    hypothesis.settings.register_profile(
        "ranks",
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=[p for p in hypothesis.Phase if p is not hypothesis.Phase.explain],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("ranks")


def agree_on_each(item: pytest.Function, group: Group) -> None:
    """Make the verdict on each example of a Hypothesis test one of the whole group."""
    handle = getattr(item.obj, "hypothesis", None)
    if handle is None or group.size == 1:
        return
    inner = getattr(handle.inner_test, "__wrapped_by_ranks__", handle.inner_test)
    handle.inner_test = _collective(inner, group.verdicts)


def _collective(test: Callable[..., Any], verdicts: MPI.Comm) -> Callable[..., Any]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        error: BaseException | None = None
        try:
            test(*args, **kwargs)
        except Exception as e:
            error = e
        # Raised outside of the except block and from one line on all ranks: Hypothesis tells bugs
        # apart by type, place and context of the exception.
        outcome = _outcome(error)
        torn = functools.partial(_give_up, error) if error is not None else None
        outcomes = allgather(verdicts, outcome, torn)
        failures = [f"rank {r}: {o}" for r, o in enumerate(outcomes) if o]
        if failures:
            raise AssertionError("; ".join(failures)) from None

    run.__wrapped_by_ranks__ = test  # type: ignore[attr-defined]
    return run


def _give_up(error: BaseException, waited: float) -> None:
    if waited > _GRACE:
        raise ExampleTorn(str(error)) from error


def _outcome(error: BaseException | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}"
