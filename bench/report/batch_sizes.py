"""Records of the study of batch sizes: one batch size, and what the curve of all of them says."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.core.machine_state import State
from strategies.records import Record


@dataclass(frozen=True)
class Interval:
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float

    def overlaps(self, other: "Interval") -> bool:
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True)
class Tried:
    """A configuration that was tried for a batch size.

    Attributes:
        lr, momentum: of SGD.
        steps: that it needed to the target; infinity if it did not arrive.
        allowed: steps after which it was broken off: the budget, or what a better one needed.
    """

    lr: float
    momentum: float
    steps: float
    allowed: int


@dataclass(frozen=True)
class BatchSize(Record, kind="batch-size"):
    """How long a batch size takes to a target accuracy, at a learning rate and momentum of its own.

    Attributes:
        target: share of the rows that is to be right: of validation rows in tuning, of test rows
            after it.
        budget: steps that a training may take at most.
        tried: what was tried in tuning, with seed 0.
        best: number of the one that needed the fewest steps there; None if none arrived.
        at_edge: whether that lies at the edge of what may be chosen, so that a better one may lie
            outside.
        steps: of trainings with seeds 1, 2, ..., which tuning has not seen; infinity for one that
            did not arrive.
        noise: the noise scale of each of these trainings (`bench.core.noise_scale`), in rows; empty
            on a single rank.
        noise_late: the same over the second half of the steps.
        rounds: number of workers -> seconds of a step in each round of one race, in which all batch
            sizes took turns.
        machine: what the machine was like in each round, see `bench.core.machine_state`.
    """

    net: str
    dataset: str
    target: float
    batch_size: int
    budget: int
    tried: list[Tried]
    best: int | None
    at_edge: bool
    steps: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    noise_late: list[float] = field(default_factory=list)
    rounds: dict[str, list[float]] = field(default_factory=dict)
    machine: State = field(default_factory=dict)

    @property
    def arrived(self) -> int:
        """Trainings of the seeds that tuning has not seen that reached the target."""
        return sum(math.isfinite(steps) for steps in self.steps)

    @property
    def median(self) -> float:
        """Steps of the median training; infinity if half of them or more never arrived."""
        ordered = sorted(self.steps)
        if not ordered:
            return math.inf
        return float(np.mean([ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]]))

    def to_target(self, workers: str) -> float:
        """Seconds to the target: of the median training, with the median time of a step."""
        return self.median * float(np.median(self.rounds[workers]))


def fastest(sizes: Sequence[BatchSize]) -> str:
    """Say which batch size and number of workers are the first at the target, in sentences.

    Args:
        sizes: of one study; their times come from one race.
    """
    arrived = [each for each in sizes if math.isfinite(each.median)]
    if not arrived or not all(each.rounds for each in arrived):
        return "No batch size has reached the target in time."
    best = {
        workers: min(arrived, key=lambda each: each.to_target(workers))
        for workers in arrived[0].rounds
    }
    winner = min(best, key=lambda workers: best[workers].to_target(workers))
    said = [
        f"First at the target: {best[winner].batch_size:,} rows on {_workers(winner)}, in "
        f"{best[winner].to_target(winner):.3f} s."
    ]
    for workers, each in best.items():
        if workers != winner:
            over = each.to_target(workers) / best[winner].to_target(winner)
            others = f"The best on {_workers(workers)}, {each.batch_size:,} rows"
            said.append(f"{others}, takes {over:.2f} times as long.")
    return " ".join(said)


def _workers(count: str) -> str:
    return f"{count} worker{'s' * (count != '1')}"


@dataclass(frozen=True)
class CriticalBatch(Record, kind="critical-batch"):
    """What the steps of all batch sizes say together, with intervals over seeds.

    Attributes:
        smallest, largest: batch sizes that were tried.
        seeds: trainings of each.
        halves_until: the batch size up to which doubling it halves the steps, within 20%.
        pays_until: the batch size up to which doubling it saves more than 10% of the steps.
        by_steps: the critical batch size, from the fit of steps and examples.
        by_noise: the noise scale of the gradients; None on a single rank.
        by_late_noise: the same over the second half of each training.
        fewest_steps, fewest_examples: of the same fit as `by_steps`.
        misfit: how far its curve is from the steps that were counted: root of the mean square of
            the relative difference.
    """

    net: str
    dataset: str
    target: float
    smallest: int
    largest: int
    seeds: int
    halves_until: Interval
    pays_until: Interval
    by_steps: Interval
    by_noise: Interval | None
    by_late_noise: Interval | None
    fewest_steps: Interval
    fewest_examples: Interval
    misfit: float

    @property
    def disagreement(self) -> str:
        """Where the two critical batch sizes disagree, in a sentence."""
        if self.by_noise is None or self.by_late_noise is None:
            return "The noise scale needs the gradients of 2 ranks or more: not measured here."
        if not math.isfinite(self.by_steps.value):
            return "Too few batch sizes reached the target for a fit."
        over = self.by_noise.value / self.by_steps.value
        late = self.by_late_noise.value / self.by_steps.value
        agree = "overlap" if self.by_noise.overlaps(self.by_steps) else "do not overlap"
        return (
            f"Over the whole training the noise scale is {over:.2g} times the critical batch size "
            f"of the fit, and their intervals {agree}; over its second half it is {late:.2g} times."
        )
