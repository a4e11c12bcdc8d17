"""Run Hypothesis on several ranks: all draw the same examples and agree on the outcome of each.

Hypothesis chooses the next example by the outcome of the last. If an example failed on one rank
only, the ranks would go on to different examples and wait for each other in collectives that never
match.
"""

import functools
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest

from .control import allgather
from .groups import Group
from .mpi import MPI

_GRACE = 0.25


class ExampleAborted(BaseException):
    """An example failed here while other ranks were waiting in it, so it cannot be shrunk."""


def load_profile() -> None:
    """Make the examples depend on the test alone: not on clock, database or chance."""
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
    """Make the group agree on the outcome of each example of a Hypothesis test."""
    handle = getattr(item.obj, "hypothesis", None)
    if handle is None or group.size == 1:
        return
    inner = getattr(handle.inner_test, "__wrapped_by_ranks__", handle.inner_test)
    handle.inner_test = _collective(inner, group.outcomes)


def _collective(test: Callable[..., Any], comm: MPI.Comm) -> Callable[..., Any]:
    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        error: BaseException | None = None
        try:
            test(*args, **kwargs)
        except Exception as e:
            error = e
        # Raise outside the except block and from one line on all ranks: Hypothesis tells bugs apart
        # by type, place and context of the exception.
        give_up = functools.partial(_give_up, error) if error is not None else None
        outcomes = allgather(comm, _outcome(error), give_up)
        failures = [f"rank {r}: {o}" for r, o in enumerate(outcomes) if o]
        if failures:
            raise AssertionError("; ".join(failures)) from None

    run.__wrapped_by_ranks__ = test  # type: ignore[attr-defined]
    return run


def _give_up(error: BaseException, waited: float) -> None:
    if waited > _GRACE:
        raise ExampleAborted(str(error)) from error


def _outcome(error: BaseException | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}"
