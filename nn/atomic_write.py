"""Files that appear whole or not at all."""

import os
import re
import secrets
import socket
import stat
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from nn.named_errors import naming

try:
    import fcntl
except ImportError:  # Windows: files of dead processes stay there
    fcntl = None  # type: ignore[assignment]

PATIENCE = 24 * 3600.0
"""Seconds until a temporary file that another machine has made counts as forgotten."""

_MACHINE = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_TEMPORARY = re.compile(r"\..+\.lockstep-(?P<machine>[0-9a-f]{8})-[0-9a-f]{12}\.part")


@contextmanager
def atomic_write(
    path: str | Path, mode: str = "wb", *, stream: bool = False, **options: Any
) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`, which replaces it once the block has ended well.

    The bytes are on the disk before the old file goes, so a crash leaves the old file or the new.
    If the block raises, the old file stays as it was. A symbolic link is followed and stays a link.
    The new file has the permissions, and as far as possible the owner, of the one that it replaces;
    a file that is new has those that the user's umask leaves.

    Temporary files that killed processes have left in the folder are removed.

    Args:
        path: the file to write; an older one is replaced.
        mode: "wb" or "w".
        stream: also take a device or a pipe, such as /dev/stdout, and write to it as it is. Leave
            it out for what will be read again.
        options: for `open`, such as `encoding=`.

    Raises:
        OSError: `path` is something else than a file; it, or the folder, cannot be written; the
            folder is missing or full. It names `path`.
    """
    path = Path(os.path.realpath(path))
    old = _existing(path)
    if old and not stat.S_ISREG(old.st_mode):
        if stat.S_ISDIR(old.st_mode):
            raise IsADirectoryError(f"{path} is a folder: expected the name of a file")
        if not stream:
            raise OSError(f"{path} is a device or a pipe: expected a file, or a new name")
        with naming(path), path.open(mode, **options) as file:
            yield file
        return
    if old and not os.access(path, os.W_OK):
        raise PermissionError(f"{path} is read-only: make it writable, or choose another name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: its folder does not exist")
    _remove_forgotten(path.parent)
    temporary, handle = _new_beside(path)
    try:
        with naming(path), os.fdopen(handle, mode, **options) as file:
            if old:
                _take_over(handle, old)
            yield file
            file.flush()
            os.fsync(handle)
            temporary.replace(path)  # before it is closed, which ends the lock
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _existing(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _new_beside(path: Path) -> tuple[Path, int]:
    """Make a temporary file, locked for as long as this process has it open."""
    name = path.name.encode()[:200].decode(errors="ignore")  # a name may have 255 bytes
    while True:
        token = secrets.token_hex(6)
        temporary = path.with_name(f".{name}.lockstep-{_MACHINE}-{token}.part")
        try:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        if fcntl:
            with suppress(OSError):  # a file system without locks: nobody can take it then
                fcntl.flock(handle, fcntl.LOCK_EX)
        if temporary.exists():  # or else another process removed it before the lock was there
            return temporary, handle
        os.close(handle)


def _remove_forgotten(folder: Path) -> None:
    """Remove the temporary files of dead processes.

    The system releases the lock of a process that dies. It may not know of locks on other machines
    that share the folder, so files of theirs also have to be old.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            made = _TEMPORARY.fullmatch(entry.name)
            if not made or not fcntl:
                continue
            with suppress(OSError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if made["machine"] == _MACHINE or age > PATIENCE:
                    _remove_unlocked(entry.path)


def _remove_unlocked(path: str) -> None:
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        Path(path).unlink()
    finally:
        os.close(handle)


def _take_over(handle: int, old: os.stat_result) -> None:
    """Give the file the permissions of an older one, but let no other group in."""
    mode = stat.S_IMODE(old.st_mode) & 0o777
    with suppress(OSError):
        os.fchown(handle, -1, old.st_gid)
    with suppress(OSError):
        os.fchown(handle, old.st_uid, -1)
    if os.fstat(handle).st_gid != old.st_gid:
        mode &= ~0o070
    with suppress(OSError):  # a file system without permissions
        os.fchmod(handle, mode)
