"""The order in which the jobs of a search end, which can be replayed."""

from collections.abc import Collection, Sequence

from strategies.tasks.halving import Job


class Order:
    """Says which job counts as the next to end.

    While a record lasts, that is the one that the record names, even if others have ended before
    it; then it is the one that ended first.

    Args:
        record: of an earlier search, as (trial, rung).

    Attributes:
        ended: the jobs so far.
    """

    def __init__(self, record: Sequence[tuple[int, int]] = ()):
        self.ended: list[Job] = []
        self._record = [Job(*each) for each in record]

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
                    f"replay: trial {job.trial} ended rung {job.rung} here, which it has not "
                    "begun: expected the order of a search with the same arguments"
                )
            if job not in ended:
                return None
        elif not ended:
            return None
        else:
            job = next(iter(ended))
        self.ended.append(job)
        return job
