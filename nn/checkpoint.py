"""Checkpoint files: named arrays on disk, written whole or not at all, read without pickle."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nn import npz_file
from nn.atomic_write import atomic_write

FORMAT = 2
"""Format 1 had no list of its arrays, so nobody could tell whether some were missing."""


def write(path: str | Path, arrays: dict[str, NDArray]) -> None:
    """Write arrays to an .npz file, which replaces an older one once it is complete.

    Raises:
        ValueError: an array that holds no numbers, or is named "format".
        OSError: `path` is a device, a pipe or a folder; the folder is missing, not writable, or
            full. An older file is left as it was.
    """
    if "format" in arrays:
        raise ValueError("an array named 'format': the checkpoint keeps that name for itself")
    for name, array in arrays.items():
        if (dtype := np.asarray(array).dtype).kind not in "biufc":
            raise ValueError(f"array {name!r} holds {dtype}: expected numbers")
    with atomic_write(path) as file:
        npz_file.write(file, {"format": np.array(FORMAT), **arrays})


def read(path: str | Path) -> dict[str, NDArray]:
    """Read the arrays that `write` wrote, by name.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it may not be read.
        ValueError: it is damaged, lacks an array, or is no checkpoint of this format.
        MemoryError: there is no memory for its arrays.
    """
    try:
        found = npz_file.read(path, {"format"}).get("format")
        if found is None or found.shape or found != FORMAT:
            raise ValueError(f"this one is of format {found}, and format {FORMAT} can be read")
        arrays = npz_file.read(path, listed=True)
    except ValueError as error:
        why = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: expected a checkpoint written by Lockstep; {why}") from None
    del arrays["format"]
    return arrays
