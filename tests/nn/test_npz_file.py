"""Arrays in .npz files are read as they were written, or not at all."""

import io
import os
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nn import npy_file, npz_file

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

ARRAYS: dict[str, NDArray] = {
    "params": np.arange(7.0),
    "y": np.arange(6).reshape(2, 3),
    "x_test": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(3, 2)),
    "steps": np.array(3),
    "mask": np.array([True, False]),
    "none": np.zeros((0, 4)),
    "swapped": np.arange(5, dtype=">i2"),
    "complex": np.array([1j]),
}


def written(arrays: dict[str, NDArray] = ARRAYS) -> bytes:
    file = io.BytesIO()
    npz_file.write(file, arrays)
    return file.getvalue()


def by_numpy(arrays: dict[str, NDArray] = ARRAYS, compressed: bool = False) -> bytes:
    file = io.BytesIO()
    save = np.savez_compressed if compressed else np.savez
    save(file, **arrays)  # type: ignore[arg-type]  # their stubs take no mapping
    return file.getvalue()


def same(found: dict[str, NDArray], expected: dict[str, NDArray] = ARRAYS) -> bool:
    return found.keys() == expected.keys() and all(
        found[name].dtype == array.dtype and np.array_equal(found[name], array)
        for name, array in expected.items()
    )


def streamed() -> bytes:
    """A file as a program writes it that cannot seek: lengths follow the members."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *args: int) -> int:
            raise OSError("a pipe")

        tell = seek

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in ARRAYS.items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.save(stream, array)
    return pipe.getvalue()


@pytest.mark.parametrize(
    "contents",
    [written(), by_numpy(), by_numpy(compressed=True), streamed()],
    ids=["ours", "numpy's", "compressed", "streamed"],
)
def test_arrays_come_back_and_numpy_agrees(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(contents)
    found = npz_file.read(path, most_expanded=1 << 20)
    assert same(found)
    assert all(array.flags.writeable for array in found.values())
    with np.load(path) as archive:
        assert same(dict(archive))
    assert npz_file.read(path, {"y", "other"}, most_expanded=1 << 20).keys() == {"y"}


@pytest.mark.parametrize("listed", [True, False])
def test_no_flipped_bit_changes_or_hides_an_array(tmp_path: Path, listed: bool) -> None:
    few = {name: ARRAYS[name] for name in ("params", "steps")}
    sound, path = (written if listed else by_numpy)(few), tmp_path / "a.npz"
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of names that occur twice
        for place in range(len(sound)):
            damaged = bytearray(sound)
            damaged[place] ^= 1 << place % 8
            path.write_bytes(damaged)
            try:
                found = npz_file.read(path, listed=listed)
            except ValueError as error:
                assert str(path) in str(error), error  # noqa: PT017
                refused += 1
            else:
                assert same(found, few), place
    # What is left are dates, versions and attributes, which say nothing about the arrays.
    assert refused > 0.75 * len(sound)


def test_a_member_that_nobody_wants_still_has_its_name(tmp_path: Path) -> None:
    """A flipped bit in a name would otherwise hide the test rows of a set."""
    path, sound = tmp_path / "a.npz", by_numpy()
    first, second = (sound.find(b"x_test"), sound.rfind(b"x_test"))
    assert first < second
    for place in (first, second):
        damaged = bytearray(sound)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"x_test.*in another place of the file"):
            npz_file.read(path, {"y"})


def without(sound: bytes, name: str) -> bytes:
    """The file, rewritten without a member."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sound)) as old, zipfile.ZipFile(file, "w") as new:
        for member in old.infolist():
            if member.filename != name:
                new.writestr(member, old.read(member))
        new.comment = old.comment
    return file.getvalue()


@pytest.mark.parametrize("hidden", range(3))
def test_a_member_that_the_directory_does_not_name_is_noticed(tmp_path: Path, hidden: int) -> None:
    sound = by_numpy({"x": np.ones(3), "x_test": np.ones(2), "y": np.ones(3)})
    entries = sound[sound.find(b"PK\1\2") : sound.find(b"PK\5\6")].split(b"PK\1\2")[1:]
    del entries[hidden]
    directory = b"".join(b"PK\1\2" + entry for entry in entries)
    start = sound.find(b"PK\1\2")
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, len(directory), start, 0)
    path = tmp_path / "a.npz"
    path.write_bytes(sound[:start] + directory + end)
    with pytest.raises(ValueError, match=r"a\.npz: bytes before .* belong to no member"):
        npz_file.read(path)


def test_what_is_inside_is_what_was_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(without(written(), "x_test.npy"))
    with pytest.raises(ValueError, match=r"a\.npz: its members are not those that were listed"):
        npz_file.read(path)
    path.write_bytes(by_numpy())
    assert same(npz_file.read(path))
    with pytest.raises(ValueError, match=r"a\.npz: its members are not those that were listed"):
        npz_file.read(path, listed=True)


def zipped(header: bytes, values: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x.npy", header + values)
    return file.getvalue()


def header(text: bytes, version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    form = "<H" if version[0] == 1 else "<I"
    return b"\x93NUMPY" + version + struct.pack(form, length or len(text)) + text


def about(shape: str, descr: str = "'<f8'", order: str = "False") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "File is not a zip file"),
        (zipped(b""), "does not begin like a .npy file"),
        (zipped(header(about("(500000000000,)")), bytes(8000)), "4,000,000,000,000 bytes, and 8,0"),
        (zipped(header(about("(2, 500000000000000000)")), bytes(8)), "and 8 follow"),
        (zipped(header(b"-" * 3000 + b"1")), "a header of no array of numbers: b'---"),
        (zipped(header(b"-" * 9000 + b"1")), "a header of 9,001 bytes; expected at most 4,096"),
        (zipped(header(b"(" * 3000)), "a header of no array"),
        (zipped(header(b"{'a': ", length=3000)), "a header of no array"),
        (zipped(header(about("(1,)"), b"\x02\x00", 1 << 31)), "a header of 2,147,483,648 bytes"),
        (zipped(header(about("(1,)"), b"\x03\x00")), r"version \(3, 0\); expected"),
        (zipped(header(about("(1)")), bytes(4)), "x.npy says"),
        (zipped(header(about("(-1,)"))), r"shape is \(-1,\); expected sizes from 0"),
        (zipped(header(about("(1, 2", "'<f8'"))), "a header of no array"),
        (zipped(header(about("(1,)", "'|O'")), bytes(8)), "holds Python objects, which are never"),
        (zipped(header(about("(1,)", "'<f3'")), bytes(3)), "holds <f3; expected numbers"),
        (zipped(header(about("(1,)", "'<U2'")), bytes(8)), "holds <U2; expected numbers"),
        (zipped(header(about("(1,)", "[('a', '<f8')]")), bytes(8)), "a header of no array"),
        (
            zipped(header(about("(2,)")), bytes(16), zipfile.ZIP_DEFLATED),
            "compressed arrays of .*at most 0",
        ),
        (zipped(header(about("(2,)")), bytes(16), zipfile.ZIP_LZMA), "by method 14; expected a"),
        (by_numpy({"x": np.array([None])}), "holds Python objects, which are never read"),
        (written() + b"\0", "its directory does not end with the file"),
        (b"\0" + by_numpy(), "belong to no member"),
    ],
)
def test_bad_files(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as caught:
        npz_file.read(path)
    assert str(path) in str(caught.value)


def test_names_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    for names, message in (
        (["x.npy", "x"], "two members are named x"),
        (["x.npy", "x.npy"], "two members have one name"),
        (["x.npy", "note.txt"], "note.txt is no array"),
    ):
        with (
            warnings.catch_warnings(action="ignore"),
            zipfile.ZipFile(path, "w") as archive,
        ):
            for name in names:
                archive.writestr(name, header(about("(1,)")) + bytes(8))
        with pytest.raises(ValueError, match=message):
            npz_file.read(path)


@pytest.mark.parametrize("bomb", ["header", "values", "directory"])
def test_a_bomb_takes_no_memory(tmp_path: Path, bomb: str) -> None:
    path, large = tmp_path / "a.npz", 1 << 25
    start = {
        "header": header(b" " * large, b"\x02\x00"),
        "values": header(about(f"({large // 8},)")) + bytes(large),
        "directory": header(about("(1000000000,)")) + bytes(1000),
    }[bomb]
    contents = bytearray(zipped(start, method=zipfile.ZIP_DEFLATED))
    if bomb == "directory":
        place = contents.find(b"PK\1\2") + 24
        contents[place : place + 4] = struct.pack("<I", 8_000_000_000 % (1 << 32))
    path.write_bytes(contents)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a\.npz: "):
            npz_file.read(path, most_expanded=1 << 24 if bomb == "values" else 1 << 40)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


def test_a_damaged_checksum_of_values_is_noticed(tmp_path: Path) -> None:
    path, contents = tmp_path / "a.npz", bytearray(by_numpy({"x": np.ones(5000)}))
    contents[20_000] ^= 1
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=r"a\.npz: Bad CRC-32 for file 'x\.npy'"):
        npz_file.read(path)


def test_pipes_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match=f"{path}: expected a regular file, not a pipe"):
            npz_file.read(path)
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        npz_file.read(tmp_path / "none.npz")


def test_objects_are_not_written() -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        npz_file.write(io.BytesIO(), {"x": np.array([None])})


def test_the_header_is_the_one_that_numpy_writes() -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 4), np.float32))
    made = npy_file.header_bytes((3, 4), np.dtype("<f4"))
    assert file.getvalue().startswith(made)
    assert npy_file.read_header(io.BytesIO(made), "x") == ((3, 4), np.dtype("<f4"), False)
