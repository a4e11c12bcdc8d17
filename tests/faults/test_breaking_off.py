"""A run that breaks off names the tests that had failed before, wherever it ends."""

import re
from pathlib import Path

import pytest

from tests.faults.launch import Launch, launch, mpiexec

EARLY = [rf"^FAILED .*breaking_off\.py::test_early\[{k}\] - rank 0" for k in range(2)]


def broken_off(tmp_path: Path, end: str, ranks: int, victim: int, launcher=None) -> Launch:
    environment = {"PLANTED_END": end}
    return launch(
        "breaking_off",
        tmp_path,
        ranks,
        victim=victim,
        environment=environment,
        launcher=launcher,
        arguments=["--color=no"],
    )


def times_named(result: Launch) -> list[int]:
    """Return how often the output names each of the failures."""
    lines = re.sub(r"^\[rank \d+\] ", "", result.output, flags=re.MULTILINE)
    return [len(re.findall(line, lines, re.MULTILINE)) for line in EARLY]


def assert_named_once(result: Launch) -> None:
    assert times_named(result) == [1, 1], result.output
    assert not result.reports("test_later")
    assert result.code not in (0, None)


@pytest.mark.parametrize(
    ("end", "ranks", "victim"),
    [
        *[("kill", 4, 0), ("kill", 2, 0), ("gil", 2, 0)],  # the next rank prints
        *[("exit_c", 4, 3), ("exit_c", 4, 1), ("exit_c", 2, 1), ("exit_c", 4, 0), ("exit_c", 2, 0)],
        *[("leave", 4, 3), ("leave", 4, 0), ("leave", 2, 1), ("leave", 2, 0)],
        # The guard prints.
        *[("kill everywhere", 2, 0), ("os_exit_0 everywhere", 4, 0), ("exit_c_0 everywhere", 2, 0)],
        *[("gil everywhere", 2, 0)],
    ],
)
def test_failures_so_far_are_named(tmp_path: Path, end: str, ranks: int, victim: int) -> None:
    assert_named_once(broken_off(tmp_path, end, ranks, victim))


@pytest.mark.parametrize(
    ("end", "ranks", "victim"),
    [("abort", 4, 3), ("abort", 2, 0), ("abort everywhere", 2, 0), ("ctrl_c", 4, 1)],
)
def test_failures_are_named_while_the_launcher_ends_the_ranks(
    tmp_path: Path, end: str, ranks: int, victim: int
) -> None:
    """Perhaps twice: what a rank prints then may be lost."""
    result = broken_off(tmp_path, end, ranks, victim)
    assert all(times_named(result)), result.output
    assert result.code not in (0, None)


@pytest.mark.parametrize("end", ["exit_c", "kill", "gil"])
def test_without_fault_tolerance(tmp_path: Path, end: str) -> None:
    result = broken_off(tmp_path, end, 2, 1, launcher=[mpiexec()])
    assert all(times_named(result)), result.output
    assert result.code not in (0, None)
