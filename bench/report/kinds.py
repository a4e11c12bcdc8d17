"""Every kind of result: once this module is imported, `strategies.records.read` knows them all."""

from dataclasses import dataclass, field
from typing import Self

from bench.core.cell import Cell, Measurement, serial_fraction
from bench.core.core_use import CoreUse
from bench.core.machine_state import State, background_load
from bench.core.turns import Rounds, ratio
from bench.report.batch_sizes import BatchSize, CriticalBatch
from bench.report.crossovers import Crossover
from bench.report.demo_records import DemoRace, Slice
from bench.report.judged import Judged, Tracked
from bench.report.promises import Promise
from bench.report.proofs import Mutant, Proof
from nn.plain_json import INLINE
from strategies.records import Record
from strategies.tasks import EnsembleScores, KFold, Search
from strategies.tasks.journal import Task
from strategies.training import History

__all__ = [
    "BatchSize",
    "CriticalBatch",
    "Crossover",
    "DemoRace",
    "EnsembleScores",
    "FineTuning",
    "Generated",
    "History",
    "Judged",
    "KFold",
    "Measurement",
    "Memory",
    "Mutant",
    "Promise",
    "Proof",
    "Race",
    "Scaling",
    "Search",
    "Slice",
    "Task",
    "Tracked",
    "Transfer",
    "Use",
    "WrongCell",
]


@dataclass(frozen=True)
class Transfer(Record, kind="transfer"):
    """The time in which workers combine their data.

    Attributes:
        verb: how they do it.
        bytes: what each worker holds.
        seconds: on the slowest rank.
        oversubscribed: whether there are more workers than cores.
    """

    verb: str
    workers: int
    bytes: int
    seconds: float
    oversubscribed: bool

    @property
    def bandwidth(self) -> float:
        """Bytes per second of each worker's data."""
        return self.bytes / self.seconds


@dataclass(frozen=True)
class Race(Record, kind="race"):
    """Contenders that took turns with one another in the same rounds.

    Attributes:
        net: what was trained.
        steps_per_round: training steps in every turn.
        rounds: contender -> seconds of each of its turns; turns of one round are pairs.
        background_load: cores that other programs used meanwhile.
        machine: what the machine was like in each round, see `bench.core.machine_state`.
    """

    net: str
    workers: int
    batch_size: int
    steps_per_round: int
    rounds: dict[str, list[float]]
    background_load: float
    machine: State = field(default_factory=dict)

    @classmethod
    def of(cls, net: str, workers: int, batch_size: int, rounds: Rounds, state: State) -> Self:
        """Keep what `bench.core.race.turns_on` has returned."""
        load = background_load(state)
        return cls(net, workers, batch_size, rounds.steps, rounds.seconds, load, state)

    def over(self, base: str) -> dict[str, float]:
        """How many times as fast as `base` each other contender is; median over rounds."""
        base_times = self.rounds[base]
        return {
            name: ratio(base_times, times) for name, times in self.rounds.items() if name != base
        }


@dataclass(frozen=True)
class Scaling(Record, kind="scaling"):
    """The efficiency of so many workers.

    Attributes:
        law: "strong": plain training has the same batch, and the efficiency is the speedup over it,
            divided by the workers; or "weak": plain training has as many rows as each worker, and
            the efficiency is its time over theirs.
        batch_size: rows of all workers together.
        efficiency, efficiency_low, efficiency_high: with its 95% interval over paired rounds.
        oversubscribed: whether there are more workers than cores.
        rounds: "plain" and "parallel" -> seconds of its turn in each round.
        machine: what the machine was like in each round, see `bench.core.machine_state`.
    """

    law: str
    strategy: str
    net: str
    workers: int
    batch_size: int
    efficiency: float
    efficiency_low: float
    efficiency_high: float
    oversubscribed: bool
    rounds: dict[str, list[float]] = field(default_factory=dict)
    machine: State = field(default_factory=dict)

    @property
    def serial(self) -> float | None:
        """Karp and Flatt's serial fraction; None for weak scaling and for a single worker."""
        if self.law == "weak":
            return None
        return serial_fraction(self.efficiency * self.workers, self.workers)


@dataclass(frozen=True)
class FineTuning(Record, kind="fine-tuning"):
    """The curves of a language model that was trained, step by step. Rates are of all ranks.

    The names are those of the tables and plots of Hugging Face's `Trainer`.

    Attributes:
        strategy, workers: how it was trained.
        what: the part of the study.
        net, parameters: what was trained, and how many numbers it has.
        dataset, dtype: of the rows and of the parameters.
        rows, eval_rows: sequences to train on and to evaluate with.
        length: labels of a sequence.
        batch_size, accumulate: sequences of a step, and parts in which each rank computes its own.
        global_step, epoch: after each step; epochs are counted with their fraction.
        loss: the mean over the labels of the step's batch, before the update.
        learning_rate: of each step.
        grad_norm: of each step's whole gradient, before it is clipped.
        seconds: training time until the end of each step, without evaluations.
        samples: sequences that all ranks together trained on.
        eval_step: `global_step` of each evaluation.
        eval_loss: the mean over the labels of all sequences to evaluate with, each once.
        eval_runtime: seconds of each evaluation, on the slowest rank.
        loss_difference, norm_difference: the largest relative difference of a step's loss and norm
            from plain training's.
        first_difference: where the training first differs from plain training, and by how much.
    """

    strategy: str
    workers: int
    what: str
    net: str
    parameters: int
    dataset: str
    dtype: str
    rows: int
    eval_rows: int
    length: int
    batch_size: int
    accumulate: int
    global_step: list[int]
    epoch: list[float]
    loss: list[float]
    learning_rate: list[float]
    grad_norm: list[float]
    seconds: list[float]
    samples: int
    eval_step: list[int]
    eval_loss: list[float]
    eval_runtime: list[float]
    loss_difference: float = 0.0
    norm_difference: float = 0.0
    first_difference: str = ""

    @property
    def train_samples_per_second(self) -> float:
        """Sequences that all ranks together trained on in a second."""
        return self.samples / self.seconds[-1]

    @property
    def train_steps_per_second(self) -> float:
        return len(self.loss) / self.seconds[-1]

    @property
    def train_tokens_per_second(self) -> float:
        """Labels that all ranks together trained on in a second."""
        return self.length * self.train_samples_per_second

    @property
    def eval_samples_per_second(self) -> list[float]:
        """Sequences that all ranks together evaluated in a second, for each evaluation."""
        return [self.eval_rows / seconds for seconds in self.eval_runtime]

    @property
    def eval_steps_per_second(self) -> list[float]:
        """Batches of `batch_size` that all ranks together evaluated in a second."""
        batches = -(-self.eval_rows // self.batch_size)
        return [batches / seconds for seconds in self.eval_runtime]


@dataclass(frozen=True)
class Generated(Record, kind="generated"):
    """What a language model wrote.

    Attributes:
        what: which net, e.g. "before" or "after" it was tuned.
        prompt, text: what it was given and what it added; bytes that are no UTF-8 are replaced.
        temperature, top_k, seed: of the draws, see `nn.torch.generate`.
    """

    what: str
    prompt: str
    text: str
    temperature: float
    top_k: int | None
    seed: int


@dataclass(frozen=True)
class Memory(Record, kind="memory"):
    """The memory that a rank takes, the rank that takes the most.

    Attributes:
        strategy, workers, net, batch_size: what was trained, and how.
        held: bytes of parameters, gradient and optimizer state that the rank keeps between two
            steps; parameters that a node shares count on each of its ranks. None for peers.
        step: bytes by which the process grows during a step, at most: activations, messages and
            what torch keeps for backward; None where the system does not tell.
    """

    strategy: str
    workers: int
    net: str
    batch_size: int
    held: int | None
    step: int | None


@dataclass(frozen=True)
class WrongCell(Record, kind="wrong"):
    """A cell that was not measured, since its strategy does not train what it should.

    Attributes:
        error: `Check.error`.
        problem: what is wrong.
    """

    cell: Cell = field(metadata=INLINE)
    error: float | None
    problem: str


@dataclass(frozen=True)
class Use(Record, kind="use"):
    """How many cores processes used over time, and how long they computed and waited.

    Attributes:
        what: what they did.
        nap: seconds between two looks.
        seconds: for how long they were watched.
        cores: process -> cores in use, one value per nap.
        computing: process -> seconds of processor time.
        waiting: process -> the other seconds: for work, a disk, or a core to run on. It is the time
            that has passed minus `computing`, so a lack of cores counts as waiting.
    """

    what: str
    nap: float
    seconds: float
    cores: dict[str, list[float]]
    computing: dict[str, float]
    waiting: dict[str, float]

    @classmethod
    def of(cls, what: str, use: CoreUse) -> "Use":
        """Make the record of what was watched."""
        return cls(what, use.nap, use.seconds, use.cores, use.computing, use.waiting)
