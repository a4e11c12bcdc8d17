"""Files opened for reading, of which only regular ones are taken."""

import os
import stat
from io import BufferedReader
from pathlib import Path


def open_regular(path: str | Path) -> BufferedReader:
    """Open a file to read its bytes. A pipe, which may block for ever, is refused at once.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it may not be read.
        ValueError: it is a pipe, a device, a socket or a folder.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError(f"{path}: expected a regular file, not a pipe, a device or a folder")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
