"""The fixtures through which tests meet the ranks."""

import pytest

from tests.ranks.groups import GROUP
from tests.ranks.mpi import MPI


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> int:
    """How many ranks take part in this test: 1 to all in turn, or those of the mark ``workers``."""
    return request.node.stash[GROUP].size


@pytest.fixture
def comm(request: pytest.FixtureRequest, workers: int) -> MPI.Comm:
    """A communicator of this test's own, over the first ``workers`` ranks.

    The other ranks sleep until the test is over. They run neither its body nor the fixtures that
    use ``comm``.
    """
    return request.node.stash[GROUP].comm


@pytest.fixture
def world(request: pytest.FixtureRequest) -> MPI.Comm:
    """A communicator of this test's own over all ranks (of those that are alive)."""
    if "workers" in request.fixturenames:
        raise pytest.UsageError("a test uses either world, all ranks, or comm, some of them")
    return request.node.stash[GROUP].comm
