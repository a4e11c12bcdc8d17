"""Promises: ratios with a limit, and which of them the background load excuses."""

from dataclasses import dataclass

from bench.core.background_load import disturbed, slowdown
from bench.core.machine_state import State, background_load, remark
from strategies.records import Record


@dataclass(frozen=True)
class Promise(Record, kind="promise"):
    """A ratio that was measured, and what it is promised to be.

    Attributes:
        what: the ratio in words.
        value: the ratio.
        limit: the largest value that keeps the promise; None if nothing is promised.
        explained: the largest value that the load of other programs explains; 0 without a load.
        meanwhile: what the machine was like, as a sentence; empty if there is nothing to say.
    """

    what: str
    value: float
    limit: float | None = None
    explained: float = 0.0
    meanwhile: str = ""

    @property
    def kept(self) -> bool:
        return self.limit is None or self.value <= self.limit

    @property
    def excused(self) -> bool:
        """Whether it is not kept, and other programs explain that."""
        return not self.kept and self.value <= self.explained

    @property
    def verdict(self) -> str:
        """What is to be said of a promise that is not kept."""
        said = f"{self.what}: {self.value:.3f}, promised is at most {self.limit:.3f}"
        if self.meanwhile:
            said += f"; meanwhile {self.meanwhile}"
        if self.excused:
            return f"{said}, which explains it: try again"
        return f"{said}, which explains at most {self.explained:.3f}" if self.explained else said


def made(what: str, value: float, limit: float | None, workers: int, state: State) -> Promise:
    """Make a promise of what was measured.

    Args:
        workers: cores that the measurement needed.
        state: of the machine meanwhile, as far as it was looked at.
    """
    load, explained = background_load(state), 0.0
    if limit is not None and disturbed(load, workers):
        explained = limit * slowdown(load, workers)
    return Promise(what, float(value), limit, explained, remark(state))
