"""A cache folder for each test, and a small set."""

from pathlib import Path

import pytest

from nn.data import Dataset, load
from tests.strategies.tasks.nets import write


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOCKSTEP_CACHE", str(folder))
    return folder


@pytest.fixture
def numbered(tmp_path: Path) -> Dataset:
    """A small set whose column 0 is the number of the row."""
    return load("file", path=write(tmp_path / "numbered.npz"), normalise=False)
