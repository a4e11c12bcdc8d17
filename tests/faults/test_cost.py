"""Measure what the layer costs: the time of a phase, and the processor time of a sleeping rank."""

from itertools import pairwise
from statistics import median

import pytest

from tests.faults.launch import Launch, launch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    return launch("empty", tmp_path_factory.mktemp("cost"), 4, deadline=30.0)


def test_phase(run: Launch, record_property) -> None:
    """A phase of an empty test takes at most 5 ms on four ranks."""
    times = [e["time"] for e in run.log if e.get("test", "").startswith("test_nothing")]
    steps = [1e3 * (b - a) for a, b in pairwise(times)]
    record_property("milliseconds_per_phase", median(steps))
    print(f"a phase takes {median(steps):.2f} ms (median of {len(steps)})")
    assert median(steps) <= 5.0


def test_sleeping_rank(run: Launch, record_property) -> None:
    """A sleeping rank uses less than 3% of a core."""
    shares = next(e["shares"] for e in run.log if "shares" in e)
    record_property("share_of_a_core", max(shares))
    print(f"a sleeping rank uses {max(shares):.2%} of a core")
    assert len(shares) == 3
    assert max(shares) < 0.03
