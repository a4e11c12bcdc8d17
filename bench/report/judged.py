"""What the gate found out about a cell: a record for each verdict."""

from dataclasses import dataclass

from strategies.records import Record


@dataclass(frozen=True)
class Judged(Record, kind="verdict"):
    """A cell that was compared with an earlier state; None where a figure is unknown.

    Attributes:
        cell: id.
        before, after: names of what was compared.
        outcome: one of `bench.gate.statistics.Outcome`.
        reason: one sentence for the reader.
        speedup_before, speedup_after: geometric means over launches.
        ratio, low, high: speedup after / before, with its interval, which holds for all cells of
            the comparison together.
        sequential_ratio, parallel_ratio: *times* after / before, so above 1 is slower.
        launches: undisturbed ones before and after, and fresh ones.
        tolerance: a slowdown of the parallel arm that passes.
    """

    cell: str
    before: str
    after: str
    outcome: str
    reason: str
    speedup_before: float | None
    speedup_after: float | None
    ratio: float | None
    low: float | None
    high: float | None
    sequential_ratio: float | None
    parallel_ratio: float | None
    launches: list[int]
    tolerance: float
