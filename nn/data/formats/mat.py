"""Reader of numeric arrays in MATLAB files, versions 4 to 7, by scipy.io.

scipy believes what a version 5 to 7 file says: a damaged type code crashes the process, and a
small compressed array may expand without bound. So this module checks the elements of such a file
first (MathWorks, MAT-File Format, chapter 1), and gives scipy only the sound numeric arrays.
"""

import io
import math
import struct
import zlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO

from numpy.typing import NDArray

from nn.data.formats.limits import LARGEST_VALUES, check_shape

_MATRIX, _COMPRESSED = 14, 15
_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
"""Bytes per number of each data type. Names have type 1, dimensions type 5, flags type 6."""
_OTHER_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}
_NUMERIC_CLASSES = range(6, 16)
_COMPLEX = 0x0800
_HEAD = 1 << 16  # bytes; all that stands before the numbers of an array fits in them
_PIECE = 1 << 20  # bytes expanded at once


def read(path: Path, wanted: Container[str]) -> dict[str, NDArray]:
    """Read the arrays whose names are wanted, by name.

    Raises:
        Exception: the file is damaged or holds something else; scipy raises nearly any kind.
    """
    from scipy import io as matlab

    with path.open("rb") as file:
        start = file.read(128)
        if start[:4] == b"\x89HDF" or start.startswith(b"MATLAB 7.3"):
            raise ValueError("MATLAB 7.3 (HDF5) is not read; save with -v7 in MATLAB, or as .npz")
        if start[124:] in (b"\x00\x01IM", b"\x01\x00MI"):
            order = "<" if start[126:] == b"IM" else ">"
            sound = b"".join(_elements(file, order, wanted))
            found = matlab.loadmat(io.BytesIO(start + sound)) if sound else {}
            return {name: array for name, array in found.items() if name in wanted}
        names = []
        for name, shape, kind in matlab.whosmat(file):  # version 4 has no compression
            if name in wanted:
                if kind in _OTHER_CLASSES.values():
                    raise ValueError(f"{name} is a MATLAB {kind}; expected an array of numbers")
                check_shape(name, shape)
                names.append(name)
        return {name: matlab.loadmat(file, variable_names=[name])[name] for name in names}


def _elements(file: IO[bytes], order: str, wanted: Container[str]) -> Iterator[bytes]:
    """Yield the elements that hold wanted arrays, checked, as they stand in the file."""
    while tag := file.read(8):
        kind, length = struct.unpack(f"{order}2I", tag)
        if kind not in (_MATRIX, _COMPRESSED):
            raise ValueError(f"an element of type {kind}; expected arrays alone")
        content = file.read(length)
        if len(content) < length:
            raise ValueError(f"cut off {length - len(content):,} bytes before the end of an array")
        head, size = content[:_HEAD], length
        if kind == _COMPRESSED:
            head, size = _expand(content)
            if struct.unpack_from(f"{order}2I", head) != (_MATRIX, size - 8):
                raise ValueError(f"a compressed element of {size:,} bytes holds no array of them")
            head, size = head[8:], size - 8
        if _sound(head, size, order, wanted):
            yield tag + content


def _expand(content: bytes) -> tuple[bytes, int]:
    """Expand compressed data; return its first bytes and its length, and keep no more of it."""
    inflate, head, size = zlib.decompressobj(), b"", 0
    while not inflate.eof:
        piece = inflate.decompress(content, _PIECE)
        content = inflate.unconsumed_tail
        if not piece and not content:
            raise ValueError("the compressed data of an array is cut off")
        head, size = head or piece[:_HEAD], size + len(piece)
        if size > 8 * LARGEST_VALUES + _HEAD:
            raise ValueError(f"an array expands to more than {size:,} bytes")
    return head, size


def _sound(head: bytes, size: int, order: str, wanted: Container[str]) -> bool:
    """Whether an array of `size` bytes that begin with `head` is wanted.

    Raises:
        ValueError: it is wanted, but is no array of real numbers, or not complete.
    """

    def tag(at: int) -> tuple[int, int, int, int]:
        """Type, number of bytes, where they begin, and where the next element begins."""
        try:
            kind, count = struct.unpack_from(f"{order}2I", head, at)
        except struct.error:
            raise ValueError("an array is cut off within its header") from None
        if kind >> 16:  # up to four bytes of data stand within the tag's eight
            return kind & 0xFFFF, kind >> 16, at + 4, at + 8
        return kind, count, at + 8, at + 8 + count + -count % 8

    kind, count, at, after = tag(0)
    if (kind, count) != (6, 8):
        raise ValueError("an array without flags")
    flags = struct.unpack_from(f"{order}I", head, at)[0]
    if flags & 0xFF not in (*_OTHER_CLASSES, *_NUMERIC_CLASSES):
        return False  # functions and objects have no name in this place
    kind, count, at, after = tag(after)
    if kind != 5 or count % 4 or at + count > len(head):
        raise ValueError("an array without dimensions")
    shape = struct.unpack_from(f"{order}{count // 4}i", head, at)
    kind, count, at, after = tag(after)
    name = head[at : at + count].decode("latin1")
    if kind != 1 or name not in wanted:
        return False
    if other := _OTHER_CLASSES.get(flags & 0xFF):
        raise ValueError(f"{name} is a MATLAB {other}; expected an array of numbers")
    if flags & _COMPLEX:
        raise ValueError(f"{name} is complex; expected real numbers")
    check_shape(name, shape)
    kind, count, at, after = tag(after)
    if count != math.prod(shape) * _BYTES.get(kind, 0) or at + count > size:
        raise ValueError(f"{name} says that its shape is {shape}, and {size - at:,} bytes follow")
    return True
