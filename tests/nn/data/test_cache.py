"""Prepared sets are made once, whole or not at all, even if processes compete or are killed."""

import errno
import os
import shutil
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


def flip(folder: Path) -> None:
    contents = bytearray((folder / "x.npy").read_bytes())
    contents[-1] ^= 1
    (folder / "x.npy").write_bytes(contents)


def miscount(folder: Path) -> None:
    about = (folder / "set.json").read_text()
    (folder / "set.json").write_text(about.replace('"classes": 6', '"classes": 7'))


def nest(folder: Path) -> None:
    (folder / "set.json").write_text("[" * 100_000)


def pipe(folder: Path) -> None:
    for name in ("x.npy", "set.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)


def pipe_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    os.mkfifo(folder)


def loop(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder)


def claim(folder: Path) -> None:
    """A header of 4 TB, with the file's length as before."""
    contents = (folder / "x.npy").read_bytes()
    claimed = contents.replace(b"(6, 2), }       ", b"(999999999999,),}")[: len(contents)]
    assert claimed != contents
    (folder / "x.npy").write_bytes(claimed)


@pytest.mark.parametrize(
    "damage",
    [
        *(cut, lengthen, empty, remove, swap, pickle, scribble, forget),
        *(flip, miscount, nest, pipe, pipe_instead, loop, claim),
    ],
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


def test_a_set_under_the_name_of_another_is_made_anew(cache_folder: Path) -> None:
    fetch()
    (name,) = sets(cache_folder)
    rows = iter([("x", (1, 1), iter([np.ones((1, 1))])), ("y", (1,), iter([np.zeros(1)]))])
    cache.fetch("other", {}, lambda: ({"classes": 1}, rows))
    (other,) = {*sets(cache_folder)} - {name}
    shutil.rmtree(cache_folder / name)
    (cache_folder / other).rename(cache_folder / name)
    with pytest.warns(UserWarning, match="it is another set"):
        np.testing.assert_array_equal(fetch()["x"], ROWS)


def test_values_are_compared_only_if_a_file_was_touched(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch()
    read: list[object] = []
    monkeypatch.setattr(cache, "_checksum", lambda file: read.append(file))
    cache.fetch("small", {"a": 1}, refuse)
    assert not read


def test_the_key_follows_the_code_that_makes_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "nn/data", tmp_path / "data")
    same = cache.code(tmp_path / "data")
    assert same == cache.code()
    found = {same}
    for file in ("prepare.py", "sets/digits.py", "formats/idx.py"):
        with (tmp_path / "data" / file).open("a") as changed:
            changed.write("\n")
        cache.code.cache_clear()
        found.add(cache.code(tmp_path / "data"))
    assert len(found) == 4
    cache.code.cache_clear()
    monkeypatch.setattr(cache.npz_file, "__file__", str(tmp_path / "data/prepare.py"))
    assert cache.code() != same
    cache.code.cache_clear()


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


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo], ids=["file", "pipe"])
def test_a_cache_folder_that_is_none_is_named(
    cache_folder: Path, make: Callable[[Path], None]
) -> None:
    make(cache_folder)
    message = f"{cache_folder}.*it is no folder.*; set LOCKSTEP_CACHE to a folder that you may"
    with pytest.raises(OSError, match=message):
        fetch()


def without_lock(cache_folder: Path) -> Path:
    """The place of the lock of a set that is not there."""
    fetch()
    (name,) = sets(cache_folder)
    shutil.rmtree(cache_folder / name)
    lock = cache_folder / f"{name}.lock"
    lock.unlink()
    return lock


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to(path)])
def test_a_lock_that_is_no_file_is_named(cache_folder: Path, make: Callable[[Path], None]) -> None:
    make(without_lock(cache_folder))
    with pytest.raises(OSError, match=f"{cache_folder}: prepared sets cannot be kept there"):
        fetch()


def test_a_pipe_serves_as_a_lock(cache_folder: Path) -> None:
    os.mkfifo(without_lock(cache_folder))
    np.testing.assert_array_equal(fetch()["x"], ROWS)


def test_a_full_disk_is_named(cache_folder: Path) -> None:
    """No file may grow beyond 140 bytes: a header fits, and rows do not."""
    program = (
        "import resource\n"
        "from tests.nn.data.small import fetch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (140, 140))\n"
        "try:\n    fetch()\nexcept OSError as error:\n    print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"{cache_folder}: prepared sets cannot be kept there (File too large)" in run.stdout
    assert "set LOCKSTEP_CACHE to a folder that has room, or make room there" in run.stdout
    assert sets(cache_folder) == []


def test_an_error_of_the_maker_is_none_of_the_folder(cache_folder: Path) -> None:
    def lose() -> None:
        raise FileNotFoundError(errno.ENOENT, "no such font", "a.ttf")

    def lost() -> tuple[dict, cache.Arrays]:
        lose()
        return {}, arrays()

    for made in (lost, lambda: ({}, arrays(lose))):
        with pytest.raises(FileNotFoundError, match=r"no such font: 'a\.ttf'"):
            cache.fetch("small", {"a": 1}, made)
    assert sets(cache_folder) == []


def test_a_long_wait_is_said(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache, "_SILENCE", 0.1)
    monkeypatch.setattr(cache, "_PATIENCE", 0.3)

    def ask_again() -> None:
        with pytest.raises(TimeoutError):
            fetch()

    fetch(ask_again)
    assert f"{cache_folder}/small-" in caplog.text
    assert "another process is making this set; waiting for up to 0 s" in caplog.text


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
