"""Arrays in numpy's `.npy` format, read strictly: a header is matched, and never evaluated.

`numpy.lib.format` evaluates a header as Python. On damaged bytes it raises nearly anything, and it
takes the memory that a header claims. Here, all that is claimed is checked before memory is taken.
"""

import io
import math
import re
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY"
_LENGTHS = {(1, 0): 2, (2, 0): 4}  # bytes of the header's length, by version
_LONGEST = 1 << 12  # bytes of a header; numpy writes 118 for an array of numbers
_SIZE = r"-?\d{1,19} L?"  # Python 2 wrote an L behind long ones
_HEADER = re.compile(
    rf"""\{{ \s* 'descr'         \s* : \s* '([<>|=]?) ([a-zA-Z]) (\d{{0,9}})'   \s* ,
            \s* 'fortran_order' \s* : \s* (True|False)                        \s* ,
            \s* 'shape'         \s* : \s* \( ((?:{_SIZE} (?:,\ ?{_SIZE})* ,?)?) \) ,? \ ?
         \}} \s*""",
    re.VERBOSE | re.ASCII,
)
_PIECE = 1 << 20  # bytes read at once


class Header(NamedTuple):
    """What the header of an array says.

    Attributes:
        shape: its shape; no size is negative.
        dtype: its dtype, of numbers or truth values.
        fortran: whether its values are in Fortran order.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    @property
    def bytes(self) -> int:
        """Number of bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def header_bytes(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Make the header, magic number and all, that numpy writes for an array in C order."""
    made = io.BytesIO()
    about = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(made, about)
    return made.getvalue()


def read_header(stream: IO[bytes], name: str, kinds: str = "biufc") -> Header:
    """Read the header at the beginning of a stream, which then stands before the first value.

    Args:
        stream: the bytes of a `.npy` file.
        name: name of the array, for messages.
        kinds: kinds of dtypes that are taken, as `numpy.dtype.kind` has them.

    Raises:
        ValueError: the header is damaged, too long, or describes anything but an array of numbers
            of these kinds (such as Python objects).
    """
    start = stream.read(len(_MAGIC) + 2)
    if len(start) < len(_MAGIC) + 2 or not start.startswith(_MAGIC):
        raise ValueError(f"{name} does not begin like a .npy file")
    version = (start[-2], start[-1])
    if version not in _LENGTHS:
        raise ValueError(f"{name} is of .npy version {version}; expected (1, 0) or (2, 0)")
    length = int.from_bytes(stream.read(_LENGTHS[version]), "little")
    if length > _LONGEST:
        raise ValueError(f"{name} has a header of {length:,} bytes; expected at most {_LONGEST:,}")
    text = stream.read(length)
    found = _HEADER.fullmatch(text.decode("latin1"))
    if len(text) < length or not found:
        raise ValueError(f"{name} has a header of no array of numbers: {text[:80]!r}")
    order, kind, itemsize, fortran, sizes = found.groups()
    if kind == "O":
        raise ValueError(f"{name} holds Python objects, which are never read")
    descr = f"{order}{kind}{itemsize}"
    try:
        dtype = np.dtype(descr) if kind in "biufc" else None
    except (TypeError, ValueError):  # such as "<f3"
        dtype = None
    if dtype is None or dtype.kind not in kinds:
        what = "real numbers" if kinds == "biuf" else "numbers"
        raise ValueError(f"{name} holds {dtype or descr}; expected {what}")
    shape = tuple(int(size) for size in re.findall(r"-?\d+", sizes))
    if min(shape, default=1) < 0:
        raise ValueError(f"{name} says that its shape is {shape}; expected sizes from 0")
    return Header(shape, dtype, fortran == "True")


def read_values(stream: IO[bytes], header: Header, name: str) -> NDArray:
    """Read the values that follow a header, to the end of the stream.

    Returns:
        An array with the header's shape and dtype, in memory of its own.

    Raises:
        ValueError: fewer bytes follow than the header says, or more.
        MemoryError: the array does not fit into memory. Check its size first.
    """
    values = np.empty(header.bytes, np.uint8)
    at = 0
    while at < values.size:
        piece = stream.read(min(_PIECE, values.size - at))
        if not piece:
            raise ValueError(f"{name} is cut off after {at:,} of {values.size:,} bytes")
        values[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
        at += len(piece)
    if stream.read(1):
        raise ValueError(f"{name} goes on after its {values.size:,} bytes")
    array = values.view(header.dtype)
    return array.reshape(header.shape, order="F" if header.fortran else "C")
