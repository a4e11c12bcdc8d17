"""At how many workers communication takes as long as compute: measured so far, and by formula."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from strategies.records import Record

MOST = 10**6
"""Workers beyond which nobody looks."""


def ring(workers: int, sent: float, latency: float, bandwidth: float) -> float:
    """Seconds of an Allreduce in a ring: 2 (n - 1) messages, each of an n-th of the bytes.

    Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms" (2009), section 3.

    Args:
        sent: bytes of the buffer.
        latency: seconds of a message without bytes.
        bandwidth: bytes per second of a rank.
    """
    return 2 * (workers - 1) * (latency + sent / workers / bandwidth)


@dataclass(frozen=True)
class Crossover(Record, kind="crossover"):
    """Where communication overtakes compute, for data parallelism with one Allreduce in a step.

    Attributes:
        law: "strong": the rows are divided among the workers; "weak": each has as many.
        net, batch_size: what was trained; the rows are those of plain training.
        sent: bytes that each worker gives to the Allreduce (`strategies.costs`).
        compute: seconds of a step of plain training.
        communication: workers -> measured seconds of the Allreduce, for as many as have a core.
        latency: seconds of a message without bytes, of the largest number of workers measured.
        bandwidth: bytes per second of these.
    """

    law: str
    net: str
    batch_size: int
    sent: int
    compute: float
    communication: dict[str, float]
    latency: float
    bandwidth: float

    @classmethod
    def of(
        cls,
        law: str,
        net: str,
        batch_size: int,
        sent: int,
        compute: float,
        whole: Mapping[int, float],
        empty: Mapping[int, float],
    ) -> Self:
        """Solve `ring` for latency and bandwidth.

        Args:
            whole, empty: workers -> seconds of an Allreduce of `sent` bytes, and of one number.
        """
        n = max(whole)
        latency = empty[n] / (2 * (n - 1))
        beyond = max(whole[n] - empty[n], 1e-3 * whole[n])  # noise may leave nothing
        bandwidth = 2 * (n - 1) / n * sent / beyond
        found = {f"{workers}": seconds for workers, seconds in whole.items()}
        return cls(law, net, batch_size, sent, compute, found, latency, bandwidth)

    def compute_of(self, workers: int) -> float:
        """Seconds that each of so many workers computes, if nothing is lost."""
        return self.compute / workers if self.law == "strong" else self.compute

    @property
    def measured(self) -> int | None:
        """The fewest measured workers whose Allreduce takes as long as their compute, if any."""
        slow = [
            int(workers)
            for workers, seconds in self.communication.items()
            if seconds >= self.compute_of(int(workers))
        ]
        return min(slow, default=None)

    @property
    def by_formula(self) -> int | None:
        """The fewest workers of whom `ring` says so; None up to MOST."""

        def overtaken(workers: int) -> bool:
            seconds = ring(workers, self.sent, self.latency, self.bandwidth)
            return seconds >= self.compute_of(workers)

        if not overtaken(MOST):
            return None
        low, high = 1, MOST  # one worker sends nothing; the ratio only grows with the workers
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if overtaken(middle) else (middle, high)
        return high
