"""Judge round times: arrays of seconds in, verdicts out. Knows nothing of MPI, pytest or files.

The gate compares the *speedup* of each cell before and after, never a parallel time alone: a
machine that is slower today slows both arms and leaves their ratio alone.

The launch is the sampling unit. Rounds of one process launch share its memory layout and its
placement on cores, so an interval from within one launch is too narrow (Kalibera and Jones,
"Rigorous benchmarking in reasonable time", ISMM 2013). A launch therefore counts as one number:
the median over its rounds of log(sequential / parallel), each parallel round with its own
sequential neighbour in time. Speedups are compared as differences of these logarithms.

Three launches a side are too few to learn a cell's noise from that cell alone: a percentile
bootstrap of 3 against 3 launches excludes "no change" in 1 of 20 comparisons of equal code at any
nominal level (all of one side above all of the other), and a t interval with 4 degrees of freedom
misses a fifth of the 10% slowdowns. So the cells lend each other their noise: variances are
moderated as in Smyth, "Linear models and empirical Bayes methods for assessing differential
expression", Stat. Appl. Genet. Mol. Biol. 3(1), 2004, section 6.2, which was made for the same
case, few replicates of many quantities. (The price: with six cells the fit is itself uncertain, and
ends of intervals meant to miss in 2% of grids miss in 2.6%, in 4% where cells' noise differs
fivefold. That is why no cell fails by its interval alone.)

A cell fails only when its estimate is past the tolerance, fresh launches put it past the tolerance
again, and the interval of the fresh estimate lies below 1. Intervals hold for all cells of the
grid at once (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

PairedTimes: TypeAlias = tuple[ArrayLike, ArrayLike]
"""One cell in one launch: sequential and parallel round times in seconds, paired by index."""

CellLaunches: TypeAlias = Mapping[str, Sequence[PairedTimes]]
"""Cell id -> its undisturbed launches. A cell that could not be measured is absent, which fails; a
cell whose launches were all disturbed has an empty list, which is inconclusive."""

TOLERANCE = 0.05
CONFIDENCE = 0.98
MIN_LAUNCHES = 3

FRESH_LAUNCHES = 5
"""Launches that confirm or clear a suspect. Few cells are suspect, so they cost little."""

# With more than this not even a slowdown of 20% could have been proven: "pass" would be a lie.
MAX_HALF_WIDTH = math.log(1.20)

# A standard deviation of the log speedup below any clock's resolution. Keeps the logarithm of a
# variance finite when all launches agree to the last digit.
MIN_DEVIATION = 1e-6


class Outcome(StrEnum):
    """The result of judging a cell."""

    PASS = "pass"
    FASTER = "faster"
    SEQUENTIAL_SLOWER = "sequential arm slower"
    SUSPECT = "suspect"
    SLOWER = "slower"
    SEQUENTIAL_FASTER = "sequential arm faster"
    MISSING = "missing"
    INCONCLUSIVE = "inconclusive"
    NOT_GATED = "not gated"
    NEW = "new"


FAILED = frozenset({Outcome.SLOWER, Outcome.SEQUENTIAL_FASTER, Outcome.MISSING})
UNDECIDED = frozenset({Outcome.INCONCLUSIVE, Outcome.SUSPECT})


@dataclass(frozen=True)
class Verdict:
    """The outcome of one cell and the figures behind it; None where a figure is unknown.

    Attributes:
        cell: id.
        reason: one sentence for the reader of the report.
        before, after: speedups, geometric means over launches.
        ratio, low, high: speedup after / before, and its interval.
        sequential_ratio, parallel_ratio: *times* after / before, so above 1 is slower.
        launches: undisturbed ones before and after, and fresh ones.
        speedups: of each of these launches, in the same three groups.
    """

    cell: str
    outcome: Outcome
    reason: str
    before: float | None = None
    after: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    sequential_ratio: float | None = None
    parallel_ratio: float | None = None
    launches: tuple[int, int, int] = (0, 0, 0)
    speedups: tuple[tuple[float, ...], ...] = ((), (), ())


@dataclass(frozen=True)
class Estimate:
    """How far the speedup of one cell moved, in natural logarithms.

    Attributes:
        before, after: log speedups, means over launches. After fresh launches, `after` is theirs
            alone: the first launches were picked for being slow, and would count twice.
        sequential, parallel: log ratios of the arms' *times*, after / before.
        first_change: the change of the log speedup that the first launches showed.
        half_width: half the width of the interval of `change`.
        fresh_decide: whether there were enough fresh launches to decide.
        launches: undisturbed ones before and after, and fresh ones.
    """

    before: float
    after: float
    sequential: float
    parallel: float
    first_change: float
    half_width: float
    fresh_decide: bool
    launches: tuple[int, int, int]

    @property
    def change(self) -> float:
        """The change of the log speedup; below 0 it fell."""
        return self.after - self.before


def log_speedup(sequential: ArrayLike, parallel: ArrayLike) -> float:
    """Return the median over paired rounds of log(sequential / parallel).

    Pairing cancels what slows neighbouring rounds alike; the median ignores a few slow rounds.

    Args:
        sequential, parallel: seconds, 1-D, equally long.

    Raises:
        ValueError: the rounds are unpaired, or are not positive times.
    """
    return float(_medians(sequential, parallel)[0])


def moderate(
    variances: ArrayLike, freedom: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the variances of several cells towards their common value (Smyth 2004, section 6.2).

    A scaled inverse chi-squared prior (d0, s0^2) is fitted by the moments of log s^2 to all
    variances s^2, each with d degrees of freedom.

    Returns:
        The variances (d0 s0^2 + d s^2) / (d0 + d), and their degrees of freedom: d0 + d, but no
        more than all cells have together.
    """
    s2 = np.maximum(np.asarray(variances, dtype=float), MIN_DEVIATION**2)
    d = np.asarray(freedom, dtype=float)
    if s2.size == 1:
        return s2, d
    e = np.log(s2) - special.digamma(d / 2) + np.log(d / 2)
    excess = e.var(ddof=1) - special.polygamma(1, d / 2).mean()
    if excess <= special.polygamma(1, d.sum() / 2):  # chance alone makes them as unequal
        return np.full_like(s2, np.average(s2, weights=d)), np.full_like(d, d.sum())
    d0 = 2 * optimize.brentq(lambda y: special.polygamma(1, y) - excess, 1e-6, d.sum() / 2)
    s02 = math.exp(e.mean() + special.digamma(d0 / 2) - math.log(d0 / 2))
    return (d0 * s02 + d * s2) / (d0 + d), np.minimum(d0 + d, d.sum())


def judge(
    before: CellLaunches,
    after: CellLaunches,
    fresh: CellLaunches | None = None,
    *,
    tolerance: float = TOLERANCE,
    confidence: float = CONFIDENCE,
    oversubscribed: Collection[str] = (),
) -> list[Verdict]:
    """Judge every cell of `before` and `after`, in that order.

    Call it first without `fresh`; launch the cells that `cells_to_confirm` names again, and call it
    with those launches as `fresh` for the final verdicts.

    Args:
        tolerance: a slowdown of the parallel arm; 0.05 lets the speedup fall to 1 / 1.05.
        confidence: of each end of the intervals, for all cells together.
        oversubscribed: cells that are estimated and not gated.

    Raises:
        ValueError: meaningless settings, or round times that are not positive or not paired.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is a slowdown between 0 and 1 (5% is 0.05), not {tolerance}")
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence is between 0.5 and 1, not {confidence}")
    measured = {
        cell: tuple(log_medians(part.get(cell, ())) for part in (before, after, fresh or {}))
        for cell in [*before, *(c for c in after if c not in before)]
    }
    logs = {cell: parts for cell, parts in measured.items() if cell in before and cell in after}
    gated = [cell for cell in logs if cell not in oversubscribed]
    shown = [cell for cell in logs if cell in oversubscribed]
    level = 1 - (1 - confidence) / max(1, len(gated))
    enough = {cell: parts for cell, parts in logs.items() if _has_enough(parts)}
    # Oversubscribed cells are far noisier, so they do not lend their noise to the gated ones.
    noise = {
        cell: variance
        for kind in (gated, shown)
        for cell, variance in _noise({c: enough[c] for c in kind if c in enough}).items()
    }

    def verdict(cell: str) -> Verdict:
        if cell not in before:
            return Verdict(cell, Outcome.NEW, "not in the baseline", after=_speedup(after[cell]))
        if cell not in after:
            reason = "the baseline has this cell, but this run did not measure it"
            return Verdict(cell, Outcome.MISSING, reason, before=_speedup(before[cell]))
        if cell not in enough:
            b, a, f = map(len, logs[cell])
            reason = (
                f"too few undisturbed launches: {b} before and {a} after; "
                f"{MIN_LAUNCHES} of each are needed"
            )
            outcome = Outcome.INCONCLUSIVE if cell in gated else Outcome.NOT_GATED
            return Verdict(cell, outcome, reason, launches=(b, a, f))
        found = _estimate(enough[cell], noise[cell], level)
        return _verdict(cell, found, *decide(found, tolerance, cell in gated))

    return [
        replace(verdict(cell), speedups=tuple(map(_speedups, parts)))
        for cell, parts in measured.items()
    ]


def judge_and_confirm(
    before: CellLaunches,
    after: CellLaunches,
    relaunch: Callable[[Collection[str]], tuple[CellLaunches, CellLaunches]],
    *,
    tolerance: float = TOLERANCE,
    oversubscribed: Collection[str] = (),
) -> list[Verdict]:
    """Judge every cell, launch the cells in doubt again, and return the final verdicts.

    Args:
        relaunch: takes the cells in doubt; returns more launches before, and fresh ones after.
        tolerance, oversubscribed: see `judge`.
    """
    first = judge(before, after, tolerance=tolerance, oversubscribed=oversubscribed)
    doubtful = cells_to_confirm(first)
    if not doubtful:
        return first
    more, fresh = relaunch(doubtful)
    before = {cell: [*times, *more.get(cell, ())] for cell, times in before.items()}
    # A cell that a fresh launch does not measure is missing, as it would be the first time.
    after = {cell: times for cell, times in after.items() if cell in fresh or cell not in doubtful}
    return judge(before, after, fresh, tolerance=tolerance, oversubscribed=oversubscribed)


def cells_to_confirm(verdicts: Iterable[Verdict]) -> list[str]:
    """List the cells that fresh launches can decide."""
    return [v.cell for v in verdicts if v.outcome in UNDECIDED and v.ratio is not None]


def decide(estimate: Estimate, tolerance: float, gated: bool) -> tuple[Outcome, str]:
    """Return the outcome of a cell, and the reason for it in one sentence."""
    change, half_width = estimate.change, estimate.half_width
    sequential, parallel = estimate.sequential, estimate.parallel
    bound = math.log1p(tolerance)
    suspected = estimate.first_change < -bound
    fell, rose = change < -bound, change > bound
    slowdown = f"the speedup fell as if parallel steps took {math.expm1(-change):.1%} longer"
    times = f"times: sequential {math.expm1(sequential):+.1%}, parallel {math.expm1(parallel):+.1%}"

    if not gated:
        return Outcome.NOT_GATED, "more ranks than cores: shown, but not gated"
    if suspected and not estimate.fresh_decide:
        return Outcome.SUSPECT, f"{slowdown}; fresh launches have to confirm it"
    if suspected and fell and change + half_width < 0:
        if -sequential > parallel:
            return Outcome.SEQUENTIAL_FASTER, (
                f"the speedup fell because the sequential arm got faster ({times}); "
                "if that is intended, save a new baseline"
            )
        return Outcome.SLOWER, f"{slowdown}, and fresh launches confirmed it ({times})"
    if fell and suspected:
        return Outcome.INCONCLUSIVE, f"{slowdown}, but the interval includes 1, which is no change"
    if fell:
        return Outcome.INCONCLUSIVE, f"{slowdown} in fresh launches, but not in the first ones"
    if half_width > MAX_HALF_WIDTH:
        smallest = math.expm1(half_width)
        return Outcome.INCONCLUSIVE, (
            f"too noisy: a slowdown of less than {smallest:.0%} could not have been proven"
        )
    if suspected:
        first = math.expm1(-estimate.first_change)
        return Outcome.PASS, f"looked {first:.1%} slower at first, not confirmed by fresh launches"
    if rose and change - half_width > 0:
        if sequential > -parallel:
            return Outcome.SEQUENTIAL_SLOWER, (
                f"no gain: the speedup rose because the sequential arm got slower ({times})"
            )
        return Outcome.FASTER, f"the speedup rose by {math.expm1(change):.1%}"
    return Outcome.PASS, f"within the tolerance of {tolerance:.0%}"


def _estimate(
    parts: tuple[NDArray[np.float64], ...], noise: tuple[float, float], level: float
) -> Estimate:
    """Estimate one cell's change from its launches before, after and fresh."""
    before, after, fresh = parts
    variance, freedom = noise
    fresh_decide = len(fresh) >= MIN_LAUNCHES
    deciding = fresh if fresh_decide else after
    spread = math.sqrt(variance * (1 / len(before) + 1 / len(deciding)))
    old, first, new = (part.mean(axis=0) for part in (before, after, deciding))
    return Estimate(
        before=float(old[0]),
        after=float(new[0]),
        sequential=float(new[1] - old[1]),
        parallel=float(new[2] - old[2]),
        first_change=float(first[0] - old[0]),
        half_width=float(stats.t.ppf(level, freedom) * spread),
        fresh_decide=fresh_decide,
        launches=(len(before), len(after), len(fresh)),
    )


def _verdict(cell: str, estimate: Estimate, outcome: Outcome, reason: str) -> Verdict:
    return Verdict(
        cell,
        outcome,
        reason,
        before=math.exp(estimate.before),
        after=math.exp(estimate.after),
        ratio=math.exp(estimate.change),
        low=math.exp(estimate.change - estimate.half_width),
        high=math.exp(estimate.change + estimate.half_width),
        sequential_ratio=math.exp(estimate.sequential),
        parallel_ratio=math.exp(estimate.parallel),
        launches=estimate.launches,
    )


def _has_enough(parts: tuple[NDArray[np.float64], ...]) -> bool:
    before, after, _ = parts
    return min(len(before), len(after)) >= MIN_LAUNCHES


def _noise(cells: Mapping[str, tuple[NDArray[np.float64], ...]]) -> dict[str, tuple[float, float]]:
    """Return per cell the moderated variance of a launch's log speedup, and its freedom."""
    if not cells:
        return {}
    samples = [[part[:, 0] for part in parts if len(part) > 1] for parts in cells.values()]
    freedom = [sum(x.size - 1 for x in parts) for parts in samples]
    squares = [sum(float(((x - x.mean()) ** 2).sum()) for x in parts) for parts in samples]
    variances, degrees = moderate(np.divide(squares, freedom), freedom)
    return {c: (float(v), float(d)) for c, v, d in zip(cells, variances, degrees, strict=True)}


def log_medians(launches: Sequence[PairedTimes]) -> NDArray[np.float64]:
    """Return (launches, 3): the medians of log speedup, log sequential, log parallel."""
    return np.array([_medians(*times) for times in launches]).reshape(-1, 3)


def _medians(sequential: ArrayLike, parallel: ArrayLike) -> NDArray[np.float64]:
    """Return the medians over a launch's rounds of log speedup, log sequential, log parallel."""
    seq, par = _logs(sequential), _logs(parallel)
    if seq.size != par.size:
        raise ValueError(f"rounds come in pairs, not {seq.size} sequential and {par.size} parallel")
    return np.median([seq - par, seq, par], axis=1)


def _logs(times: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(times, dtype=float)
    if array.ndim != 1 or array.size == 0 or not np.all(np.isfinite(array) & (array > 0)):
        raise ValueError("round times are a 1-D array of at least one positive number of seconds")
    return np.log(array)


def _speedups(logs: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(math.exp(log) for log in logs[:, 0])


def _speedup(launches: Sequence[PairedTimes]) -> float | None:
    return math.exp(log_medians(launches)[:, 0].mean()) if launches else None
