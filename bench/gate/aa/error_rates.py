"""Compute how often the gate is wrong, from launches of one and the same code.

False alarms: launches are compared with others of the same code, either every three in a row with
the next three (these comparisons overlap), or drawn at random. Both share launches among
comparisons, so their intervals are narrower than intervals of independent comparisons. Detection:
the same with one cell replaced by its slower copy. As in the gate, a disturbed measurement is
replaced by the cell's next one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy import stats

from bench.gate.launches import Launch, seconds_per_step
from bench.gate.statistics import (
    FAILED,
    FRESH_LAUNCHES,
    MIN_LAUNCHES,
    UNDECIDED,
    CellLaunches,
    Outcome,
    PairedTimes,
    judge_and_confirm,
)

RESAMPLED = 1000
"""Comparisons of launches at random."""

NEEDED = 2 * MIN_LAUNCHES + FRESH_LAUNCHES
"""Undisturbed launches of a cell for one comparison: before, after, and to confirm."""

IN_A_ROW, AT_RANDOM = "in a row", "at random"


@dataclass(frozen=True, eq=False)
class Sample:
    """One launch of the trial.

    Attributes:
        times: cell -> how much slower the copy is (0 for the cell itself) -> its times.
        disturbed: (cell, amount) of the disturbed measurements.
    """

    times: Mapping[str, Mapping[float, PairedTimes]]
    disturbed: frozenset[tuple[str, float]]

    @classmethod
    def from_launch(cls, launch: Launch) -> Sample:
        found: dict[str, dict[float, PairedTimes]] = {}
        for name, line in launch.cells.items():
            cell, amount = _cell_and_amount(name)
            found.setdefault(cell, {})[amount] = seconds_per_step(line)
        return cls(found, frozenset(map(_cell_and_amount, launch.disturbed())))

    def has(self, cell: str, amount: float = 0.0) -> bool:
        """Return whether the gate would use this launch for that cell."""
        return amount in self.times[cell] and (cell, amount) not in self.disturbed


def _cell_and_amount(name: str) -> tuple[str, float]:
    """Take apart the id of a trial's cell, such as "CELL" or "CELL+10%"."""
    cell, _, percent = name.partition("+")
    return cell, float(percent.rstrip("%") or 0) / 100


@dataclass(frozen=True)
class Rate:
    """How many comparisons had an outcome.

    Attributes:
        outcome: in words.
        launches: how the launches were chosen, IN_A_ROW or AT_RANDOM.
        hits, comparisons: how many of how many.
    """

    outcome: str
    launches: str
    hits: int
    comparisons: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of Clopper and Pearson (Biometrika 26, 1934): never too narrow."""
        ci = stats.binomtest(self.hits, self.comparisons).proportion_ci(0.95, method="exact")
        return float(ci.low), float(ci.high)


def error_rates(
    quiet: Sequence[Sample], loaded: Sequence[Sample], amounts: Sequence[float]
) -> list[Rate]:
    """Compute all rates.

    Args:
        quiet: at least NEEDED undisturbed launches of every cell.
        loaded: launches beside a process that kept a core busy, if any.
        amounts: by how much the copies are slower.
    """
    rng = np.random.default_rng(0)
    rates = consecutive(quiet) + resampled(quiet, rng)
    rates += [rate for amount in amounts if (rate := detected(quiet, amount, rng)).comparisons]
    return rates + (under_load(quiet, loaded) if loaded else [])


def undisturbed(samples: Iterable[Sample], cell: str, amount: float = 0.0) -> list[PairedTimes]:
    """Return the launches of a cell that the gate would use."""
    return [sample.times[cell][amount] for sample in samples if sample.has(cell, amount)]


def consecutive(samples: Sequence[Sample]) -> list[Rate]:
    """Compare three launches in a row with the next three; fresh ones may be from the beginning."""
    outcomes = []
    for first in range(len(samples)):
        order = [*samples[first:], *samples[:first]]
        rest = [len(undisturbed(samples[first:], cell)) for cell in samples[0].times]
        if min(rest) >= NEEDED - FRESH_LAUNCHES:
            outcomes.append(_judge_in_order({c: undisturbed(order, c) for c in samples[0].times}))
    return _alarms_and_undecided("no change", IN_A_ROW, outcomes)


def resampled(samples: Sequence[Sample], rng: np.random.Generator) -> list[Rate]:
    """Compare launches in random order."""
    outcomes = []
    for _ in range(RESAMPLED):
        order = [samples[i] for i in rng.permutation(len(samples))]
        outcomes.append(_judge_in_order({c: undisturbed(order, c) for c in samples[0].times}))
    return _alarms_and_undecided("no change", AT_RANDOM, outcomes)


def detected(samples: Sequence[Sample], amount: float, rng: np.random.Generator) -> Rate:
    """Replace one cell at a time by its slower copy, in launches at random."""
    hits = tried = 0
    cells = list(samples[0].times)
    for turn in range(RESAMPLED):
        slow = cells[turn % len(cells)]
        order = [samples[i] for i in rng.permutation(len(samples))]
        slower = [sample for sample in order if sample.has(slow, amount)][: NEEDED - MIN_LAUNCHES]
        before = undisturbed((sample for sample in order if sample not in slower), slow)
        before = before[:MIN_LAUNCHES]
        replaced = [*before, *undisturbed(slower, slow, amount)]
        if len(replaced) == NEEDED:
            plain = {cell: undisturbed(order, cell) for cell in cells}
            hits += _judge_in_order(plain | {slow: replaced})[slow] in FAILED
            tried += 1
    return Rate(f"{amount:.0%} slowdown: found", AT_RANDOM, hits, tried)


def under_load(quiet: Sequence[Sample], loaded: Sequence[Sample]) -> list[Rate]:
    """Compare quiet launches with launches beside a process that became busy half-way."""
    cells = list(quiet[0].times)
    usable = {cell: undisturbed(loaded, cell) for cell in cells}
    measured = {cell: [sample.times[cell][0.0] for sample in loaded] for cell in cells}
    seen: list[dict[str, Outcome]] = []
    ignored: list[dict[str, Outcome]] = []
    for first in range(len(quiet)):
        own = {cell: undisturbed(quiet[first:], cell) for cell in cells}
        if min(map(len, own.values())) <= MIN_LAUNCHES:
            break
        before = {cell: launches[:MIN_LAUNCHES] for cell, launches in own.items()}
        for outcomes, after in ((seen, usable), (ignored, measured)):
            joined = {cell: [own[cell][MIN_LAUNCHES], *after[cell]] for cell in cells}
            outcomes.append(_judge(before, joined, after))
    return [
        *_alarms_and_undecided("busy core", IN_A_ROW, seen),
        _alarms_and_undecided("busy core, if the gate ignored it", IN_A_ROW, ignored)[0],
    ]


def _judge_in_order(launches: Mapping[str, Sequence[PairedTimes]]) -> dict[str, Outcome]:
    """Compare each cell's first launches with the next, and confirm with those after both."""
    ends = 0, MIN_LAUNCHES, 2 * MIN_LAUNCHES, NEEDED
    before, after, fresh = (
        {cell: own[start:end] for cell, own in launches.items()} for start, end in pairwise(ends)
    )
    return _judge(before, after, fresh)


def _judge(before: CellLaunches, after: CellLaunches, fresh: CellLaunches) -> dict[str, Outcome]:
    def relaunch(cells: Collection[str]) -> tuple[CellLaunches, CellLaunches]:
        return {}, {cell: fresh[cell] for cell in cells}

    verdicts = judge_and_confirm(before, after, relaunch)
    return {verdict.cell: verdict.outcome for verdict in verdicts}


def _alarms_and_undecided(
    what: str, launches: str, comparisons: Sequence[Mapping[str, Outcome]]
) -> list[Rate]:
    """Count the comparisons in which some cell failed, and in which some cell was undecided."""

    def rate(name: str, kinds: Collection[Outcome]) -> Rate:
        hits = sum(any(outcome in kinds for outcome in said.values()) for said in comparisons)
        return Rate(f"{what}: {name}", launches, hits, len(comparisons))

    return [rate("false alarm", FAILED), rate("inconclusive", UNDECIDED)]
