"""The IDX format of MNIST (Y. LeCun, C. Cortes, C. Burges), plain or gzip.

A file holds a magic number (two zero bytes, a type code, the number of dimensions n), n sizes as
big-endian 32-bit integers, and the values in C order.
"""

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from nn.data.formats.limits import LARGEST_VALUES
from nn.regular_file import open_regular

_UBYTE = 0x08
_CHUNK = 1 << 20
_KIND = {3: "images (number, height, width)", 1: "labels (number)"}


def read_images(path: Path) -> NDArray[np.uint8]:
    """Read the images of an IDX file, one per row: (n, height * width) uint8.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds something else; the message names the file.
    """
    images = _read(path, 3)
    return images.reshape(len(images), -1)


def read_labels(path: Path) -> NDArray[np.int64]:
    """Read the labels of an IDX file, (n,) int64.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds something else; the message names the file.
    """
    return _read(path, 1).astype(np.int64)


def _read(path: Path, dimensions: int) -> NDArray[np.uint8]:
    with open_regular(path) as file:
        # Recognised by content, not by name: browsers and tools unpack and rename silently.
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        try:
            return _parse(gzip.open(file) if zipped else file, path, dimensions)
        except EOFError:
            raise ValueError(f"{path}: the gzip stream is cut off; copy the file again") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip stream is corrupt ({error}); copy the file again"
            ) from None


def _parse(stream: IO[bytes] | io.BufferedIOBase, path: Path, dimensions: int) -> NDArray[np.uint8]:
    expected = bytes([0, 0, _UBYTE, dimensions])
    magic = stream.read(4)
    if magic != expected:
        raise ValueError(
            f"{path}: expected an IDX file of {_KIND[dimensions]} in unsigned bytes, magic number "
            f"{int.from_bytes(expected)}, got {_name(magic)}"
        )
    header = stream.read(4 * dimensions)
    if len(header) < 4 * dimensions:
        raise ValueError(f"{path}: cut off within the IDX header; copy the file again")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4"))
    count = math.prod(shape)
    if count == 0:
        raise ValueError(f"{path}: the IDX header says {shape}, no values; expected some")
    if count > LARGEST_VALUES:
        raise ValueError(
            f"{path}: the IDX header says {shape}, {count:,} values; "
            f"expected at most {LARGEST_VALUES:,}"
        )
    # One byte more than the header says is asked for, so that an overlong file shows. It is read
    # in pieces, so that a header that claims too much allocates no memory for it.
    values = bytearray()
    while piece := stream.read(min(_CHUNK, count + 1 - len(values))):
        values += piece
    if len(values) != count:
        found = f"only {len(values):,}" if len(values) < count else "more"
        raise ValueError(
            f"{path}: the IDX header says {shape}, {count:,} values, and the file holds {found}; "
            "copy the file again"
        )
    return np.frombuffer(values, np.uint8).reshape(shape)


def _name(magic: bytes) -> str:
    """A magic number for people."""
    if len(magic) == 4 and magic[:3] == bytes([0, 0, _UBYTE]) and magic[3] in _KIND:
        return f"{int.from_bytes(magic)}, which means {_KIND[magic[3]]}"
    return repr(magic) if len(magic) < 4 else str(int.from_bytes(magic))
