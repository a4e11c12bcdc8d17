"""Promises: ratios with a limit, and which of them the background load excuses."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.core.background_load import slowdown
from strategies.records import Record


@dataclass(frozen=True)
class Promise(Record, kind="promise"):
    """A ratio that was measured, and what it is promised to be.

    Attributes:
        what: the ratio in words.
        value: the ratio.
        limit: the largest value that keeps the promise; None if nothing is promised.
    """

    what: str
    value: float
    limit: float | None = None

    @property
    def kept(self) -> bool:
        return self.limit is None or self.value <= self.limit


def not_kept(
    promises: Sequence[Promise], background_load: float, workers: int
) -> tuple[list[str], list[str]]:
    """Say which promises are broken, and which only the background load kept from being kept.

    Args:
        promises: ratios of times; the background load explains no others.
        background_load: cores that other programs used while the ratios were measured.
        workers: cores that the measurement needed.

    Returns:
        A sentence for each broken promise, and one for each excused promise.
    """
    broken, excused = [], []
    for promise in promises:
        if promise.limit is None or promise.kept:
            continue
        said = f"{promise.what}: {promise.value:.3f}, promised is at most {promise.limit:.3f}"
        most = promise.limit * slowdown(background_load, workers)
        busy = f"{background_load:.1f} cores busy"
        if promise.value <= most:
            excused.append(f"{said}, but other programs kept {busy}: try again")
        elif most > promise.limit:
            broken.append(f"{said}, and no more than {most:.3f} while others keep {busy}")
        else:
            broken.append(said)
    return broken, excused
