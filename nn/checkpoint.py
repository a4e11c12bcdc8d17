"""Named arrays on disk, written whole or not at all, and read without pickle."""

import os
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FORMAT = 1

_DAMAGE = (ValueError, TypeError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile and numpy raise when bytes are not what they should be (RuntimeError: encrypted;
its kind NotImplementedError: an unknown compression)."""


def write(path: str | Path, arrays: dict[str, NDArray]) -> None:
    """Write arrays to an .npz file that replaces an older one only once it is complete.

    Raises:
        ValueError: an array of Python objects, or a name that this format keeps for itself.
        OSError: the folder is missing, not writable, or full; an older file is left as it was.
    """
    path = Path(path)
    if "format" in arrays:
        raise ValueError("an array named 'format': the checkpoint keeps that name for itself")
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(f"array {name!r} holds Python objects: expected numbers")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, format=np.array(FORMAT), **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: str | Path) -> dict[str, NDArray]:
    """Arrays that `write` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint of this format, damaged, or with Python objects in it.
    """
    path = Path(path)
    try:
        # Opened here: np.load leaves a damaged file open.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array")
            arrays = {name: archive[name] for name in archive.files}
        kind = int(arrays.pop("format", np.array(-1)))
    except FileNotFoundError:
        raise
    except (*_DAMAGE, OSError) as error:
        raise ValueError(
            f"{path}: expected a checkpoint written by Lockstep (.npz, no pickle); "
            f"it is damaged or of another kind ({error})"
        ) from error
    if kind != FORMAT:
        raise ValueError(f"{path}: expected a checkpoint of format {FORMAT}")
    return arrays
