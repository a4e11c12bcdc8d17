"""Whether cores share a cache is told by the lines that others wrote, and every rank is told."""

import numpy as np
import pytest

from strategies.comm import handing_over
from strategies.comm.handing_over import share_no_cache


@pytest.mark.workers(3)
@pytest.mark.parametrize("far", [set(), {1}, {2}, {1, 2}])
def test_one_far_core_is_enough(comm, monkeypatch, far):
    """A copy of what a far core wrote takes 10 s, any other 3 s, and of one's own lines 1 s."""
    rows = [np.ones(2**12) for _ in range(3)]

    def seconds(source, target):
        assert len(source) == len(target)
        writer = next(k for k, row in enumerate(rows) if np.shares_memory(source, row))
        return 10.0 if writer in far else 3.0 if writer else 1.0

    monkeypatch.setattr(handing_over, "_seconds", seconds)
    found = share_no_cache(comm, rows, comm.Barrier)
    assert found == bool(far)
    assert comm.allgather(found) == [found] * 3


@pytest.mark.workers(2)
def test_it_counts_the_fastest_try(comm, monkeypatch):
    """Theirs takes 30, 20, 10, 9 and 3 s, one's own always 1 s."""
    theirs, rows = iter([30.0, 20.0, 10.0, 9.0, 3.0]), [np.ones(2**12) for _ in range(2)]
    monkeypatch.setattr(
        handing_over,
        "_seconds",
        lambda source, target: next(theirs) if np.shares_memory(source, rows[1]) else 1.0,
    )
    assert not share_no_cache(comm, rows, comm.Barrier)


@pytest.mark.workers(2)
def test_short_rows_tell_nothing(comm, monkeypatch):
    monkeypatch.setattr(handing_over, "_seconds", None)
    assert not share_no_cache(comm, [np.ones(2**11 - 1) for _ in range(2)], comm.Barrier)


@pytest.mark.workers(1)
def test_a_rank_alone_has_nobody_to_share_with(comm):
    assert not share_no_cache(comm, [np.ones(2**12)], comm.Barrier)
