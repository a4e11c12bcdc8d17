"""Damage files at random, and see what their readers make of them.

A reader of damaged files either raises an error of a kind that it promises, with the file's name
in the message, or returns what an undamaged file holds. Anything else is a failure: other errors,
other data, a crash, memory or time without bound.

A `Target` is a reader and the files that it reads. `check` damages them in a process of its own,
with limits of memory and time, so that a crash is seen and MPI stays out of it. A case depends on
(seed, number) alone: run `python -m tests.support.fuzz MODULE TARGET FOLDER SEED FIRST LAST` with
the numbers that a failure names to repeat it.

LOCKSTEP_FUZZ_CASES and LOCKSTEP_FUZZ_SEED set how many cases a session tries, and which;
LOCKSTEP_FUZZ_SECONDS sets how long a case may take.
"""

import importlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

CASES = int(os.environ.get("LOCKSTEP_FUZZ_CASES", "2000"))
"""Number of damaged files that a session tries for each group of targets, all targets together."""

SEED = int(os.environ.get("LOCKSTEP_FUZZ_SEED", "0"))

_ROOT = Path(__file__).parents[2]
_MEMORY = 256 << 20  # bytes that a reader may take beside what the process has
_SECONDS = float(os.environ.get("LOCKSTEP_FUZZ_SECONDS", "60"))  # that a case may take
_ENOUGH = 5  # failures after which nothing more is tried
_EDGE = 300  # bytes at both ends of a file, where headers and directories stand
_ODD = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]


def damage(sound: bytes, rng: Generator) -> bytes:
    """Return the bytes with a damage of a random kind in a random place, often near an end."""
    damaged = bytearray(sound)
    size = len(sound)

    def place() -> int:
        edge = min(_EDGE, size)
        where = rng.random()
        if where < 0.35:
            return int(rng.integers(edge))
        return int(size - edge + rng.integers(edge) if where < 0.6 else rng.integers(size))

    at, length = place(), int(2 ** rng.uniform(0, 8))
    match rng.integers(11):
        case 0 | 1 | 2:  # the commonest, as it is the likeliest to go unseen
            damaged[at] ^= 1 << int(rng.integers(8))
        case 3:
            for _ in range(int(rng.integers(2, 9))):
                damaged[place()] ^= 1 << int(rng.integers(8))
        case 4:  # a number of 1, 2, 4 or 8 bytes, in one of both orders
            order = "little" if rng.random() < 0.7 else "big"
            width = 2 ** int(rng.integers(4))
            number = _ODD[rng.integers(len(_ODD))] % (1 << 8 * width)
            damaged[at : at + width] = number.to_bytes(width, order)
        case 5:
            damaged[at : at + length] = rng.bytes(min(length, size - at))
        case 6:
            damaged[at : at + length] = bytes([rng.choice([0, 255])]) * min(length, size - at)
        case 7:
            del damaged[at:]
        case 8:
            del damaged[at : at + length]
        case 9:
            other = place()
            damaged[at:at] = sound[other : other + length]
        case 10:
            damaged += rng.bytes(length)
    return bytes(damaged)


def equal(found: Any, sound: Any, folder: Path) -> bool:
    """Whether two values are the same, with arrays compared by dtype, shape and value."""
    if isinstance(sound, np.ndarray):
        return found.dtype == sound.dtype and np.array_equal(found, sound)
    if isinstance(sound, dict):
        return found.keys() == sound.keys() and all(
            equal(found[key], value, folder) for key, value in sound.items()
        )
    return bool(found == sound)


@dataclass(frozen=True)
class Target:
    """A reader of files, to be tried on damaged ones.

    Attributes:
        write: writes sound files into an empty folder; returns those to damage.
        read: reads the files in the folder.
        errors: kinds of errors that `read` may raise, with the damaged file's name in the message.
        same: (what was read of a damaged file, what is read of sound ones, folder) -> whether the
            first is right. By default they are equal. For formats without checksums, compare with
            an independent reading of what the folder now holds.
        damage: (bytes of a sound file, random numbers) -> bytes of a damaged one. By default bytes
            are damaged, wherever they stand.
    """

    write: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...] = (ValueError, FileNotFoundError)
    same: Callable[[Any, Any, Path], bool] = equal
    damage: Callable[[bytes, Generator], bytes] = damage


def check(module: str, target: str, cases: int, seed: int = SEED) -> None:
    """Try damaged files in processes of their own.

    Args:
        module: name of a module with a dict `TARGETS` of targets. It must not import mpi4py.
        target: name of the target in it.
        cases: number of damaged files.
        seed: seed of the damages.

    Raises:
        AssertionError: a reader failed; the message says how, case by case.
    """
    found: list[str] = []
    first = 0
    while first < cases and len(found) < _ENOUGH:
        with tempfile.TemporaryDirectory() as folder:
            arguments = [module, target, folder, *map(str, (seed, first, cases))]
            run = subprocess.run(
                [sys.executable, "-m", "tests.support.fuzz", *arguments],
                cwd=_ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
        case = first
        for line in run.stdout.splitlines():
            kind, _, rest = line.partition(" ")
            if kind == "case":
                case = int(rest)
            elif kind == "failed":
                found.append(f"seed {seed}, case {case}: {rest}")
        first = case + 1
        if run.returncode == 0:
            continue
        what = f"exit code {run.returncode}"
        if run.returncode < 0:
            what = f"killed by {signal.Signals(-run.returncode).name}"
        found.append(f"seed {seed}, case {case}: {what}: {run.stderr[-1500:]}")
    assert not found, "\n".join(found)


def replace(file: Path, rng: Generator) -> None:
    """Put something in the file's place that is no file, or nothing."""
    file.unlink()
    match rng.integers(4):
        case 1:
            os.mkfifo(file)
        case 2:
            file.mkdir()
        case 3:
            file.symlink_to(file)  # a loop


def remove(file: Path) -> None:
    if file.is_dir() and not file.is_symlink():
        shutil.rmtree(file)
    else:
        file.unlink(missing_ok=True)


def complaint(target: Target, file: Path, sound: Any, folder: Path) -> str:
    """Read damaged files; return what is wrong with the outcome, or nothing."""
    try:
        found = target.read(folder)
    except target.errors as error:
        if file.name in str(error):
            return ""
        return f"no name of the file: {type(error).__name__}: {error}"
    except BaseException as error:
        where = "".join(traceback.format_tb(error.__traceback__)[-2:])
        return f"{type(error).__name__}: {error} {where}"
    return "" if target.same(found, sound, folder) else f"silently other data: {found!r}"


def limit() -> None:
    """Limit the memory of this process to some more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main(module: str, name: str, folder: Path, seed: int, first: int, last: int) -> None:
    target: Target = importlib.import_module(module).TARGETS[name]
    contents = {file: file.read_bytes() for file in target.write(folder)}
    files = sorted(contents)
    sound = target.read(folder)
    limit()
    left = _ENOUGH
    for case in range(first, last):
        rng = np.random.default_rng((seed, case))
        file = files[rng.integers(len(files))]
        if rng.random() < 0.02:
            replace(file, rng)
        else:
            file.write_bytes(target.damage(contents[file], rng))
        print("case", case, flush=True)
        # Nothing handles this signal, so it ends the process even while it is in C.
        signal.setitimer(signal.ITIMER_REAL, _SECONDS)
        with warnings.catch_warnings(action="ignore"):
            wrong = complaint(target, file, sound, folder)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if wrong:
            print("failed", f"{file.name}: {wrong}".replace("\n", " | ")[:2000], flush=True)
            left -= 1
            if not left:
                break
        remove(file)
        file.write_bytes(contents[file])


if __name__ == "__main__":
    module, target, folder, *numbers = sys.argv[1:]
    main(module, target, Path(folder), *map(int, numbers))
