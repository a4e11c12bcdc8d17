"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: str | Path, mode: str = "wb", **options: Any) -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`, which replaces it once the block has ended well.

    The bytes are on the disk before the old file goes, so a crash leaves the old file or the new.
    If the block raises, the old file stays as it was. A symbolic link is followed. A device or a
    pipe, such as /dev/stdout, cannot be replaced and is written to as it is.

    Args:
        path: the file to write; an older one is replaced.
        mode: "wb" or "w".
        options: for `open`, such as `encoding=`.

    Raises:
        OSError: the folder is missing, not writable, or full.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with path.open(mode, **options) as file:
            yield file
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    try:
        # "x" makes a new file with the rights that the user's umask leaves.
        with temporary.open(mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
