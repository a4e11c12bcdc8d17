"""The one way in which contenders take turns: whatever a reader will compare is timed together.

Machines change their pace from minute to minute. Two times that were taken minutes apart say as
much about the machine as about the programs; two times of one round were taken side by side, and
what slows a whole round leaves their ratio alone. So everything that is compared here runs in
rounds: in each round every contender takes one turn, in an order that is reversed from round to
round, and every turn has the same number of steps.
"""

import math
from collections.abc import Callable, Mapping
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
        every: takes part in one round of this many, after the others.
        paces: whether the number of steps is chosen so that this contender's turn is long enough.
    """

    turn: Turn
    every: int = 1
    paces: bool = True


@dataclass(frozen=True)
class Rounds:
    """The outcome of `take_turns`.

    Attributes:
        steps: in every turn.
        seconds: contender -> seconds of each of its turns; the turns of contenders that take part
            in every round are pairs.
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
) -> Rounds:
    """Time the contenders in rounds. Collective if their turns are.

    Turn number i of every contender begins at step i * steps: contenders that train on the same
    batches meet the same ones.

    Args:
        contenders: by name, in the order of the first round.
        rounds: how many, or the fewest and the most if `seconds` decides.
        steps: in a turn; by default as many as make the shortest turn last `shortest`.
        shortest: seconds; by default SHORTEST_TURN.
        seconds: no round begins once all turns together have lasted longer, except the fewest.

    Raises:
        ValueError: no step or round is left to time, nobody sets the pace, or a contender's `every`
            is below 1.
    """
    if not any(contender.paces for contender in contenders.values()):
        raise ValueError("no contender paces: expected one whose turns say how long a round lasts")
    for name, contender in contenders.items():
        if contender.every < 1:
            raise ValueError(f"{name}: every={contender.every}, expected 1 or more")
    fewest, most = rounds if isinstance(rounds, tuple) else (rounds, rounds)
    if not 1 <= fewest <= most:
        raise ValueError(f"rounds={rounds}: expected 1 <= fewest <= most")
    if steps is not None and steps < 1:
        raise ValueError(f"steps={steps}: expected 1 or more")
    if steps is None:
        steps = _steps(contenders, SHORTEST_TURN if shortest is None else shortest)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = [name for name, contender in contenders.items() if contender.every == 1]
    others = [name for name in contenders if name not in order]
    for i in range(most):
        if i >= fewest and sum(map(sum, times.values())) > seconds:
            break
        for name in (*order, *(name for name in others if i % contenders[name].every == 0)):
            times[name].append(contenders[name].turn(i * steps, steps))
        order.reverse()
    return Rounds(steps, times)


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
