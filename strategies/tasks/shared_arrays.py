"""Arrays that processes of one machine share: written to a file once, and mapped by each."""

import io
import itertools
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
from numpy.typing import NDArray

LARGE = 1 << 20
"""Bytes. A smaller array is sent with the message."""


class SharedArrays:
    """Makes messages for other processes, in which large arrays are the names of files.

    An array is written when it is first sent, and must not be changed after that. Who receives it
    has a view of the file that cannot be written to. Functions may be lambdas, and of `__main__`.
    """

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(
            prefix="lockstep-tasks-", ignore_cleanup_errors=True
        )
        self.folder = Path(self._temporary.name)
        self._files: dict[int, tuple[NDArray, str]] = {}
        self._numbers, self._lock = itertools.count(), threading.Lock()

    def message(self, value: Any) -> bytes:
        """Return the value as bytes, from which `Connection.recv` makes it again.

        Raises:
            Exception: it holds something that cannot be sent to another process.
        """
        if isinstance(value, PickledOnce):
            return value.pickled(self)
        buffer = io.BytesIO()
        _Pickler(buffer, self).dump(value)
        return buffer.getvalue()

    def file(self, array: NDArray) -> str:
        """Return the file that holds an array, which is made if there is none."""
        with self._lock:
            if id(array) not in self._files:
                path = self.folder / f"{next(self._numbers)}.npy"
                np.save(path, array, allow_pickle=False)
                self._files[id(array)] = array, str(path)  # kept, so that nothing else has its id
            return self._files[id(array)][1]

    def forget(self) -> None:
        """Write arrays anew from now on: they may have changed."""
        with self._lock:
            for _, path in self._files.values():
                Path(path).unlink(missing_ok=True)
            self._files.clear()

    def close(self) -> None:
        """Remove the files. Processes that have mapped them keep what they have."""
        self._temporary.cleanup()


class PickledOnce:
    """A value that is sent many times, and pickled for the first of them only.

    Who receives it has the value itself. It must not change between messages.
    """

    def __init__(self, value: Any):
        self._value, self._bytes, self._lock = value, b"", threading.Lock()

    def pickled(self, arrays: SharedArrays) -> bytes:
        """Return the value as bytes, in which large arrays are names of files."""
        with self._lock:
            self._bytes = self._bytes or arrays.message(self._value)
            return self._bytes


class _Pickler(cloudpickle.Pickler):
    def __init__(self, buffer: io.BytesIO, arrays: SharedArrays):
        super().__init__(buffer)
        self._arrays = arrays

    def reducer_override(self, value: Any) -> Any:
        if type(value) is np.ndarray and value.nbytes >= LARGE and not value.dtype.hasobject:
            return mapped, (self._arrays.file(value),)
        return super().reducer_override(value)


def mapped(path: str | os.PathLike[str]) -> NDArray:
    """Return a view of the array in a file, which is not read before it is used."""
    return np.asarray(np.load(path, mmap_mode="r"))  # not a memmap, whose slices take longer
