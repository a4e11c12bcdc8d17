"""Every kind of result: once this module is imported, `strategies.records.read` knows them all."""

from dataclasses import dataclass, field

from bench.core.cell import Cell, Measurement
from bench.core.turns import ratio
from bench.report.promises import Promise
from bench.report.proofs import Mutant, Proof
from nn.plain_json import INLINE
from strategies.records import Record
from strategies.tasks import EnsembleScores, KFold, Search
from strategies.training import History

__all__ = [
    "EnsembleScores",
    "History",
    "KFold",
    "Measurement",
    "Mutant",
    "Promise",
    "Proof",
    "Race",
    "Search",
    "Transfer",
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
    """

    net: str
    workers: int
    batch_size: int
    steps_per_round: int
    rounds: dict[str, list[float]]
    background_load: float

    def over(self, base: str) -> dict[str, float]:
        """How many times as fast as `base` each other contender is; median over rounds."""
        base_times = self.rounds[base]
        return {
            name: ratio(base_times, times) for name, times in self.rounds.items() if name != base
        }


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
