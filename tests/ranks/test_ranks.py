"""Test the rank-aware layer from inside: by tests that run in it."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpi4py import MPI

from . import collected, guard
from .control import allgather
from .verdict import PhaseReport, agree
from .waiting import wait
from .watchdog import Overrun


@pytest.mark.alone
def test_comm_is_private_and_of_the_size_asked_for(comm: MPI.Comm, workers: int) -> None:
    assert comm.size == workers
    assert comm.rank == MPI.COMM_WORLD.rank
    assert comm.allreduce(1) == workers


@pytest.mark.workers(2)
def test_only_the_workers_run_the_body(comm: MPI.Comm) -> None:
    assert MPI.COMM_WORLD.rank < 2
    assert comm != MPI.COMM_NULL


@pytest.mark.ranks(3)
@pytest.mark.workers(2)
def test_more_ranks_than_workers_take_part_as_far_as_they_are_there(comm: MPI.Comm) -> None:
    assert comm.size == min(3, MPI.COMM_WORLD.size)


@pytest.mark.ranks(1)
@pytest.mark.workers(2)
def test_no_worker_is_left_out(comm: MPI.Comm) -> None:
    assert comm.size == 2


def test_world_has_all_ranks(world: MPI.Comm) -> None:
    assert world.allreduce(1) == MPI.COMM_WORLD.size


@pytest.fixture
def built_on_comm(comm: MPI.Comm) -> int:
    return comm.size  # would raise on COMM_NULL


def test_idle_ranks_skip_fixtures_on_comm(built_on_comm: int, workers: int) -> None:
    assert built_on_comm == workers


def test_allgather_carries_unequal_lengths(comm: MPI.Comm) -> None:
    texts = allgather(comm, "x" * 1000 * comm.rank)
    assert [len(text) for text in texts] == [1000 * rank for rank in range(comm.size)]


def test_waiting_sleeps() -> None:
    start, used = time.monotonic(), time.process_time()
    wait(lambda: time.monotonic() > start + 0.5)
    assert time.process_time() - used < 0.1


@given(st.integers())
def test_all_ranks_draw_the_same_examples(world: MPI.Comm, n: int) -> None:
    assert set(allgather(world, n)) == {n}


@pytest.mark.xfail(raises=AssertionError, strict=True)
@given(st.integers(0, 1000))
def test_shrinking_stays_together(world: MPI.Comm, n: int) -> None:
    """An example that fails on one rank fails on all, or this would hang."""
    assert set(allgather(world, n)) == {n}
    assert n < 10 or world.rank < world.size - 1


class TestGuard:
    """The guard of one process, which this test's process never waits for, as MPICH's launcher."""

    @pytest.fixture
    def watched(self, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A process with a guard that writes to the file ``printed``."""
        folder = guard.Table.create(1)
        with subprocess.Popen(["sleep", "100"]) as process:
            guard.Table(folder)[0] = guard.Row(pid=process.pid, rank=7)
            guard.Table(folder).notes(7).write_text("it was here\n")
            with (tmp_path / "printed").open("w") as output:
                guard.start(folder, output.fileno(), launcher=0)
            yield process
            process.kill()
            wait(lambda: not Path(folder).exists(), self.give_up)

    @staticmethod
    def give_up(waited: float) -> None:
        assert waited < 5.0, "the guard has not ended"

    def test_a_zombie_has_ended(self, watched: subprocess.Popen[bytes], tmp_path: Path) -> None:
        watched.kill()
        wait(lambda: "[rank 7] it was here" in (tmp_path / "printed").read_text(), self.give_up)
        assert watched.returncode is None

    @pytest.mark.workers(1)
    def test_a_row_is_never_seen_without_its_process(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A guard that reads a half-written row would take its rank for one that has ended."""
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        folder = guard.Table.create(1)
        table, row = guard.Table(folder), guard.Row(pid=7, rank=3, kill_at=1.0)
        table[0] = row
        write = f"table, row = guard.Table({folder!r}), guard.{row!r}\nwhile True: table[0] = row"
        command = [sys.executable, "-c", f"import guard\n{write}"]
        with subprocess.Popen(command, cwd=Path(guard.__file__).parent) as process:
            seen = {table[0] for _ in range(300_000)}
            process.kill()
        assert seen == {row}

    def test_nothing_is_inherited(self, request: pytest.FixtureRequest) -> None:
        ours, inherited = os.pipe()
        os.set_inheritable(inherited, True)
        request.getfixturevalue("watched")
        os.close(inherited)
        os.set_blocking(ours, False)
        wait(lambda: _ended(ours), self.give_up)
        os.close(ours)


def test_a_rank_that_is_terminated_keeps_its_notes(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next phase empties the notes, except while the launcher is ending this rank."""
    plugin: Any = request.config.pluginmanager.get_plugin("ranks")
    watchdog = plugin.watchdog
    monkeypatch.setattr(watchdog, "overrun", Overrun("planted", "", forced=False))
    for terminated, kept in [(True, "it was here"), (False, "")]:
        monkeypatch.setattr(watchdog, "_terminated", terminated)
        monkeypatch.setattr(watchdog, "overrun", Overrun("planted", "", forced=False))
        watchdog.notes.write("it was here")
        with watchdog.phase(60.0):
            assert Path(watchdog.notes.name).read_text() == kept


def _ended(pipe: int) -> bool:
    try:
        return os.read(pipe, 1) == b""
    except BlockingIOError:
        return False


class TestVerdict:
    def test_equal_outcomes_are_kept(self) -> None:
        for outcome in ("passed", "skipped", "xfailed", "xpassed"):
            assert agree({0: PhaseReport(outcome), 1: PhaseReport(outcome)}, {}).outcome == outcome

    def test_one_failure_is_enough_and_is_named(self) -> None:
        verdict = agree(
            {0: PhaseReport("passed"), 1: PhaseReport("failed", "traceback", "crash")}, {}
        )
        assert verdict.outcome == "failed"
        assert "rank 1" in str(verdict.failure)
        assert "traceback" in str(verdict.failure)

    def test_causes_hide_consequences(self) -> None:
        words = {
            0: PhaseReport("failed", "revoked", "r", True),
            1: PhaseReport("failed", "cause", "c"),
        }
        assert "revoked" not in str(agree(words, {}).failure)

    def test_mixed_outcomes_fail(self) -> None:
        for outcome in ("skipped", "xfailed", "xpassed"):
            assert (
                agree({0: PhaseReport("passed"), 1: PhaseReport(outcome)}, {}).outcome == "failed"
            )

    def test_the_outcome_of_idle_ranks_does_not_count(self) -> None:
        words = {0: PhaseReport("skipped", "why"), 1: PhaseReport("passed", idle=True)}
        assert agree(words, {}).outcome == "skipped"
        words = {0: PhaseReport("passed"), 1: PhaseReport("failed", "traceback", idle=True)}
        assert agree(words, {}).outcome == "failed"

    def test_a_death_fails(self) -> None:
        verdict = agree({0: PhaseReport("passed")}, {1: "left no trace"})
        assert verdict.outcome == "failed"
        assert "rank 1 died" in str(verdict.failure)


class TestCollections:
    def test_equal_collections_have_no_difference(self) -> None:
        assert collected.difference({0: ["a"], 1: ["a"]}, {0: [], 1: []}) is None

    def test_differences_are_named(self) -> None:
        text = collected.difference({0: ["a", "b"], 1: ["a"]}, {0: [], 1: ["broken"]})
        assert text is not None
        assert "rank 1 lacks b" in text
        assert "rank 1: broken" in text

    def test_an_error_on_some_ranks_is_a_difference(self) -> None:
        text = collected.difference({0: ["a"], 1: ["a"]}, {0: [], 1: ["broken"]})
        assert text is not None
        assert "rank 1: broken" in text

    def test_order_counts(self) -> None:
        text = collected.difference({0: ["a", "b"], 1: ["b", "a"]}, {0: [], 1: []})
        assert text is not None
        assert "order" in text
