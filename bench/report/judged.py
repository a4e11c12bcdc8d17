"""What the gate found out about a cell: records of verdicts and of histories."""

from dataclasses import dataclass, field

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
        speedups: of each of the launches, in the same three groups; [] in records from before
            these were kept.
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
    speedups: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True)
class Tracked(Record, kind="history"):
    """A cell in all baselines of this machine that measured it, in order of time.

    Attributes:
        cell: id.
        outcome, reason: as of a verdict.
        baselines: their names, as "0001_main".
        saved: their dates, as ISO 8601 has them.
        commits: "" where it is not known.
        speedups: geometric means over the undisturbed launches of each baseline.
        fitted: speedups fitted with the changes that were found; [] if the cell was not searched.
        steps: the places, from 0, of baselines that are the first after a step.
        tolerance: a slowdown of the parallel arm that passes.
    """

    cell: str
    outcome: str
    reason: str
    baselines: list[str]
    saved: list[str]
    commits: list[str]
    speedups: list[float]
    fitted: list[float]
    steps: list[int]
    tolerance: float
