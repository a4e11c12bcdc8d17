"""Two programs of one process side by side: how much longer does one take than the other?"""

import math
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

ROUND = 0.02
"""Seconds that one turn of an arm lasts at least."""


def interleaved(
    arms: Mapping[str, Callable[[], object]], rounds: int = 31
) -> dict[str, list[float]]:
    """Seconds per call of each arm in every round; arms take turns, in alternating order."""
    calls = {}
    for name, arm in arms.items():
        arm()
        start = time.perf_counter()
        arm()
        calls[name] = math.ceil(ROUND / (time.perf_counter() - start))
    times: dict[str, list[float]] = {name: [] for name in arms}
    order = list(arms)
    for _ in range(rounds):
        for name in order:
            start = time.perf_counter()
            for _ in range(calls[name]):
                arms[name]()
            times[name].append((time.perf_counter() - start) / calls[name])
        order.reverse()
    return times


def ratio(over: ArrayLike, under: ArrayLike) -> float:
    """How much longer one arm takes than another: the median over rounds of their ratio.

    What slows a whole round leaves its ratio alone. Where rounds have nothing in common it is as
    good as the ratio of the medians, and else it varies less.
    """
    return float(np.median(np.divide(over, under)))
