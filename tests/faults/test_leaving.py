"""A run whose ranks leave early, or are at different points, ends in order and says why."""

import json
from pathlib import Path

import pytest

from tests.faults.launch import launch

VICTIMS = [(4, 3), (4, 1), (4, 0), (2, 1), (2, 0)]


@pytest.mark.parametrize(("ranks", "victim"), VICTIMS)
@pytest.mark.parametrize(
    ("leave", "shown"), [("keyboard", "KeyboardInterrupt"), ("exit", "planted exit")]
)
def test_leaving(tmp_path: Path, leave: str, shown: str, ranks: int, victim: int) -> None:
    environment = {"PLANTED_LEAVE": leave}
    result = launch("leaving", tmp_path, ranks, victim=victim, environment=environment)
    assert shown in result.output
    if victim:
        assert f"rank {victim} left the session" in result.output
    assert result.ended - result.fault() < 6.0
    assert result.passed("test_before")
    assert not result.reports("test_later")
    assert result.code not in (0, None)


@pytest.mark.parametrize("ranks", [4, 2])
def test_interrupted_launcher(tmp_path: Path, ranks: int) -> None:
    """On Ctrl-C the run shows where every rank was."""
    environment = {"PLANTED_LEAVE": "sigint"}
    result = launch("leaving", tmp_path, ranks, victim=1, deadline=30.0, environment=environment)
    for rank in range(ranks):
        assert any(
            line.startswith(f"[rank {rank}]") and "in test_leave" in line
            for line in result.output.splitlines()
        ), result.output
    assert result.ended - result.fault() < 6.0
    assert result.passed("test_before")
    assert not result.reports("test_later")
    assert result.code not in (0, None)


@pytest.mark.parametrize(
    ("clash", "ranks", "victim"),
    [
        *[("import", 4, 3), ("import", 4, 1), ("import", 4, 0), ("import", 2, 1)],
        *[("collection", 4, 3), ("collection", 4, 0), ("collection", 2, 0)],
    ],
)
def test_different_collection(tmp_path: Path, clash: str, ranks: int, victim: int) -> None:
    shown = {"import": "planted import error", "collection": "test_additional"}[clash]
    environment = {"PLANTED_CLASH": clash}
    result = launch("clashing", tmp_path, ranks, victim=victim, environment=environment)
    assert "the ranks have not collected the same tests" in result.output
    assert f"rank {victim}" in result.output
    assert shown in result.output
    assert result.ended - result.fault() < 6.0
    assert not result.reports("test_same")
    assert result.code not in (0, None)


@pytest.mark.parametrize("victim", [3, 1, 0])
def test_killed_while_measuring(tmp_path: Path, victim: int) -> None:
    """Whichever rank dies, earlier measurements are on disk."""
    json_file = tmp_path / "saved.json"
    arguments = ["--benchmark-json", str(json_file), "--benchmark-disable-gc"]
    result = launch("measuring", tmp_path, 4, victim=victim, arguments=arguments)
    cells = [json.loads(line) for line in (tmp_path / "cells.jsonl").read_text().splitlines()]
    assert cells[0]["cell"] == "first"
    assert cells[0]["median"] > 0
    assert "second" not in [cell["cell"] for cell in cells]
    assert result.code not in (0, None)
    if victim == 0:
        return
    assert result.failure("test_cell")["seconds"] < 2.0
    assert [cell["cell"] for cell in cells] == ["first", "third"]
    saved = {b["param"]: b for b in json.loads(json_file.read_text())["benchmarks"]}
    assert set(saved) >= {"first", "third"}
    assert len(list(tmp_path.rglob("*.json"))) == 1


def test_only_the_first_rank_saves(tmp_path: Path) -> None:
    arguments = ["--benchmark-save", "planted", "--benchmark-storage", str(tmp_path / "store")]
    arguments += ["--junitxml", str(tmp_path / "report.xml")]
    result = launch("measuring", tmp_path, 2, arguments=arguments)
    assert result.code == 0, result.output
    assert len(list((tmp_path / "store").rglob("*.json"))) == 1
    assert result.output.count("3 passed") == 1


def test_wrong_number_of_ranks(tmp_path: Path) -> None:
    """A launcher that does not belong to the MPI library starts worlds of one rank."""
    environment = {"LOCKSTEP_RANKS": "4", "PLANTED_CLASH": ""}
    result = launch("clashing", tmp_path, 1, launcher=[], environment=environment)
    assert "LOCKSTEP_RANKS asks for 4 ranks, but MPI sees a world of 1" in result.output
    assert result.code not in (0, None)
