"""Tests keep data sets in a folder of their own, whatever the user's environment says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nn.data import cache

pytestmark = pytest.mark.workers(1)

ROOT = Path(__file__).parents[1]


def test_the_folder_is_that_of_the_tests_and_of_this_code(pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.rootpath / ".pytest_cache" / "datasets" / cache.code()[:16]
    assert cache.folder() == folder


def test_programs_that_tests_start_see_it_too() -> None:
    program = "from nn.data import cache; print(cache.folder())"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == os.environ["LOCKSTEP_CACHE"]
