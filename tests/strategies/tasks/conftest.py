"""What the tests of tasks share."""

import pytest

from strategies.tasks import Workers, worker


@pytest.fixture(autouse=True)
def _workers_without_torch(monkeypatch):
    """Have workers begin soon, also where another test has imported torch."""
    monkeypatch.setattr(worker, "_preloaded", list)


@pytest.fixture(scope="module")
def pair():
    """Two workers for all tests of a file."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(worker, "_preloaded", list)
        with Workers(2) as workers:
            yield workers
