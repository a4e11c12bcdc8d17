"""MATLAB files of numeric arrays, versions 4 to 7: a strict reader, and a writer by scipy.io.

scipy's reader believes what a file says: a damaged type code crashes the process, and a few bytes
may claim any amount of memory. A reader of numeric arrays alone is short (MathWorks, MAT-File
Format, chapter 1); a process with limits around scipy would be about as long, would copy every
array, and could tell a crash only by its signal.

A MATLAB file has no checksum, unless its arrays are compressed. So files that `write` wrote have
one in the text that they begin with, which other programs ignore.
"""

import math
import operator
import os
import struct
import zlib
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nn.data.formats.limits import LARGEST_BYTES, MOST_EXPANDED, check_shape
from nn.regular_file import open_regular

_MATRIX, _COMPRESSED = 14, 15
_NAME, _DIMENSIONS, _FLAGS = (1, 16), (5,), (6,)  # types of these parts: 16 is UTF-8
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8"}
_TYPES |= {12: "i8", 13: "u8"}
_CLASSES = dict(zip(range(6, 16), ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]))
_OTHER_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse"}
_COMPLEX = 0x0800
_TYPES_4 = dict(enumerate(["f8", "f4", "i4", "i2", "u2", "u1"]))
_OTHER_CLASSES_4 = {1: "char", 2: "sparse"}
_HDF5 = (b"\x00\x02IM", b"\x02\x00MI")
_TEXT = 116  # bytes of text at the beginning of a file
_OURS = b"MATLAB 5.0 MAT-file, by Lockstep, CRC-32 of what follows: "
_LONGEST = 1 << 10  # bytes of a name or of dimensions
_DENSEST = 1_032  # bytes that one byte of compressed data can stand for, at most
_PIECE = 1 << 20  # bytes read or expanded at once


def read(path: Path, wanted: Container[str]) -> dict[str, NDArray]:
    """Read the arrays whose names are wanted, by name, as they are stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or holds something else, or an array is too large.
        zlib.error: compressed data is damaged.
    """
    with open_regular(path) as file:
        start = file.read(128)
        if start.startswith((b"\x89HDF", b"MATLAB 7.3")) or start[124:] in _HDF5:
            raise ValueError("MATLAB 7.3 (HDF5) is not read; save with -v7 in MATLAB, or as .npz")
        if start[124:] in (b"\x00\x01IM", b"\x01\x00MI"):
            # Even if the text is damaged too, most of it is still ours.
            if sum(map(operator.eq, start, _OURS)) > 0.75 * len(_OURS):
                if start[:_TEXT] != _text(file):
                    raise ValueError("its checksum is not that of what was written")
                file.seek(len(start))
            found = _version_5(file, "<" if start[126:] == b"IM" else ">", wanted)
        elif 0 in start[:4]:  # where later versions have text
            file.seek(0)
            found = _version_4(file, wanted)
        else:
            raise ValueError("it begins like no MATLAB file of version 4 to 7")
        arrays: dict[str, NDArray] = {}
        for name, array in found:
            if name in arrays:
                raise ValueError(f"two arrays are named {name}")
            arrays[name] = array
        return arrays


def write(file: BinaryIO, arrays: Mapping[str, NDArray]) -> None:
    """Write arrays to a file, open for writing, that may be read too; vectors become columns.

    Raises:
        OSError: the disk is full.
    """
    from scipy import io as matlab

    matlab.savemat(file, dict(arrays), oned_as="column")
    file.flush()
    with os.fdopen(os.dup(file.fileno()), "rb") as written:
        written.seek(128)
        text = _text(written)
    file.seek(0)
    file.write(text)


def _text(file: IO[bytes]) -> bytes:
    """The text at the beginning of our files, with the checksum of what follows in the file."""
    checksum = 0
    while piece := file.read(_PIECE):
        checksum = zlib.crc32(piece, checksum)
    return (_OURS + f"{checksum:08x}".encode()).ljust(_TEXT)


def _left(file: BinaryIO) -> int:
    """Number of bytes that follow in the file."""
    return os.fstat(file.fileno()).st_size - file.tell()


def _version_4(file: BinaryIO, wanted: Container[str]) -> Iterator[tuple[str, NDArray]]:
    while start := file.read(20):
        if len(start) < 20:
            raise ValueError("cut off within the header of an array")
        # The first number says how the others are written: 0 or 1 thousand, the type, the class.
        order = ">" if struct.unpack(">i", start[:4])[0] // 1000 == 1 else "<"
        code, rows, columns, is_complex, length = struct.unpack(f"{order}5i", start)
        kind, other = code // 10 % 10, _OTHER_CLASSES_4.get(code % 10)
        if (
            code - 10 * kind - code % 10 != (1000 if order == ">" else 0)
            or kind not in _TYPES_4
            or (code % 10 and other is None)
            or is_complex not in (0, 1)
            or not 2 <= length <= _LONGEST
            or min(rows, columns) < 0
        ):
            raise ValueError("an array without a header of version 4")
        text = file.read(length)
        if len(text) < length or text[-1]:
            raise ValueError("an array without a name")
        name = text[:-1].decode("latin1")
        dtype = np.dtype(order + _TYPES_4[kind])
        size = rows * columns * dtype.itemsize * (1 + is_complex)
        if size > (left := _left(file)):
            raise ValueError(f"{name} has {size:,} bytes, and {left:,} follow: it is cut off")
        if name in wanted:
            _check_class(name, other, bool(is_complex))
            check_shape(name, (rows, columns))
            yield name, np.fromfile(file, dtype, rows * columns).reshape(columns, rows).T
        else:
            file.seek(size, os.SEEK_CUR)


def _version_5(file: BinaryIO, order: str, wanted: Container[str]) -> Iterator[tuple[str, NDArray]]:
    room = MOST_EXPANDED
    while start := file.read(8):
        if len(start) < 8:
            raise ValueError("cut off between two arrays")
        kind, length = struct.unpack(f"{order}2I", start)
        if kind not in (_MATRIX, _COMPRESSED):
            raise ValueError(f"an element of type {kind}; expected arrays alone")
        if length > (left := _left(file)):
            raise ValueError(f"cut off {length - left:,} bytes before the end of an array")
        end = file.tell() + length
        element = _Element(file, length, order, kind == _COMPRESSED)
        if found := _array(element, wanted, room if kind == _COMPRESSED else LARGEST_BYTES):
            room -= found[1].nbytes if kind == _COMPRESSED else 0
            yield found
        element.finish()
        file.seek(end)


class _Element:
    """The bytes of an array, read in order and expanded as they are read."""

    def __init__(self, file: BinaryIO, length: int, order: str, compressed: bool):
        self._file, self._packed_left, self.order = file, length, order
        self.left = length
        """Number of bytes that follow, expanded."""
        self._inflate = zlib.decompressobj() if compressed else None
        self._packed = b""
        if compressed:
            self.left = 8
            kind, self.left = struct.unpack(f"{order}2I", self.read(8))
            if kind != _MATRIX or self.left > _DENSEST * length:
                raise ValueError("compressed data that is no array")
            if self.left > MOST_EXPANDED + _LONGEST:
                raise ValueError(f"an array expands to more than {MOST_EXPANDED:,} bytes")

    def read(self, size: int) -> bytearray:
        """Read as many bytes, which must be there."""
        if size > self.left:
            raise ValueError("an array is cut off")
        self.left -= size
        found = bytearray()
        while len(found) < size:
            piece = self._next(min(_PIECE, size - len(found)))
            if not piece:
                raise ValueError("the data of an array is cut off")
            found += piece
        return found

    def _next(self, most: int) -> bytes:
        """The next bytes, at least one and at most as many; none at the end."""
        if self._inflate is None:
            return self._file.read(most)
        piece = b""
        while not piece and not self._inflate.eof and (self._packed or self._packed_left):
            if not self._packed:
                self._packed = self._file.read(min(_PIECE, self._packed_left))
                self._packed_left -= len(self._packed)
            piece = self._inflate.decompress(self._packed, most)
            self._packed = self._inflate.unconsumed_tail
        return piece

    def finish(self) -> None:
        """Check that the compressed data ends with the array, and its checksum."""
        if self._inflate is None:
            return
        while self.left:
            self.read(min(self.left, _PIECE))
        if self._next(1) or not self._inflate.eof or self._packed_left or self._inflate.unused_data:
            raise ValueError("the compressed data of an array does not end with the array")

    def tag(self) -> tuple[int, int, bytearray]:
        """Type of a part, its number of bytes, and up to four bytes of it within the tag itself."""
        start = self.read(8)
        kind, count = struct.unpack(f"{self.order}2I", start)
        if kind >> 16:
            return kind & 0xFFFF, kind >> 16, start[4:]
        return kind, count, bytearray()

    def part(self, kinds: tuple[int, ...]) -> bytearray:
        """Bytes of the next part, which must be of one of these types and short."""
        kind, count, within = self.tag()
        if kind not in kinds or count > (len(within) or _LONGEST):
            raise ValueError("an array without flags, dimensions or name in their places")
        return (within or self.read(count + -count % 8))[:count]


def _array(element: _Element, wanted: Container[str], room: int) -> tuple[str, NDArray] | None:
    """Read the name and the values of an array, if it is wanted, of at most `room` bytes.

    Raises:
        ValueError: it is wanted, but is no array of real numbers, or not complete.
    """
    order = element.order
    flags = element.part(_FLAGS)
    if len(flags) != 8:
        raise ValueError("an array without flags")
    kind = (word := struct.unpack_from(f"{order}I", flags)[0]) & 0xFF
    if kind not in _CLASSES and kind not in _OTHER_CLASSES:
        return None  # functions and the like have no name in this place
    sizes = element.part(_DIMENSIONS)
    if len(sizes) % 4 or len(sizes) < 8:
        raise ValueError("an array without dimensions")
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    name = element.part(_NAME).decode("latin1")
    if name not in wanted:
        return None
    _check_class(name, _OTHER_CLASSES.get(kind), bool(word & _COMPLEX))
    check_shape(name, shape)
    stored, count, within = element.tag()
    own = np.dtype(order + _CLASSES[kind])
    dtype = np.dtype(order + _TYPES.get(stored, "V1"))
    # What fits into a smaller type is stored in it; a type as large as the array's own is damage.
    if (
        (dtype != own and dtype.itemsize >= own.itemsize)
        or dtype.kind == "V"
        or count != math.prod(shape) * dtype.itemsize
        or (within and count > len(within))
    ):
        raise ValueError(
            f"{name} says that its shape is {shape}, and {count:,} bytes of type {stored} follow"
        )
    if count > room:
        raise ValueError(f"its compressed arrays have more than {MOST_EXPANDED:,} bytes")
    values = within[:count] if within else element.read(count)
    if element.left >= 8:
        raise ValueError(f"{name} goes on after its {count:,} bytes")
    return name, np.frombuffer(values, dtype).reshape(shape, order="F")


def _check_class(name: str, other: str | None, is_complex: bool) -> None:
    if other:
        raise ValueError(f"{name} is a MATLAB {other}; expected an array of numbers")
    if is_complex:
        raise ValueError(f"{name} is complex; expected real numbers")
