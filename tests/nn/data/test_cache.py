"""Prepared sets are made once, whole or not at all, even if processes compete or are killed."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nn.data import cache
from tests.nn.data.small import ROWS, arrays, fetch

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

ROOT = Path(__file__).parents[3]


def refuse() -> tuple[dict, cache.Arrays]:
    raise AssertionError("made although it is there")


def sets(folder: Path) -> list[str]:
    """Names in the cache folder, without lock files."""
    return [file.name for file in folder.iterdir() if file.suffix != ".lock"]


def test_made_once(cache_folder: Path) -> None:
    first = fetch()
    again = cache.fetch("small", {"a": 1}, refuse)
    for found in (first, again):
        np.testing.assert_array_equal(found["x"], ROWS)
        np.testing.assert_array_equal(found["y"], np.arange(6))
        assert found["classes"] == 6
    assert len(sets(cache_folder)) == 1


def test_another_key_is_another_set(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch()
    cache.fetch("small", {"a": 2}, lambda: ({"classes": 6}, arrays()))
    monkeypatch.setattr(cache, "code", lambda: "changed")
    fetch()
    assert len(sets(cache_folder)) == 3


def test_an_error_leaves_nothing(cache_folder: Path) -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fetch(fail)
    assert sets(cache_folder) == []
    np.testing.assert_array_equal(fetch()["x"], ROWS)


def test_missing_rows_are_noticed(cache_folder: Path) -> None:
    with pytest.raises(RuntimeError, match=r"x\.npy: 32 bytes made for shape \(6, 2\)"):
        cache.fetch("small", {"a": 1}, lambda: ({}, iter([("x", (6, 2), iter([ROWS[:4]]))])))
    assert sets(cache_folder) == []


def cut(folder: Path) -> None:
    with (folder / "x.npy").open("r+b") as file:
        file.truncate(150)


def lengthen(folder: Path) -> None:
    with (folder / "y.npy").open("ab") as file:
        file.write(b"\0")


def empty(folder: Path) -> None:
    (folder / "x.npy").write_bytes(b"")


def remove(folder: Path) -> None:
    (folder / "y.npy").unlink()


def swap(folder: Path) -> None:
    np.save(folder / "x.npy", ROWS.T)


def pickle(folder: Path) -> None:
    np.save(folder / "x.npy", np.array([{}, 1], dtype=object))


def scribble(folder: Path) -> None:
    (folder / "set.json").write_text('{"shapes": ')


def forget(folder: Path) -> None:
    (folder / "set.json").unlink()


@pytest.mark.parametrize(
    "damage",
    [cut, lengthen, empty, remove, swap, pickle, scribble, forget],
    ids=lambda f: f.__name__,
)
def test_a_damaged_set_is_made_anew(cache_folder: Path, damage: Callable[[Path], None]) -> None:
    fetch()
    (name,) = sets(cache_folder)
    damage(cache_folder / name)
    with pytest.warns(UserWarning, match=f"{name}: damaged .*; made anew"):
        found = fetch()
    np.testing.assert_array_equal(found["x"], ROWS)
    assert sets(cache_folder) == [name]
    cache.fetch("small", {"a": 1}, refuse)


def test_a_mapped_set_survives_being_replaced(cache_folder: Path) -> None:
    before = fetch()
    (name,) = sets(cache_folder)
    forget(cache_folder / name)
    with pytest.warns(UserWarning, match="made anew"):
        fetch()
    np.testing.assert_array_equal(before["x"], ROWS)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_folder_that_cannot_be_made_is_named(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def deny(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", deny)
    message = f"{cache_folder}.*{os.strerror(number)}.*set LOCKSTEP_CACHE to a folder that"
    with pytest.raises(type(OSError(number, "")), match=message):
        fetch()


def test_a_cache_folder_that_is_a_file_is_named(cache_folder: Path) -> None:
    cache_folder.write_text("")
    with pytest.raises(OSError, match=f"{cache_folder}.*set LOCKSTEP_CACHE to a folder that"):
        fetch()


def test_the_wait_has_an_end(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_PATIENCE", 0.1)

    def ask_again() -> None:
        with pytest.raises(TimeoutError, match="held by another process for 0 s; end that"):
            fetch()

    fetch(ask_again)


def start(notes: Path, mode: str) -> subprocess.Popen:
    """A process outside MPI that has imported all it needs and waits for a line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.nn.data.small", notes, mode],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def let_go(process: subprocess.Popen) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_processes_that_start_at_once(tmp_path: Path) -> None:
    processes = [start(tmp_path / "notes", "sleep") for _ in range(3)]
    for process in processes:
        let_go(process)
    answers = {process.communicate(timeout=30)[0] for process in processes}
    assert answers == {f"{ROWS.sum()}\n"}
    assert len((tmp_path / "notes").read_text().split()) == 1


def test_a_maker_that_is_killed(tmp_path: Path, cache_folder: Path) -> None:
    victim, heir = start(tmp_path / "notes", "die"), start(tmp_path / "notes", "sleep")
    let_go(victim)
    while not (tmp_path / "notes").exists():  # the victim holds the lock, half is written
        time.sleep(0.01)
    (half,) = sets(cache_folder)
    assert half.startswith(".")
    assert heir.communicate("\n", timeout=30)[0] == f"{ROWS.sum()}\n"
    assert victim.wait() == -signal.SIGKILL
    victim.communicate()
    (whole,) = sets(cache_folder)
    assert not whole.startswith(".")
    assert len((tmp_path / "notes").read_text().split()) == 2
