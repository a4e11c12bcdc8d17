"""What the state of the machine did to a race: lines under its table, and threads of two kinds."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.core.machine_state import remark, share_no_cache
from bench.core.race import raced_with
from bench.report.kinds import Measurement

ENOUGH = 3
"""Rounds of a state that are enough to show its figures."""

APART = 1.25
"""Turns of threads are of two kinds if no speedup lies between one and this many times it."""


def state_lines(cells: Sequence[Measurement]) -> list[str]:
    """Say of each race in which state the machine was, and give the figures of both states."""
    said = []
    for race in dict.fromkeys(map(_race, cells)):
        raced = [m for m in cells if _race(m) == race]
        state = raced[0].machine
        if not (text := remark(state)):
            continue
        said.append(
            f"batch {raced[0].cell.batch_size}, {raced[0].cell.dataset_size:,} rows: {text}"
        )
        far = np.array(share_no_cache(state), bool)
        if min(far.sum(), (~far).sum()) >= ENOUGH:
            figures = (
                f"{m.cell.strategy} {m.cell.workers} {_speedup(m, far):.2f}/{_speedup(m, ~far):.2f}"
                for m in raced
                if not m.oversubscribed
            )
            said.append(f"speedup without / with a common cache: {', '.join(figures)}")
    return said


def _race(m: Measurement) -> tuple:
    """Tell races apart: the same cells may be raced again, in other rounds."""
    return *raced_with(m.cell), tuple(m.machine.get("background_load", ()))


def _speedup(m: Measurement, chosen: NDArray) -> float:
    """The speedup in some rounds."""
    one, other = (np.array(m.rounds[arm])[chosen] for arm in ("sequential", "parallel"))
    return float(np.median(one) / np.median(other))


def threads(m: Measurement) -> str:
    """Show the speedup of threads, or both if the turns are of two kinds."""
    plain, turns = m.rounds["sequential"], m.rounds.get("threads", [])
    if len(turns) == len(plain) >= 2 * ENOUGH:  # older records have fewer turns of threads
        ratios = np.sort(np.divide(plain, turns))
        gaps = ratios[ENOUGH:] / ratios[ENOUGH - 1 : -1]  # each side has enough turns
        k = int(np.argmax(gaps[: len(ratios) - 2 * ENOUGH + 1]))
        if gaps[k] >= APART:
            low, high = np.median(ratios[: k + ENOUGH]), np.median(ratios[k + ENOUGH :])
            return f"{low:.2f}|{high:.2f}"
    return f"{m.threads_speedup:.2f}"
