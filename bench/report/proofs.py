"""What the tests have shown: a record for each test that ran and for each mutant."""

from dataclasses import dataclass, field

from strategies.records import Record


@dataclass(frozen=True)
class Comparison:
    """A training that was compared with its oracle.

    Attributes:
        strategy: name of the strategy's class.
        net: the net, as Python shows it: all of its layers.
        steps: training steps, after each of which all weights were compared.
        error: largest difference of a weight, relative to the largest weight.
        tolerance: largest error that passes: what was allowed, or what rounding explains if that
            is more; 0 asks for the same bits.
    """

    strategy: str
    net: str
    steps: int
    error: float
    tolerance: float


@dataclass(frozen=True)
class Proof(Record, kind="proof"):
    """A test that ran.

    Attributes:
        test: pytest's node id.
        outcome: "passed", "failed", "skipped", "xfailed" or "xpassed".
        workers: ranks that took part.
        seconds: of setup, call and teardown.
        reason: why it was skipped, or the error in one line.
        comparisons: with an oracle, by the first of the ranks that took part.
    """

    test: str
    outcome: str
    workers: int
    seconds: float
    reason: str = ""
    comparisons: list[Comparison] = field(default_factory=list)


@dataclass(frozen=True)
class Mutant(Record, kind="mutant"):
    """A planted bug, and whether the tests that are named for it caught it.

    Attributes:
        name: of its file in tests/mutants, without ".toml".
        bug: the bug in a sentence.
        file: what it changes.
        caught_by: tests that failed.
    """

    name: str
    bug: str
    file: str
    caught_by: list[str]

    @property
    def caught(self) -> bool:
        return bool(self.caught_by)
