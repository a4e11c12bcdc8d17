"""MATLAB files are read as scipy reads them, strictly; ours have a checksum."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from nn.data import load
from nn.data.formats import mat
from tests.nn.data.fuzzed import SMALL, saved

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

FROM_MATLAB = sorted(Path(scipy.io.matlab.__file__).with_name("tests").glob("data/*.mat"))
"""Files written by MATLAB 4 to 8 on several machines, which scipy brings for its own tests."""

DTYPES = ["f8", "f4", "i4", "i2", "u2", "u1"]


class All:
    """A container of all names."""

    def __contains__(self, name: object) -> bool:
        return True


def by_scipy(path: Path) -> dict[str, np.ndarray]:
    return {k: v for k, v in scipy.io.loadmat(path).items() if not k.startswith("__")}


def assert_as_scipy(path: Path) -> None:
    found, expected = mat.read(path, All()), by_scipy(path)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.filterwarnings("ignore")  # what scipy says of its own files
def test_files_that_matlab_wrote() -> None:
    """Cells, structs and the like are refused in a sentence, and nothing else happens."""
    read = 0
    for path in FROM_MATLAB:
        try:
            same_names = mat.read(path, All()).keys() == by_scipy(path).keys()
        except (ValueError, zlib.error):
            continue
        if same_names:  # scipy also finds functions
            assert_as_scipy(path)
            read += 1
    assert read >= 20


@pytest.mark.parametrize(
    "options",
    [{"format": "4"}, {}, {"do_compression": True}],
    ids=["version 4", "version 5", "compressed"],
)
def test_arrays_of_all_dtypes_and_shapes(tmp_path: Path, options: dict) -> None:
    rng = np.random.default_rng(0)
    dtypes = DTYPES if "format" in options else [*DTYPES, "i1", "u4", "i8", "u8"]
    arrays = {f"a_{n}": rng.integers(0, 100, (5, 3)).astype(n) for n in dtypes}
    arrays |= {"one": np.array([[7]], np.uint8), "row": np.ones((1, 3)), "column": np.ones((3, 1))}
    if "format" not in options:
        arrays["deep"] = rng.random((4, 3, 2))
    scipy.io.savemat(tmp_path / "a.mat", arrays, **options)
    assert_as_scipy(tmp_path / "a.mat")
    assert mat.read(tmp_path / "a.mat", {"one"}).keys() == {"one"}


def test_large_compressed_arrays(tmp_path: Path) -> None:
    """Larger than what is expanded at once."""
    x = np.random.default_rng(0).integers(0, 9, (600, 500)).astype(float)
    scipy.io.savemat(tmp_path / "a.mat", {"x": x, "y": x[0]}, do_compression=True)
    assert_as_scipy(tmp_path / "a.mat")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that the project wrote."""
    saved(tmp_path / "a.mat")
    return tmp_path / "a.mat"


@pytest.mark.parametrize("places", [(200,), (-1,), (60,), (25, 30, 40, 62, 200)])
def test_the_checksum_covers_numbers(file: Path, places: tuple[int, ...]) -> None:
    contents = bytearray(file.read_bytes())
    for at in places:
        contents[at] ^= 1
    file.write_bytes(contents)
    with pytest.raises(ValueError, match=r"a\.mat: its checksum is not that of what was written"):
        load("file", path=file)


def arrays_of(contents: bytes | bytearray) -> list[bytearray]:
    """The elements of an uncompressed file."""
    found, at = [], 128
    while at < len(contents):
        length = 8 + struct.unpack_from("<I", contents, at + 4)[0]
        found.append(bytearray(contents[at : at + length]))
        at += length
    return found


def test_the_checksum_covers_whole_arrays(file: Path) -> None:
    """A file that ends after two arrays is sound, but not the file that was written."""
    contents = file.read_bytes()
    first = b"".join(arrays_of(contents)[:2])
    file.write_bytes(contents[:128] + first)
    with pytest.raises(ValueError, match="its checksum is not"):
        load("file", path=file)
    file.write_bytes(b"MATLAB".ljust(124) + contents[124:128] + first)
    assert len(load("file", path=file).x_test) == 3  # of a program that writes no checksum


def foreign(**options: Any) -> bytearray:
    file = io.BytesIO()
    scipy.io.savemat(file, SMALL | {"x": np.asarray(SMALL["x"], float)}, **options)
    return bytearray(file.getvalue())


@pytest.mark.parametrize("kind", [0, 4, 7, 12, 13, 14, 255])
def test_a_type_that_does_not_fit_the_array_is_damage(tmp_path: Path, kind: int) -> None:
    contents = foreign()
    at = contents.find(struct.pack("<2I", 9, 20 * 4 * 8))
    contents[at] = kind
    (tmp_path / "a.mat").write_bytes(contents)
    with pytest.raises(ValueError, match=rf"a\.mat: x says .* 640 bytes of type {kind} follow"):
        load("file", path=tmp_path / "a.mat")


@pytest.mark.parametrize(
    ("length", "message"),
    [
        (0xFFFF_FFFF, "cut off 4,294,9.* bytes before the end of an array"),
        (100_000, "cut off 9.* bytes before the end of an array"),
        (500, "an array is cut off"),
        (8, "an array is cut off"),
        ("two", "x goes on after its 640 bytes"),
    ],
)
def test_a_length_that_is_not_that_of_the_array(
    tmp_path: Path, length: int | str, message: str
) -> None:
    contents = foreign()
    if length == "two":
        length = sum(map(len, arrays_of(contents)[:2])) - 8
    contents[132:136] = struct.pack("<I", length)
    (tmp_path / "a.mat").write_bytes(contents)
    with pytest.raises(ValueError, match=rf"a\.mat: {message}"):
        load("file", path=tmp_path / "a.mat")


@pytest.mark.parametrize("damage", ["checksum", "cut", "more"])
def test_compressed_data_ends_with_the_array(tmp_path: Path, damage: str) -> None:
    contents = foreign(do_compression=True)
    packed = arrays_of(contents)[0][8:]
    if damage == "checksum":
        packed[-1] ^= 1
    elif damage == "cut":
        del packed[-4:]
    else:
        packed += b"1234"
    element = struct.pack("<2I", 15, len(packed)) + packed
    (tmp_path / "a.mat").write_bytes(contents[:128] + element)
    with pytest.raises(ValueError, match=r"a\.mat: .*(does not end with|incorrect data check)"):
        load("file", path=tmp_path / "a.mat")


@pytest.mark.parametrize(
    ("rows", "columns", "length", "message"),
    [
        (1 << 28, 8, 2, "x has 17,179,869,184 bytes, and 64 follow: it is cut off"),
        (3, 3, 1 << 30, "an array without a header of version 4"),
        (-1, 3, 2, "an array without a header of version 4"),
        (-11, 1, 2, "an array without a header of version 4"),  # back to the beginning
    ],
)
def test_version_4_claims_no_more_than_the_file_has(
    tmp_path: Path, rows: int, columns: int, length: int, message: str
) -> None:
    contents = struct.pack("<5i", 0, rows, columns, 0, length) + b"x\0" + bytes(64)
    (tmp_path / "a.mat").write_bytes(contents)
    with pytest.raises(ValueError, match=message):
        mat.read(tmp_path / "a.mat", {"y"})


@pytest.mark.parametrize("most", [600, 700])
def test_all_compressed_arrays_together_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    read = []

    def convert(values: bytes, dtype: np.dtype) -> np.ndarray:
        read.append(len(values))
        return np.ndarray(len(values) // dtype.itemsize, dtype, values)

    monkeypatch.setattr(mat, "MOST_EXPANDED", most)
    monkeypatch.setattr(np, "frombuffer", convert)
    (tmp_path / "a.mat").write_bytes(foreign())
    assert len(mat.read(tmp_path / "a.mat", All())) == 4
    read.clear()
    (tmp_path / "a.mat").write_bytes(foreign(do_compression=True))
    with pytest.raises(ValueError, match=f"its compressed arrays have more than {most} bytes"):
        mat.read(tmp_path / "a.mat", All())
    assert read == ([640] if most > 640 else [])  # x alone has 640


def test_two_arrays_of_one_name(tmp_path: Path) -> None:
    contents = foreign()
    (tmp_path / "a.mat").write_bytes(contents + arrays_of(contents)[0])
    with pytest.raises(ValueError, match=r"a\.mat: two arrays are named x"):
        load("file", path=tmp_path / "a.mat")
