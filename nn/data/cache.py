"""Prepared sets on disk, each made once: by one process, while others that want it sleep.

A set is a folder of `.npy` files and a `set.json`. It is written into a temporary folder that is
renamed when complete, so a reader sees all of a set or nothing, and a crash leaves none. The
processes agree through a lock file only, which the system releases when its holder dies.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import AcquireReturnProxy, FileLock, Timeout
from numpy.typing import NDArray
from platformdirs import user_cache_path

from nn.atomic_write import atomic_write

FORMAT = 1
"""A part of every key. Raise it when preparation changes, so that old sets are made anew."""

_POLL, _PATIENCE = 0.05, 600.0  # seconds: of sleep between two looks at the lock; until giving up
_DTYPES: dict[str, np.dtype] = {"x": np.dtype("<f4"), "y": np.dtype("<i8")}
_MAKERS = ("numpy", "scipy", "scikit-learn")

Arrays = Iterator[tuple[str, tuple[int, ...], Iterator[NDArray]]]
"""Arrays to write: (name, shape, rows in chunks). Names in x... are float32, in y... int64."""

Maker = Callable[[], tuple[Mapping[str, int], Arrays]]
"""A function that makes a set: numbers by name, such as `classes`, and its arrays."""


class Damaged(Exception):
    """A set in the cache is not as it was written."""


def folder() -> Path:
    """The folder of prepared sets: $LOCKSTEP_CACHE, or else the user's cache folder."""
    return Path(os.environ.get("LOCKSTEP_CACHE") or user_cache_path("lockstep"))


def fetch(name: str, key: Mapping[str, Any], make: Maker) -> dict[str, Any]:
    """Return the set with this key, its arrays mapped read-only; make it first if there is none.

    Args:
        name: beginning of the folder's name, for people.
        key: everything that the arrays depend on, as JSON values.
        make: makes the set. It is called in one process only, however many ask at once.

    Returns:
        Numbers and arrays by name.

    Raises:
        OSError: the cache folder cannot be written.
        TimeoutError: another process has been making this set for ten minutes.
        Exception: any error of `make`; nothing is left behind then.
    """
    from importlib.metadata import version

    key = {**key, "format": FORMAT} | {maker: version(maker) for maker in _MAKERS}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    target = folder() / f"{name}-{digest[:16]}"
    try:
        return _open(target)  # usually the set is there, and no lock is needed
    except (FileNotFoundError, Damaged):
        pass
    with _lock(target):
        try:
            return _open(target)  # made while this process slept
        except FileNotFoundError:
            pass
        except Damaged as damage:
            warnings.warn(f"{target}: {damage}; made anew", stacklevel=2)
        _replace(target, make, key)
        return _open(target)


def _lock(target: Path) -> AcquireReturnProxy:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(f"{target}.lock").acquire(_PATIENCE, poll_interval=_POLL)
    except Timeout:
        raise TimeoutError(
            f"{target}.lock: held by another process for {_PATIENCE:.0f} s; "
            "end that process, or set LOCKSTEP_CACHE to another folder"
        ) from None
    except OSError as error:
        raise OSError(  # becomes the subclass that belongs to the number
            error.errno,
            f"{target.parent}: prepared sets cannot be kept there ({error.strerror}); "
            "set LOCKSTEP_CACHE to a folder that you may write",
        ) from None


def _replace(target: Path, make: Maker, key: Mapping[str, Any]) -> None:
    """Make the set beside its place and move it there. Call only while holding the lock."""
    prefix = f".{target.name}-"
    for leftover in target.parent.glob(f"{prefix}*"):  # of a process killed in the middle
        shutil.rmtree(leftover)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix))
    try:
        fresh = temporary / "fresh"
        fresh.mkdir()
        shapes = {}
        numbers, arrays = make()
        for name, shape, chunks in arrays:
            shapes[name] = shape
            _write(fresh / f"{name}.npy", shape, _DTYPES[name[0]], chunks)
        with atomic_write(fresh / "set.json", "w") as file:
            json.dump({"key": key, "numbers": numbers, "shapes": shapes}, file, indent=1)
        # The set is replaced as a folder, since no reader may see arrays of two sets together.
        if target.exists():
            target.rename(temporary / "damaged")
        fresh.rename(target)
    finally:
        shutil.rmtree(temporary)


def _write(path: Path, shape: tuple[int, ...], dtype: np.dtype, chunks: Iterator[NDArray]) -> None:
    """Write the chunks as a .npy file whose bytes are on the disk when this returns."""
    # Written, not mapped: on a full disk a write raises, but a store into a map kills the process.
    with atomic_write(path) as file:
        header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype).data)
        written, expected = file.tell() - start, int(np.prod(shape)) * dtype.itemsize
        if written != expected:
            raise RuntimeError(f"{path.name}: {written} bytes made for shape {shape}")


def _open(target: Path) -> dict[str, Any]:
    """Map the arrays of a set. Only headers are read, so a rank touches no rows but its own.

    Raises:
        FileNotFoundError: there is no such set.
        Damaged: files are missing, cut, or different from what `set.json` says.
    """
    if not target.exists():
        raise FileNotFoundError(target)
    try:
        about = json.loads((target / "set.json").read_text())
        found = dict(about["numbers"])
        for name, shape in about["shapes"].items():
            path = target / f"{name}.npy"
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
            if mapped.shape != tuple(shape) or mapped.dtype != _DTYPES[name[0]]:
                raise ValueError(f"{path.name} holds {mapped.dtype} of shape {mapped.shape}")
            if path.stat().st_size != mapped.offset + mapped.nbytes:
                raise ValueError(f"{path.name} is longer than it should be")
            # A plain view of the map, because np.memmap costs time at every slice.
            found[name] = np.asarray(mapped)
        return found
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"damaged ({error})") from None
