"""The fuzz harness sees each kind of failure, and repeats it."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.support import fuzz
from tests.support.fuzz import Target

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

SOUND = bytes(range(256)) * 4


def write(folder: Path) -> list[Path]:
    (folder / "a.bin").write_bytes(SOUND)
    return [folder / "a.bin"]


def strict(folder: Path) -> bytes:
    """A reader without a fault."""
    path = folder / "a.bin"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.read_bytes() != SOUND:
        raise ValueError(f"{path}: damaged")
    return SOUND


def otherwise(wrong):
    """A reader that does something wrong where the strict one raises."""

    def read(folder: Path) -> object:
        try:
            return strict(folder)
        except (ValueError, FileNotFoundError):
            return wrong(folder)

    return read


def unnamed(folder: Path) -> None:
    raise ValueError("damaged")


def foreign(folder: Path) -> None:
    raise KeyError(f"{folder}/a.bin")


TARGETS = {
    "strict": Target(write, strict),
    "unnamed": Target(write, otherwise(unnamed)),
    "foreign": Target(write, otherwise(foreign)),
    "other": Target(write, otherwise(lambda folder: b"other")),
    "crash": Target(write, otherwise(lambda folder: os.kill(os.getpid(), signal.SIGSEGV))),
    "exit": Target(write, otherwise(lambda folder: os._exit(3))),
    "memory": Target(write, otherwise(lambda folder: bytes(1 << 30))),
    "sleep": Target(write, otherwise(lambda folder: time.sleep(60))),
}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("unnamed", r"case 0: a\.bin: no name of the file: ValueError: damaged"),
        ("foreign", r"case 0: a\.bin: KeyError: "),
        ("other", r"case 0: a\.bin: silently other data: b'other'"),
        ("crash", "case 0: killed by SIGSEGV"),
        ("exit", "case 0: exit code 3"),
        ("memory", r"case 0: a\.bin: MemoryError"),
        ("sleep", "case 0: killed by SIGALRM"),
    ],
)
def test_each_failure_is_reported(
    target: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCKSTEP_FUZZ_SECONDS", "1")
    with pytest.raises(AssertionError, match=message):
        fuzz.check("tests.test_fuzz", target, 2 if target != "sleep" else 1)


def test_a_strict_reader_passes() -> None:
    fuzz.check("tests.test_fuzz", "strict", 200)


def test_damages_depend_on_seed_and_number_alone_and_nearly_all_change_the_file() -> None:
    def damaged(seed: int) -> list[bytes]:
        return [fuzz.damage(SOUND, np.random.default_rng((seed, case))) for case in range(200)]

    assert damaged(0) == damaged(0)
    assert damaged(0) != damaged(1)
    assert sum(contents != SOUND for contents in damaged(0)) > 180
