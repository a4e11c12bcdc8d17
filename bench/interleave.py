"""Two programs of one process side by side: how much longer does one take than the other?"""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

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


def ratio(times: Mapping[str, Sequence[float]], over: str, under: str) -> float:
    """Of the median times of two arms."""
    return float(np.median(times[over]) / np.median(times[under]))
