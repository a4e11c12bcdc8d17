"""What a benchmark leaves behind: lines on disk, times for pytest-benchmark, rows of a table."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Transfer:
    """Time to bring together what every worker holds, `bytes` each; seconds, the slowest rank's."""

    verb: str
    workers: int
    bytes: int
    seconds: float
    oversubscribed: bool

    @property
    def bandwidth(self) -> float:
        """Bytes per second of each rank's data that are dealt with."""
        return self.bytes / self.seconds


@dataclass(frozen=True)
class Ratio:
    """A promise: `value` is to be at most `limit`, or nothing was promised (None)."""

    what: str
    value: float
    limit: float | None = None

    @property
    def kept(self) -> bool:
        return self.limit is None or self.value <= self.limit


@dataclass(frozen=True)
class Training:
    """One way to train a net, to compare with a base.

    Attributes:
        batches: how they were read.
        seconds: of an epoch.
        over_base: seconds of an epoch over those of the base.
        accuracy: share of the test rows that the net has right in the end.
    """

    net: str
    device: str
    batches: str
    seconds: float
    over_base: float
    accuracy: float


def append(path: Path, record: dict[str, Any]) -> None:
    """Add a JSON line to a file, and return when it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


class Replay:
    """A clock for pytest-benchmark that shows times taken before.

    Its `pedantic` reads the clock exactly twice a round. What it is to run must not be measured by
    it: the ranks would each measure their own.
    """

    def __init__(self) -> None:
        self._readings: list[float] = []

    def load(self, seconds: Sequence[float]) -> None:
        """The rounds to show, in order."""
        # From 0, since a difference of two other numbers would be rounded.
        self._readings = [reading for time in reversed(seconds) for reading in (time, 0.0)]

    def __call__(self) -> float:
        return self._readings.pop()


replay = Replay()
