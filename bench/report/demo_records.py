"""What a race of the demo leaves in its run file."""

from dataclasses import dataclass, field

from strategies.records import Record


@dataclass(frozen=True)
class Slice(Record, kind="slice"):
    """A turn of a lane of the demo: where its training stood at its end.

    Attributes:
        race: number of the race in its run, from 1.
        lane: number of the lane in its race, from 1.
        step: steps taken.
        epoch: epochs begun.
        seconds: training time, the lane's own turns only.
        samples: rows trained on.
        loss: mean over the steps of the turn; None if it is not finite.
        accuracy: share of the test pictures looked at that are read right; None without a look.
        cores: that the lane's processes used in the turn; waiting by spinning counts as use.
    """

    race: int
    lane: int
    step: int
    epoch: int
    seconds: float
    samples: int
    loss: float | None
    accuracy: float | None
    cores: float


@dataclass(frozen=True)
class LaneResult:
    """What came of a lane.

    Attributes:
        state: "finished", "failed" or "stopped".
        reason: why it failed.
        seconds: training time.
        accuracy: over all test pictures; None if the lane has not finished.
        target_seconds: training time until the target was reached; None if it never was.
        confusion: test pictures of each class (row) that were read as each class (column).
    """

    net: str
    strategy: str
    workers: int
    batch_size: int
    learning_rate: float
    state: str
    reason: str
    seconds: float
    samples_per_second: float | None
    accuracy: float | None
    target_seconds: float | None
    confusion: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class Difference:
    """How far the weights of two lanes are apart after the same steps.

    Attributes:
        lanes: their numbers, from 1.
        largest: absolute difference of two weights; None if they cannot be compared.
        why: why they cannot be compared, or may differ; empty if they should be equal to rounding.
    """

    lanes: tuple[int, int]
    largest: float | None
    why: str


@dataclass(frozen=True)
class DemoRace(Record, kind="demo"):
    """A race of the demo, when it is over.

    Attributes:
        race: its number in its run, from 1.
        together: whether all lanes trained at the same time, so that their clocks say little.
        dtype: of the numbers.
        rows: training rows; test_rows: test pictures of each look.
        lessons: pictures that were added to the data.
    """

    race: int
    data: str
    epochs: int
    target: float
    together: bool
    dtype: str
    rows: int
    test_rows: int
    lessons: int
    lanes: list[LaneResult]
    differences: list[Difference]
