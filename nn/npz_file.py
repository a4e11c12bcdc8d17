"""Named arrays in numpy's `.npz` files, written with a list of what is inside and read strictly.

`zipfile` believes a damaged directory: one flipped bit hides members, or gives them other names.
So a file is read only if its members, and nothing else, fill it from its beginning to the
directory, each under one name in both places. Files that `write` wrote also hold a digest of the
list of their members, in the comment of the zip archive, which other programs ignore.
"""

import hashlib
import os
import struct
import zipfile
from collections.abc import Callable, Container, Iterable, Mapping
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nn.npy_file import Header, read_header, read_values
from nn.regular_file import open_regular

_LIST = b"Lockstep, "  # the beginning of the comment with the list
# In each, all but what is looked at is skipped:
_LOCAL = struct.Struct("<4s2xHH16xHH")  # mark, flags, method; lengths of the name and what follows
_END = struct.Struct("<4s16xH")  # mark, length of the comment
_STREAMED, _ENCRYPTED, _UTF8 = 0x0008, 0x0001, 0x0800  # flags
_DESCRIPTORS = (12, 16, 20, 24)  # possible lengths of what follows a streamed member
_DENSEST = 1_032  # bytes that one byte of a deflated stream can stand for, at most


def write(file: IO[bytes], arrays: Mapping[str, NDArray]) -> None:
    """Write arrays, uncompressed, by name, and the list of them.

    Args:
        file: open for writing. For a file that appears whole or not at all, see `atomic_write`.
        arrays: arrays of numbers or truth values.

    Raises:
        ValueError: an array holds Python objects.
        OSError: the disk is full.
    """
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
        archive.comment = _list(archive.infolist())


def read(
    path: str | Path,
    wanted: Container[str] | None = None,
    *,
    kinds: str = "biufc",
    check: Callable[[str, Header], None] = lambda name, header: None,
    most_expanded: int = 0,
    listed: bool = False,
) -> dict[str, NDArray]:
    """Read arrays of numbers, by name.

    All that the file claims is checked before memory is taken for values, and every array against
    its checksum. An uncompressed array takes no more memory than it has bytes in the file.

    Args:
        path: a regular file.
        wanted: names of the arrays to read, if they are there; by default all, and then a member
            that is no array is an error.
        kinds: kinds of dtypes that are taken, as `numpy.dtype.kind` has them.
        check: called with the member's name and header of each array before its values are read;
            raises ValueError to refuse it.
        most_expanded: most bytes that compressed arrays may expand to, all together; by default no
            compressed array is read.
        listed: whether the file must have the list that `write` writes. If it has one, it is
            checked in any case.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it may not be read.
        ValueError: it is damaged, is no regular file, or holds something else, such as Python
            objects, which are never unpickled. The message names the file.
        MemoryError: the arrays do not fit into memory. The message names the file.
    """
    with open_regular(path) as file:
        try:
            return _read(file, wanted, kinds, check, most_expanded, listed)
        except MemoryError:
            raise MemoryError(f"{path}: not enough memory to read its arrays") from None
        except Exception as error:  # zipfile and zlib raise nearly anything on damaged bytes
            raise ValueError(
                f"{path}: {error}; expected a sound .npz file with arrays of numbers"
            ) from None


def _read(
    file: BinaryIO,
    wanted: Container[str] | None,
    kinds: str,
    check: Callable[[str, Header], None],
    most_expanded: int,
    listed: bool,
) -> dict[str, NDArray]:
    with zipfile.ZipFile(file) as archive:
        _check_directory(file, archive)
        if (listed or archive.comment.startswith(_LIST)) and archive.comment != _list(
            archive.infolist()
        ):
            raise ValueError("its members are not those that were listed when it was written")
        chosen, total = {}, 0
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if wanted is None or name in wanted:
                if name in chosen:
                    raise ValueError(f"two members are named {name}")
                if wanted is None and name == member.filename:
                    raise ValueError(f"{name} is no array")
                chosen[name] = member
                total += _expanded_bytes(member)
        if total > most_expanded:
            raise ValueError(
                f"compressed arrays of {total:,} bytes; expected at most {most_expanded:,}"
            )
        arrays = {}
        for name, member in chosen.items():
            with archive.open(member) as stream:
                header = read_header(stream, member.filename, kinds)
                check(member.filename, header)
                if header.bytes != (held := member.file_size - stream.tell()):
                    raise ValueError(
                        f"{member.filename} says {header.shape} {header.dtype}, "
                        f"{header.bytes:,} bytes, and {held:,} follow"
                    )
                arrays[name] = read_values(stream, header, member.filename)
        return arrays


def _expanded_bytes(member: zipfile.ZipInfo) -> int:
    """Bytes that a member expands to if it is compressed, else 0.

    Raises:
        ValueError: its bytes in the file cannot expand to what is claimed.
    """
    packed, size = member.compress_size, member.file_size
    if member.compress_type == zipfile.ZIP_STORED and packed == size:
        return 0
    if member.compress_type == zipfile.ZIP_DEFLATED and size <= _DENSEST * packed:
        return size
    raise ValueError(
        f"{member.filename} is said to expand from {packed:,} to {size:,} bytes by method "
        f"{member.compress_type}; expected a member that is stored or deflated"
    )


def _check_directory(file: BinaryIO, archive: zipfile.ZipFile) -> None:
    """Check that the members of the directory fill the file, each under one name.

    Raises:
        ValueError: they do not.
    """
    members = archive.infolist()
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _END.size - len(archive.comment)))
    mark, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\5\6" or comment != len(archive.comment):
        raise ValueError("its directory does not end with the file")
    if len({member.filename for member in members}) != len(members):
        raise ValueError("two members have one name")
    ends = {0}
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset not in ends:
            raise ValueError(f"bytes before {member.filename} belong to no member")
        file.seek(member.header_offset)
        mark, flags, method, name_length, extra_length = _LOCAL.unpack(file.read(_LOCAL.size))
        name = file.read(name_length).decode("utf-8" if flags & _UTF8 else "cp437")
        about = (mark, flags, method, name)
        if about != (b"PK\3\4", member.flag_bits, member.compress_type, member.orig_filename):
            raise ValueError(f"{member.filename} is {name} in another place of the file")
        if flags & _ENCRYPTED:
            raise ValueError(f"{member.filename} is encrypted")
        end = file.tell() + extra_length + member.compress_size
        ends = {end + more for more in _DESCRIPTORS} if flags & _STREAMED else {end}
    if archive.start_dir not in ends:
        raise ValueError("bytes before the directory belong to no member")


def _list(members: Iterable[zipfile.ZipInfo]) -> bytes:
    """The list of members as a comment: how many, and a digest of names, lengths and checksums."""
    lines = [f"{member.filename} {member.file_size} {member.CRC:08x}\n" for member in members]
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return _LIST + f"{len(lines)} arrays, sha256 of names, lengths, CRCs: {digest}".encode()
