"""Checkpoint files: named arrays on disk, written whole or not at all, read without pickle."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nn.atomic_write import atomic_write

FORMAT = 1

_DAMAGE = (ValueError, TypeError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Errors that zipfile and numpy raise for damaged bytes (RuntimeError: encrypted; its subclass
NotImplementedError: an unknown compression)."""


def write(path: str | Path, arrays: dict[str, NDArray]) -> None:
    """Write arrays to an .npz file, which replaces an older one once it is complete.

    Raises:
        ValueError: an array of Python objects, or an array named "format".
        OSError: the folder is missing, not writable, or full; an older file is left as it was.
    """
    if "format" in arrays:
        raise ValueError("an array named 'format': the checkpoint keeps that name for itself")
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise ValueError(f"array {name!r} holds Python objects: expected numbers")
    with atomic_write(path) as file:
        np.savez(file, format=np.array(FORMAT), **arrays)  # type: ignore[arg-type]


def read(path: str | Path) -> dict[str, NDArray]:
    """Read the arrays that `write` wrote, by name.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, holds Python objects, or is no checkpoint of this format.
    """
    path = Path(path)
    try:
        # Opened here, because np.load leaves a damaged file open.
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
