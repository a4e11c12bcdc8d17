"""The order in which the jobs of a search end: it is recorded, and a record can be replayed."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from strategies.records import Record, RunFile, read
from strategies.tasks.halving import Job


@dataclass(frozen=True)
class Ended(Record, kind="ended"):
    """A job of a search that has ended."""

    trial: int
    rung: int


class Order:
    """Says which job counts as the next to end.

    While a record lasts, that is the one that the record names, even if others have ended before
    it; then it is the one that ended first.

    Args:
        replay: the record, as (trial, rung).
        journal: of the search; the order is kept beside it, in JOURNAL.order, and taken from there
            if `replay` is empty.

    Attributes:
        ended: the jobs so far.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(
        self, replay: Sequence[tuple[int, int]] = (), journal: str | PathLike[str] | None = None
    ):
        self.ended: list[Job] = []
        self._file, kept = None, []
        if journal is not None:
            path = Path(f"{journal}.order")
            self._file = RunFile(path, {})
            kept = _jobs(read(path).records) if path.exists() else []
        self._kept = len(kept)
        self._record = [Job(*each) for each in replay] or kept

    def next(self, ended: Collection[Job], running: Collection[Job]) -> Job | None:
        """Return the job that counts as the next to end, or None if it has not ended yet.

        Args:
            ended: jobs that have ended and do not count yet, in the order in which they ended.
            running: jobs that have begun and do not count as ended.

        Raises:
            ValueError: the record names a job that has not begun.
        """
        place = len(self.ended)
        if place < len(self._record):
            job = self._record[place]
            if job not in running:
                raise ValueError(
                    f"the record says that trial {job.trial} ended rung {job.rung} here, which it "
                    "has not begun: expected the order of a search with the same arguments"
                )
            if job not in ended:
                return None
        elif not ended:
            return None
        else:
            job = next(iter(ended))
        if self._file and place >= self._kept:
            self._file.append(Ended(job.trial, job.rung))
        self.ended.append(job)
        return job


def _jobs(records: Iterable[Record]) -> list[Job]:
    return [Job(each.trial, each.rung) for each in records if isinstance(each, Ended)]
