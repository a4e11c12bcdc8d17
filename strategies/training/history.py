"""What a training leaves: every step that was taken, and what evaluations found."""

import math
from dataclasses import dataclass, field

from strategies.records import Record


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        step: batches trained on before it, counted from the beginning of the first epoch.
        seconds: training time before it, as in `History.seconds`.
        took: seconds that it took itself, which are not training time.
        values: what `evaluate` returned.
    """

    step: int
    seconds: float
    took: float
    values: dict[str, float]


@dataclass(frozen=True)
class History(Record, kind="training"):
    """A training, step by step, as rank 0 saw it.

    Every list has an entry for each step; `evaluations` has one for each evaluation.

    Attributes:
        dataset: name of the data set; of its class if it has no `name`.
        rows: training rows of the data set, None if it has no `x`.
        start: batches of the first epoch that were left out.
        strategy, workers: class and number of ranks of the strategy. If a training was resumed
            with another one, these are the last.
        name: a label to tell several histories apart; `train` leaves it empty.
        loss: what `Strategy.step` returned on rank 0: the mean over the global batch before the
            update. The ranks of LocalSGD and Hogwild know only the loss of their own rows, so
            with these it is the mean over the rows of rank 0.
        seconds: training time from the beginning to the end of the step, on the clock of rank 0.
            The clock stands while weights are evaluated or a checkpoint is written. At each such
            stop all ranks wait for the slowest, and the wait counts.
        samples: rows trained on by all ranks from the beginning to the end of the step.
        learning_rate: the rate of the step; nan if the optimizer has no `lr`.
        grad_norm: what `Strategy.grad_norm` returns at the last step before each stop; nan at all
            other steps, and for strategies whose ranks step on gradients of their own.
    """

    dataset: str
    rows: int | None
    batch_size: int
    epochs: int
    seed: int
    start: int
    strategy: str
    workers: int
    name: str = ""
    loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Steps taken."""
        return len(self.loss)

    @property
    def samples_per_second(self) -> float:
        """Rows that all ranks together trained on in a second; nan before the first step."""
        return self.samples[-1] / self.seconds[-1] if self.steps else math.nan

    def curve(self, value: str) -> tuple[list[float], list[float]]:
        """Training seconds and one of the values at each evaluation, to draw a line through.

        Raises:
            KeyError: `evaluate` returned nothing of that name.
        """
        seconds = [each.seconds for each in self.evaluations]
        return seconds, [each.values[value] for each in self.evaluations]
