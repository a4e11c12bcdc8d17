"""Promises: what they hold, and which of those that are not kept other programs explain."""

import math
from types import SimpleNamespace

import pytest

from bench import conftest
from bench.conftest import hold, promised
from bench.report.promises import Promise, made

pytestmark = pytest.mark.workers(1)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr("bench.core.background_load.available", lambda: 2)


@pytest.mark.parametrize(
    ("value", "kept"), [(1.5, True), (1.499, True), (1.501, False), (math.nan, False)]
)
def test_a_promise_is_kept_up_to_its_limit(value, kept):
    assert Promise("a / b", value, 1.5).kept is kept
    assert Promise("a / b", value).kept


@pytest.mark.parametrize(
    ("value", "limit", "load", "needed", "outcome"),
    [
        (1.0, 1.0, 0.0, 2, None),
        (1.0, 1.0, 1.0, 2, None),
        (9.9, None, 0.0, 2, None),
        (1.1, 1.0, 0.05, 2, pytest.fail.Exception),
        (1.1, 1.0, 1.0, 1, pytest.fail.Exception),  # a core was free
        (1.1, 1.0, 1.0, 2, pytest.skip.Exception),
    ],
)
def test_a_promise_is_not_broken_by_other_programs(value, limit, load, needed, outcome):
    promise = made("a / b", value, limit, needed, {"background_load": [load, load]})
    if outcome is None:
        hold([promise])
        return
    with pytest.raises(BaseException) as said:  # a skip would end this test as one  # noqa: PT011
        hold([promise])
    assert said.type is outcome
    assert str(said.value).startswith("a / b: 1.100, promised is at most 1.000")
    assert ("kept 1.0 cores busy" in str(said.value)) is (load == 1.0)


@pytest.mark.parametrize(("load", "most"), [(0.2, 1.25), (0.5, 2.0), (1.9, 2.0)])
def test_a_promise_is_broken_by_more_than_other_programs_explain(load, most):
    """All of the load may have run on the core of one rank while the others waited for it."""
    explained = made("a / b", 3 * most - 0.01, 3.0, 2, {"background_load": [load]})
    assert explained.excused
    assert explained.verdict.endswith("which explains it: try again")
    for value in (3 * most + 0.01, math.inf, math.nan):
        broken = made("a / b", value, 3.0, 2, {"background_load": [load]})
        assert not broken.excused
        assert broken.verdict.endswith(f"which explains at most {3 * most:.3f}")
        with pytest.raises(BaseException, match="a / b") as said:
            hold([broken])
        assert said.type is pytest.fail.Exception


def test_the_state_of_the_machine_is_said():
    state = {"handover_ns": [1.0, 9.0, 9.0], "own_line_ns": [1.0] * 3, "background_load": [0.0] * 3}
    assert made("a / b", 2.0, 1.0, 2, state).meanwhile == (
        "the first two cores shared no cache in 2 of 3 rounds"
    )


class Asked:
    """pytest's configuration, with and without --promises."""

    def __init__(self, promises):
        self.option = SimpleNamespace(promises=promises)


@pytest.mark.parametrize("holds", [False, True])
def test_a_users_machine_is_no_defect(comm, holds):
    """A benchmark records what is not kept, and only `--promises` fails, when all is recorded."""
    kept = []
    record = lambda *what: kept.append(what)  # noqa: E731
    fixture = conftest.promise._get_wrapped_function()(comm, record, lambda: 0.0, Asked(holds))
    promise = next(fixture)
    promise("a / b", 1.5, 1.5)
    promise("c / d", 1.6, 1.5, seconds=[2.0], extra="more")
    promise("e / f", 1.75)
    if holds:
        with pytest.raises(pytest.fail.Exception, match=r"^c / d: 1\.600, promised .* 1\.500$"):
            next(fixture)
    else:
        with pytest.raises(StopIteration):
            next(fixture)
    assert [(made.value, *rest) for made, *rest in kept] == [
        (1.5, "1.500", [], {"ratio": 1.5, "limit": 1.5}),
        (1.6, "1.600", [2.0], {"ratio": 1.6, "limit": 1.5, "extra": "more"}),
        (1.75, "1.750", [], {"ratio": 1.75, "limit": None}),
    ]


@pytest.mark.parametrize(
    ("options", "load"),
    [
        ({}, 0.0),  # no ratio of times: nothing explains it
        ({"seconds": [1.0]}, 0.7),
        ({"machine": {"background_load": [0.2, 0.4]}}, 0.3),
        ({"seconds": [1.0], "machine": {"background_load": [0.2, 0.4]}}, 0.3),
    ],
)
def test_the_load_is_that_of_the_race_or_of_the_lap(comm, options, load):
    kept = []
    record = lambda *what: kept.append(what[0])  # noqa: E731
    promised(comm, record, lambda: 0.7, [], "a / b", 1.0, 1.5, cores=2, **options)
    said = f"other programs kept {load} cores busy" if load else ""
    assert kept[0].meanwhile == said


def test_of_several_promises_an_excused_one_does_not_hide_a_broken_one():
    excused = made("excused", 1.1, 1.0, 2, {"background_load": [1.0]})
    broken = made("broken", 9.0, 1.0, 2, {"background_load": [1.0]})
    kept = made("kept", 0.5, 1.0, 2, {"background_load": [1.0]})
    with pytest.raises(pytest.skip.Exception, match="excused"):
        hold([kept, excused])
    for several in ([excused, broken], [broken, excused]):
        with pytest.raises(BaseException, match=r"broken: 9\.000") as said:
            hold(several)
        assert said.type is pytest.fail.Exception
        assert "excused" not in str(said.value)
    hold([kept])
