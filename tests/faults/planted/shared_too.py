"""A second file, which the surviving ranks run after shared.py."""

from collections.abc import Callable
from typing import Any

import pytest
from mpi4py import MPI

ALL = MPI.COMM_WORLD.size


@pytest.mark.workers(1)
@pytest.mark.parametrize("k", range(ALL))
class TestToo:
    def test_too(self, k: int) -> None:
        assert k < ALL


@pytest.mark.workers(1)
@pytest.mark.parametrize("k", range(ALL + 1))
def test_outside_too(comm: MPI.Comm, k: int) -> None:
    assert comm.allreduce(k) == k


def test_together_too(
    world: MPI.Comm, write_log: Callable[..., None], request: pytest.FixtureRequest
) -> None:
    assert world.allreduce(1) == world.size
    plugin: Any = request.config.pluginmanager.get_plugin("ranks")
    write_log(whole=plugin.control.can_finalize)
