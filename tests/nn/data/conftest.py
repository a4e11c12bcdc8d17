"""A cache folder for each test, so that no test sees what another prepared."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOCKSTEP_CACHE", str(folder))
    return folder
