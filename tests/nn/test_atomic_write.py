"""A file is replaced whole or stays as it was, whatever happens while it is written."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nn import checkpoint
from nn.atomic_write import PATIENCE, atomic_write
from tests.support.full_disk import full_disk

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

ROOT = Path(__file__).parents[2]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("old", "new"):
        with atomic_write(path, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            assert text == "old" or path.read_text() == "old"
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def interrupted() -> None:
        with atomic_write(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_it_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    """Files in a shared folder, such as prepared data sets, stay readable for others."""
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "whole"):
        pass
    assert (tmp_path / "whole").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "nowhere" / "a"):
        pass


def write(path: Path, text: str) -> None:
    with atomic_write(path, "w", encoding="utf-8") as file:
        file.write(text)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_link_may_point_to_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    write(tmp_path / "link", "new")
    assert (tmp_path / "real").read_text() == "new"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        write(tmp_path / "loop", "new")
    assert (tmp_path / "loop").is_symlink()


def test_only_files_are_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/dev/null")
    for name in ("pipe", "folder", "link", "/dev/full"):
        kind = (tmp_path / name).stat().st_mode
        with pytest.raises(OSError, match="expected"):
            write(tmp_path / name, "new")
        assert (tmp_path / name).stat().st_mode == kind


def test_a_stream_is_written_to_where_it_is_asked_for() -> None:
    with atomic_write(Path("/dev/null"), "w", stream=True) as file:
        file.write("gone")
    assert not Path("/dev/null").is_file()
    with (
        pytest.raises(OSError, match=r"No space left.*/dev/full"),
        atomic_write(Path("/dev/full"), "w", stream=True) as file,
    ):
        file.write("too much")


def test_permissions_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    with atomic_write(path):
        assert {other.stat().st_mode & 0o777 for other in tmp_path.iterdir()} == {0o600}
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o400)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # of root it would not be true
    with pytest.raises(PermissionError, match="secret is read-only"):
        write(path, "new")


def test_a_full_disk_leaves_the_old_file_and_is_said_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    checkpoint.write(path, {"params": np.arange(3.0)})
    old = path.read_bytes()
    with full_disk(4000), pytest.raises(OSError, match=r"run\.npz"):
        checkpoint.write(path, {"params": np.arange(10_000.0)})
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    write(path, "new")
    assert path.read_text() == "new"


def killed_while_writing(path: Path) -> None:
    """Kill a process in the middle of a write."""
    code = "import sys; from nn.atomic_write import atomic_write as write\n"
    code += "with write(sys.argv[1]) as file:\n"
    code += "    file.write(bytes(9)); file.flush(); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, cwd=ROOT) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()


def test_what_killed_processes_left_is_removed_and_what_live_ones_write_is_not(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    foreign = [tmp_path / ".note.part", tmp_path / ".a.lockstep-0123456789ab.part"]
    for file in foreign:
        file.touch()
    killed_while_writing(other)
    assert len(list(tmp_path.iterdir())) == 3
    with atomic_write(path) as live:
        live.write(b"live")
        (left,) = set(tmp_path.iterdir()) - set(foreign)
        write(other, "other")
        write(path, "earlier")
        assert set(tmp_path.iterdir()) == {*foreign, left, other, path}
    assert path.read_bytes() == b"live"
    assert set(tmp_path.iterdir()) == {*foreign, other, path}


def test_what_another_machine_writes_is_left_for_a_day(tmp_path: Path) -> None:
    """The system may not know of locks on other machines."""
    theirs = tmp_path / ".a.lockstep-00000000-0123456789ab.part"
    theirs.touch()
    write(tmp_path / "a", "new")
    assert theirs.exists()
    os.utime(theirs, (time.time() - 1.1 * PATIENCE,) * 2)
    write(tmp_path / "a", "new")
    assert not theirs.exists()


def test_a_file_taken_away_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process saw it in the moment when nobody held its lock."""
    taken = []

    def lock(handle: int, how: int) -> None:
        taken.append(how)
        if len(taken) == 1:
            (found,) = tmp_path.iterdir()
            found.unlink()

    monkeypatch.setattr(fcntl, "flock", lock)
    write(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert len(taken) == 2
