"""Reader of numeric arrays in numpy's `.npz` files, which trusts neither pickles nor headers."""

import math
import zipfile
from collections.abc import Container
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from nn.data.formats.limits import check_shape


def read(path: Path, wanted: Container[str]) -> dict[str, NDArray]:
    """Read the arrays whose names are wanted, by name.

    Raises:
        Exception: the file is damaged or holds something else; zipfile raises several kinds.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in wanted:
                with archive.open(member) as stream:
                    arrays[name] = _read(stream, member)
    return arrays


def _read(stream: IO[bytes], member: zipfile.ZipInfo) -> NDArray:
    """Read one array, once its header agrees with the length of the member."""
    form = np.lib.format
    read_header = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    version = form.read_magic(stream)
    if version not in read_header:
        raise ValueError(f"{member.filename} is of .npy version {version}; expected 1 or 2")
    shape, fortran, dtype = read_header[version](stream)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds Python objects, which are never read")
    if dtype.kind not in "biuf":
        raise ValueError(f"{member.filename} holds {dtype}; expected real numbers")
    check_shape(member.filename, shape)
    promised, held = math.prod(shape) * dtype.itemsize, member.file_size - stream.tell()
    if promised != held:
        raise ValueError(
            f"{member.filename} says {shape} {dtype}, {promised:,} bytes, and {held:,} follow"
        )
    values = np.frombuffer(stream.read(promised), dtype)
    return values.reshape(shape, order="F" if fortran else "C")
