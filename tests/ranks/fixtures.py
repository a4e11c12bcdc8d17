"""The fixtures that tests ask for: ``comm``, ``workers`` and ``world``."""

import pytest

from .groups import GROUP
from .mpi import MPI


@pytest.fixture
def workers(request: pytest.FixtureRequest) -> int:
    """The number of ranks in this test: 1 to all in turn, or as its mark ``workers`` says."""
    return request.node.stash[GROUP].size


@pytest.fixture
def comm(request: pytest.FixtureRequest, workers: int) -> MPI.Comm:
    """A communicator for this test alone, over the first ``workers`` ranks.

    The other ranks sleep until the test is over. They run neither its body nor the fixtures that
    use ``comm``.
    """
    return request.node.stash[GROUP].comm


@pytest.fixture
def world(request: pytest.FixtureRequest) -> MPI.Comm:
    """A communicator for this test alone, over all ranks that are alive."""
    if "workers" in request.fixturenames:
        raise pytest.UsageError(
            "a test uses either the fixture world (all ranks) or comm (some of them), not both"
        )
    return request.node.stash[GROUP].comm
