"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`, which replaces it once the block has ended well.

    The bytes are on the disk before the old file goes, so a crash leaves the old file or the new.
    If the block raises, the old file stays as it was.

    Args:
        path: the file to write; an older one is replaced.
        mode: "wb" or "w".
        options: for `os.fdopen`, such as `encoding=`.

    Raises:
        OSError: the folder is missing, not writable, or full.
    """
    path = Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
