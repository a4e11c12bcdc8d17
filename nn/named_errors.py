"""Errors of the operating system that say which file they are about."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in an OSError of the block that names no file, as one of a full disk.

    Raises:
        OSError: the same error, with the name.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or str(path) in str(error):
            raise
        if error.errno is None:  # numpy's, of a write that was cut short
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error
