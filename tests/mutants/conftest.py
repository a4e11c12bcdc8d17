"""`nox -s mutants -- --sample 4` tries one mutant in four: others at every commit."""

import subprocess
import zlib
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sample", type=int, default=1, metavar="N", help="try one mutant in N, by the commit"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number = config.getoption("--sample")
    if number < 1:
        raise pytest.UsageError(f"--sample {number}: expected a whole number of at least 1")
    commit = _commit() if number > 1 else ""
    left_out = [item for item in items if not in_sample(_mutant(item), commit, number)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def in_sample(name: str | None, commit: str, number: int) -> bool:
    """Whether a mutant is among the one in `number` that are tried at a commit."""
    return name is None or zlib.crc32(f"{commit} {name}".encode()) % number == 0


def _mutant(item: pytest.Item) -> str | None:
    """The mutant that a test plants."""
    planting = getattr(item, "originalname", "") == "test_the_mutant_is_caught"
    return item.callspec.params["name"] if planting else None  # type: ignore[attr-defined]


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    here = Path(__file__).parent
    return subprocess.run(command, cwd=here, capture_output=True, text=True, check=True).stdout
