"""Prepared sets on disk, each made once: by one process, while others that want it sleep.

A set is a folder of `.npy` files and a `set.json`. It is written into a temporary folder that is
renamed when complete, so a reader sees all of a set or nothing, and a crash leaves none. The
processes agree through a lock file only, which the system releases when its holder dies.

`set.json` says what the files held when they were written. A set that is not as it was written is
made anew. Values are compared with their checksum only if a file was touched since, so that opening
a set reads no rows.

The key of a set has a digest of the code that makes sets, so a change of the code makes them anew.
"""

import errno
import functools
import hashlib
import json
import logging
import math
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout
from numpy.typing import NDArray
from platformdirs import user_cache_path

from nn import npy_file, npz_file
from nn.atomic_write import atomic_write
from nn.regular_file import open_regular

_POLL, _PATIENCE = 0.05, 600.0  # seconds: of sleep between two looks at the lock; until giving up
_SILENCE = 10.0  # seconds of waiting for the lock, after which it is said
_DTYPES: dict[str, np.dtype] = {
    "x": np.dtype("<f4"),
    "y": np.dtype("<i8"),
    "t": np.dtype("<i4"),
    "b": np.dtype("u1"),
}
_MAKERS = ("numpy", "scipy", "scikit-learn")
_ABOUT = "set.json"
_LONGEST = 1 << 20  # bytes of set.json
_PIECE = 1 << 20  # bytes read at once
_NOT_OF_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Arrays = Iterator[tuple[str, tuple[int, ...], Iterator[NDArray]]]
"""Arrays to write: (name, shape, rows in chunks). What they hold, the first letter of a name says:
x... float32, y... int64, t... (tokens) int32, b... (bytes) uint8."""

Maker = Callable[[], tuple[Mapping[str, int], Arrays]]
"""A function that makes a set: numbers by name, such as `classes`, and its arrays."""


class Damaged(Exception):
    """A set in the cache is not as it was written."""


class _MakerFailed(Exception):
    """The maker of a set raised an OSError, which does not come from the cache folder."""

    def __init__(self, error: OSError):
        super().__init__(error)
        self.error = error


def folder() -> Path:
    """The folder of prepared sets: $LOCKSTEP_CACHE, or else the user's cache folder."""
    return Path(os.environ.get("LOCKSTEP_CACHE") or user_cache_path("lockstep"))


@functools.cache
def code(source: Path = Path(__file__).parent) -> str:
    """Digest of the code that makes sets: all modules of `nn.data`, and what reads arrays for it.

    Args:
        source: the folder of `nn.data`.
    """
    digest = hashlib.sha256()
    for file in [*sorted(source.rglob("*.py")), Path(npz_file.__file__), Path(npy_file.__file__)]:
        contents = file.read_bytes()
        digest.update(f"{file.name} {len(contents)}\n".encode() + contents)
    return digest.hexdigest()


@functools.cache
def version_of(package: str) -> str:
    """Return the version of an installed package, which takes a millisecond to look up."""
    from importlib.metadata import version

    return version(package)


def fetch(name: str, key: Mapping[str, Any], make: Maker) -> dict[str, Any]:
    """Return the set with this key, its arrays mapped read-only; make it first if there is none.

    Args:
        name: beginning of the folder's name, for people.
        key: everything that the arrays depend on beside the code of `nn.data`, as JSON values.
        make: makes the set. It is called in one process only, however many ask at once.

    Returns:
        Numbers and arrays by name.

    Raises:
        OSError: the cache folder cannot be written, or is full. The message names it.
        TimeoutError: another process has been making this set for ten minutes.
        Exception: any error of `make`; nothing is left behind then.
    """
    key = {**key, "code": code()} | {maker: version_of(maker) for maker in _MAKERS}
    target = folder() / f"{name}-{_digest(key)[:16]}"
    with _named(target):
        try:
            return _open(target, key)  # usually the set is there, and no lock is needed
        except (FileNotFoundError, Damaged):
            pass
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            try:
                return _open(target, key)  # made while this process slept
            except FileNotFoundError:
                pass
            except Damaged as damage:
                warnings.warn(f"{target}: {damage}; made anew", stacklevel=3)
            _replace(target, make, key)
            return _open(target, key)


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Let errors of the file system name the cache folder and say what to do."""
    folder = target.parent
    try:
        yield
    except _MakerFailed as failed:
        raise failed.error from None
    except Timeout:
        raise TimeoutError(
            f"{target}.lock: held by another process for {_PATIENCE:.0f} s; "
            "end that process, or set LOCKSTEP_CACHE to another folder"
        ) from None
    except OSError as error:
        what, advice = error.strerror or str(error), "to a folder that you may write"
        if error.errno in _FULL:
            advice = "to a folder that has room, or make room there"
        elif folder.exists() and not folder.is_dir():
            what = "it is no folder"
        raise OSError(  # becomes the subclass that belongs to the number
            error.errno,
            f"{folder}: prepared sets cannot be kept there ({what}); set LOCKSTEP_CACHE {advice}",
        ) from error


def _lock(target: Path) -> AcquireReturnProxy:
    lock = FileLock(f"{target}.lock")
    try:
        return lock.acquire(min(_SILENCE, _PATIENCE), poll_interval=_POLL)
    except Timeout:
        left = max(0.0, _PATIENCE - _SILENCE)
        logging.getLogger(__name__).warning(
            "%s.lock: another process is making this set; waiting for up to %.0f s", target, left
        )
        return lock.acquire(left, poll_interval=_POLL)


def _replace(target: Path, make: Maker, key: Mapping[str, Any]) -> None:
    """Make the set beside its place and move it there. Call only while holding the lock."""
    prefix = f".{target.name}-"
    for leftover in target.parent.glob(f"{prefix}*"):  # of a process killed in the middle
        shutil.rmtree(leftover)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
    try:
        fresh = temporary / "fresh"
        fresh.mkdir()
        try:
            numbers, arrays = make()
        except OSError as error:
            raise _MakerFailed(error) from error
        kept = {
            name: _write(fresh / f"{name}.npy", shape, _DTYPES[name[0]], _of_maker(chunks))
            for name, shape, chunks in _of_maker(arrays)
        }
        about = {"key": key, "numbers": numbers, "arrays": kept}
        with atomic_write(fresh / _ABOUT, "w") as file:
            json.dump({**about, "digest": _digest(about)}, file, indent=1)
        # The set is replaced as a folder, since no reader may see arrays of two sets together.
        if os.path.lexists(target):
            target.rename(temporary / "damaged")
        fresh.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _of_maker(items: Iterator[Any]) -> Iterator[Any]:
    """Yield the items of a maker; an OSError of theirs does not come from the cache folder."""
    try:
        yield from items
    except OSError as error:
        raise _MakerFailed(error) from error


def _write(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, chunks: Iterator[NDArray]
) -> dict[str, Any]:
    """Write the chunks as a .npy file whose bytes are on the disk when this returns.

    Returns:
        What `_map` needs to recognise the file.
    """
    # Written, not mapped: on a full disk a write raises, but a store into a map kills the process.
    with atomic_write(path) as file:
        file.write(npy_file.header_bytes(shape, dtype))
        written, checksum = 0, 0
        for chunk in chunks:
            values = np.ascontiguousarray(chunk, dtype).data.cast("B")
            file.write(values)
            written, checksum = written + len(values), zlib.crc32(values, checksum)
        if written != math.prod(shape) * dtype.itemsize:
            raise RuntimeError(f"{path.name}: {written} bytes made for shape {shape}")
    return {"shape": shape, "checksum": checksum, "time": path.stat().st_mtime_ns}


def _open(target: Path, key: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Map the arrays of a set. Usually no row is read, so a rank touches no rows but its own.

    Args:
        target: the folder of the set.
        key: the key that it must have; by default any.

    Raises:
        FileNotFoundError: there is no such set.
        Damaged: files are missing, cut, or different from what was written.
    """
    if not os.path.lexists(target):
        raise FileNotFoundError(target)
    try:
        with open_regular(target / _ABOUT) as file:
            about = json.loads(file.read(_LONGEST))
        if about.pop("digest") != _digest(about):
            raise ValueError(f"{_ABOUT} is not as it was written")
        if key is not None and _digest(key) != _digest(about["key"]):
            raise ValueError("it is another set")
        arrays = {
            name: _map(target / f"{name}.npy", _DTYPES[name[0]], **kept)
            for name, kept in about["arrays"].items()
        }
        return {**about["numbers"], **arrays}
    except OSError as error:
        if error.errno in _NOT_OF_THE_FILE:
            raise
        raise Damaged(f"damaged ({error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"damaged ({error})") from None


def _map(path: Path, dtype: np.dtype, shape: list[int], checksum: int, time: int) -> NDArray:
    """Map an array that was written by `_write`, from which the other arguments come.

    Raises:
        ValueError: the file is not as it was written.
    """
    header = npy_file.header_bytes(tuple(shape), dtype)
    expected = len(header) + math.prod(shape) * dtype.itemsize
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size != expected:
            raise ValueError(f"{path.name} has {status.st_size:,} bytes; expected {expected:,}")
        if file.read(len(header)) != header:
            raise ValueError(f"{path.name} has another header than an array of shape {shape}")
        if status.st_mtime_ns != time:  # touched, or copied
            if _checksum(file) != checksum:
                raise ValueError(f"{path.name} holds other values than were written")
            with suppress(OSError):  # somebody else's file: compared again the next time
                os.utime(path, ns=(status.st_atime_ns, time))
        # A plain view of the map, because np.memmap costs time at every slice.
        return np.asarray(np.memmap(file, dtype, "r", len(header), tuple(shape)))


def _checksum(file: IO[bytes]) -> int:
    """CRC-32 of what follows in the file."""
    checksum = 0
    while piece := file.read(_PIECE):
        checksum = zlib.crc32(piece, checksum)
    return checksum


def _digest(about: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
