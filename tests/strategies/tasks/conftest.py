"""What the tests of tasks share."""

from pathlib import Path

import pytest

from nn.data import Dataset, load
from strategies.tasks import Workers, worker
from tests.strategies.tasks.nets import write


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


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder for each test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOCKSTEP_CACHE", str(folder))
    return folder


@pytest.fixture
def numbered(tmp_path: Path) -> Dataset:
    """A small set whose column 0 is the number of the row."""
    return load("file", path=write(tmp_path / "numbered.npz"), normalise=False)
