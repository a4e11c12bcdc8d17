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
    If the block raises, the old file stays as it was. The new file has the permissions that any
    newly created file has.

    Args:
        path: the file to write; an older one is replaced.
        mode: "wb" or "w".
        options: arguments of `open`, such as `encoding=`.

    Raises:
        OSError: the folder is missing, not writable, or full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open(mode.replace("w", "x"), **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
