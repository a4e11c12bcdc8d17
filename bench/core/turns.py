"""The one way in which contenders take turns: whatever a reader will compare is timed together.

Machines change their pace from minute to minute. Two times that were taken minutes apart say as
much about the machine as about the programs; two times of one round were taken side by side, and
what slows a whole round leaves their ratio alone. So everything that is compared here runs in
rounds: in each round every contender takes one turn, and every turn has the same number of steps.

The order of the first round is drawn at random, the second round has it in reverse, the third is
drawn anew, and so on. A drift within a round is cancelled by the next one, and nobody always comes
after the same neighbour, which may leave the machine in a state of its own: its data in the caches,
threads that still spin.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

SHORTEST_TURN = 0.05
"""Seconds. A single time slice that the system gives to another program spoils a shorter turn."""

Turn: TypeAlias = Callable[[int, int], float]
"""(number of the first step, number of steps) -> seconds, the same number on every rank."""


@dataclass(frozen=True)
class Contender:
    """Something that is timed against others.

    Attributes:
        turn: does so many steps and returns the seconds they took. `bench.core.arms` has ways to
            time a turn: `together`, `alone` and `clocked`.
        paces: whether the number of steps is chosen so that this contender's turn is long enough.
    """

    turn: Turn
    paces: bool = True


@dataclass(frozen=True)
class Rounds:
    """The outcome of `take_turns`.

    Attributes:
        steps: in every turn.
        seconds: contender -> seconds of its turn in each round; turns of one round are pairs.
    """

    steps: int
    seconds: dict[str, list[float]]

    @property
    def per_step(self) -> dict[str, list[float]]:
        """Contender -> seconds of a step, in each of its turns."""
        return {name: [time / self.steps for time in times] for name, times in self.seconds.items()}


def take_turns(
    contenders: Mapping[str, Contender],
    rounds: int | tuple[int, int] = 9,
    *,
    steps: int | None = None,
    shortest: float | None = None,
    seconds: float = math.inf,
    before_round: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Rounds:
    """Time the contenders in rounds. Collective if their turns are.

    Turn number i of every contender begins at step i * steps: contenders that train on the same
    batches meet the same ones.

    Args:
        contenders: by name.
        rounds: how many, or the fewest and the most if `seconds` decides.
        steps: in a turn; by default as many as make the shortest turn last `shortest`.
        shortest: seconds; by default SHORTEST_TURN.
        seconds: no round begins once the rounds have lasted longer, except the fewest.
        before_round: called before each round, on every rank; its time is no turn's.
        clock: says on every rank the same time in seconds. Turns of several ranks need one that
            does: `race.turns_on` has it.

    Raises:
        ValueError: no step or round is left to time, or nobody sets the pace.
    """
    if not any(contender.paces for contender in contenders.values()):
        raise ValueError("no contender paces: expected one whose turns say how long a round lasts")
    fewest, most = rounds if isinstance(rounds, tuple) else (rounds, rounds)
    if not 1 <= fewest <= most:
        raise ValueError(f"rounds={rounds}: expected 1 <= fewest <= most")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: expected 1 or more")
    if steps is None:
        steps = _steps(contenders, SHORTEST_TURN if shortest is None else shortest)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    begin = clock()
    for i, order in zip(range(most), _orders(list(contenders))):
        if i >= fewest and fewest < most and clock() - begin > seconds:
            break
        before_round()
        for name in order:
            times[name].append(contenders[name].turn(i * steps, steps))
    return Rounds(steps, times)


def _orders(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield the order of each round, the same on every rank: a random one, then its reverse."""
    rng = np.random.default_rng(0)
    while True:
        order = [names[k] for k in rng.permutation(len(names))]
        yield order
        yield order[::-1]


def _steps(contenders: Mapping[str, Contender], shortest: float) -> int:
    """Steps that make the shortest turn last so many seconds; the same number on every rank."""
    turns = [contender.turn for contender in contenders.values() if contender.paces]
    steps = 1
    while True:
        lasted = min(turn(0, steps) for turn in turns)
        if lasted > shortest / 5:
            return math.ceil(steps * shortest / lasted)
        steps *= 4


def ratio(over: ArrayLike, under: ArrayLike) -> float:
    """How much longer one contender takes than another: the median of the ratios of their rounds.

    What slows a whole round leaves its ratio alone. Where nothing slows whole rounds, this is as
    good as the ratio of the medians.
    """
    return float(np.median(np.divide(over, under)))
