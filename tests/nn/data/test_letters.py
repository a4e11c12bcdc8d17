"""Letters are read from the user's file; without it, a set of their shape is printed."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest

from nn.data import distortions, load
from nn.data.sets import letters
from tests.nn.data.samples import accuracy_of_class_means
from tests.support.optional import needs

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

WORDS = ["ommanding", "quick", "jumps", "vexingly", "ozy", "fable", "hwart"] * 3


def line(number: int, letter: str, fold: int, bits: str, end: str = "\t\n") -> str:
    columns = [number, letter, number + 1, 4, 2, fold, *bits]
    return "\t".join(map(str, columns)) + end


def picture(number: int) -> str:
    """A row of 128 bits: its number in binary, and the first pixel of the last line."""
    return f"{number:0120b}10000000"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Write a file in the published format: a tab ends each line. Word i is in fold i % 10."""
    text, number = "", 0
    for i, word in enumerate(WORDS):
        for letter in word:
            number += 1
            text += line(number, letter, i % 10, picture(number))
    (tmp_path / "letter.data").write_text(text)
    return tmp_path / "letter.data"


def test_letters_bits_and_folds(file: Path) -> None:
    dataset = load("letters", path=file, normalise=False)
    folds = np.repeat(np.arange(len(WORDS)) % 10, [len(word) for word in WORDS])
    text = np.array([*"".join(WORDS)])
    assert (dataset.name, dataset.classes, dataset.x.shape[1]) == ("letters", 26, 128)
    for x, y, chosen in (
        (dataset.x, dataset.y, folds != 0),
        (dataset.x_test, dataset.y_test, folds == 0),
    ):
        assert [chr(ord("a") + label) for label in y] == [*text[chosen]]
        numbers = np.flatnonzero(chosen) + 1
        assert ["".join(str(int(bit)) for bit in bits) for bits in x] == [
            picture(int(number)) for number in numbers
        ]
    assert dataset.x.reshape(-1, 16, 8)[:, 15, 0].all()  # row by row
    folder = load("letters", path=file.parent, normalise=False)
    np.testing.assert_array_equal(folder.x, dataset.x)


def test_a_file_of_one_fold_is_divided_as_other_sets_are(tmp_path: Path) -> None:
    text = "".join(line(i, "ab"[i % 2], 0, picture(i), end="\r\n") for i in range(70))
    (tmp_path / "mine").write_text(text)
    dataset = load("letters", path=tmp_path / "mine")
    assert (dataset.x.shape, dataset.x_test.shape) == ((60, 128), (10, 128))
    assert sorted(dataset.y_test) == [0] * 5 + [1] * 5


BITS = picture(5)
SOUND = line(5, "e", 3, BITS).encode()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (SOUND[:100], "line 3: 50 columns; expected a letter of Kassel's"),
        (line(5, "e", 3, BITS[1:]).encode(), "line 3: 133 columns"),
        (line(5, "e", 3, BITS + "0").encode(), "line 3: 135 columns"),
        (line(5, "e", 3, "2" + BITS[1:]).encode(), "line 3: pixels that are not 0 or 1"),
        (SOUND.replace(b"\t0\t0\t", b"\t\t00\t", 1), "line 3: pixels that are not"),
        (SOUND.replace(b"\t0\t0\t", b"\t00\t0\t", 1), "line 3: pixels that are not 0 or 1"),
        (line(5, "E", 3, BITS).encode(), "line 3: 'E' is not in list"),
        (line(5, "", 3, BITS).encode(), "line 3: '' is not in list"),
        (line(5, "ab", 3, BITS).encode(), "line 3: 'ab' is not in list"),
        (line(5, "é", 3, BITS).encode(), "line 3: 'ascii' codec"),
        (line(5, "e", 10, BITS).encode(), "line 3: '10' is not in list"),
        (b"\n", "line 3: 1 columns"),
        (gzip.compress(SOUND, mtime=0), "expected a letter of.*unpack letter.data.gz first"),
    ],
)
def test_damaged_files(tmp_path: Path, bad: bytes, message: str) -> None:
    path = tmp_path / "letter.data"
    path.write_bytes(2 * SOUND + bad)
    with pytest.raises(ValueError, match=message) as caught:
        load("letters", path=path)
    assert str(path) in str(caught.value)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"letter\.data: no such file; expected Kassel's"):
        load("letters", path=tmp_path)
    with pytest.raises(FileNotFoundError, match="mine: no such file"):
        load("letters", path=tmp_path / "mine")
    (tmp_path / "letter.data").touch()
    with pytest.raises(ValueError, match=r"letter\.data: no lines; expected Kassel's"):
        load("letters", path=tmp_path)


@needs("matplotlib", "PIL")
def test_the_printed_set() -> None:
    dataset = load("letters", size=2_000, normalise=False)
    assert repr(dataset) == (
        "<Dataset letters-printed: 2,000 training and 333 test rows, 128 features, 26 classes>"
    )
    assert set(np.unique(dataset.x)) == {0, 1}
    assert set(dataset.y) == set(dataset.y_test) == set(range(26))
    assert not np.array_equal(load("letters", size=2_000, seed=1, normalise=False).x, dataset.x)
    assert 0.6 < accuracy_of_class_means(dataset) < 0.95
    with pytest.raises(ValueError, match="size=70001: expected from 1,000 to 70,000 letters"):
        load("letters", size=70_001)


@needs("matplotlib", "PIL")
def test_each_face_and_letter_is_an_original_of_its_own_that_fills_the_page() -> None:
    ink = letters.originals()
    assert ink.shape == (21, 26, 32, 32)
    assert len({glyph.tobytes() for face in ink for glyph in face}) == 21 * 26
    for glyph in ink.reshape(-1, 32, 32):
        lines, columns = np.flatnonzero(glyph.any(axis=1)), np.flatnonzero(glyph.any(axis=0))
        assert 29 <= np.ptp(lines) + 1 <= 30
        assert np.ptp(columns) + 1 <= 17


@needs("matplotlib", "PIL")
def test_no_test_image_is_a_distortion_of_a_training_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distortions, "distort", lambda glyphs, rng: glyphs[:, 2:30, 2:30] * 255)
    for seed in range(3):
        train, test = letters.split(seed)
        assert (len(train), len(test)) == (18, 3)
        assert sorted([*train, *test]) == list(range(21))
        raw = letters.make(3_000, seed)
        assert raw.x_test is not None
        kept = [{image.tobytes() for image in x} for x in (raw.x, raw.x_test)]
        # Undistorted, images of one original are equal; in 16x8 bits a few faces look equal too.
        assert 400 < len(kept[0]) <= 18 * 26
        assert 70 < len(kept[1]) <= 3 * 26


def test_without_matplotlib_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match="install matplotlib, or give the path="):
        load("letters", size=1_000)
