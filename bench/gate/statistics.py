"""The gate: arrays of round times in, verdicts out. Knows nothing of MPI, pytest or files.

What is compared is the *speedup* of each cell, before and after, never a parallel time alone: a
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
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats

Arms: TypeAlias = tuple[ArrayLike, ArrayLike]
"""One cell in one launch: sequential and parallel round times in seconds, paired by index."""

Side: TypeAlias = Mapping[str, Sequence[Arms]]
"""Cell id -> its usable launches. A cell that could not be measured is absent, which fails; a cell
whose launches were all disturbed is there with an empty list, which is inconclusive."""

TOLERANCE = 0.05
CONFIDENCE = 0.98
MIN_LAUNCHES = 3

FRESH = 5
"""Launches that confirm or clear a suspect: few cells are, so more of them cost little."""

# Past this half-width not even a slowdown of 20% could have been proven, so "pass" would be a lie.
WIDEST = math.log(1.20)

# A standard deviation of the log speedup below any clock's resolution. Keeps the logarithm of a
# variance finite when all launches agree to the last digit.
FINEST = 1e-6


class Outcome(StrEnum):
    """What is said of a cell."""

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
    """The outcome of one cell and the figures that it rests on.

    Speedups are geometric means over launches. `ratio`, `low`, `high` are speedup after / before
    and its interval; the arms' ratios are *times* after / before, so above 1 is slower. `launches`
    counts before, after and fresh ones. None where a cell was not measured on both sides.
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


def log_speedup(sequential: ArrayLike, parallel: ArrayLike) -> float:
    """Median over paired rounds of log(sequential / parallel); both 1-D, seconds, equally long.

    Pairs cancel what slows neighbouring rounds alike, the median what slows a few of them alone.
    """
    return float(_medians(sequential, parallel)[0])


def moderate(
    variances: ArrayLike, freedom: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances of several cells drawn towards their common value, and their degrees of freedom.

    With s^2 of d degrees of freedom each, and a scaled inverse chi-squared prior (d0, s0^2) fitted
    to all of them by the moments of log s^2: (d0 s0^2 + d s^2) / (d0 + d), of d0 + d degrees of
    freedom (Smyth 2004, section 6.2), at most as many as all cells have together.
    """
    s2 = np.maximum(np.asarray(variances, dtype=float), FINEST**2)
    d = np.asarray(freedom, dtype=float)
    if s2.size == 1:
        return s2, d
    e = np.log(s2) - special.digamma(d / 2) + np.log(d / 2)
    excess = e.var(ddof=1) - special.polygamma(1, d / 2).mean()
    if excess <= special.polygamma(1, d.sum() / 2):  # no more unequal than chance makes equals
        return np.full_like(s2, np.average(s2, weights=d)), np.full_like(d, d.sum())
    d0 = 2 * optimize.brentq(lambda y: special.polygamma(1, y) - excess, 1e-6, d.sum() / 2)
    s02 = math.exp(e.mean() + special.digamma(d0 / 2) - math.log(d0 / 2))
    return (d0 * s02 + d * s2) / (d0 + d), np.minimum(d0 + d, d.sum())


def judge(
    before: Side,
    after: Side,
    fresh: Side | None = None,
    *,
    tolerance: float = TOLERANCE,
    confidence: float = CONFIDENCE,
    oversubscribed: Collection[str] = (),
) -> list[Verdict]:
    """Verdicts on every cell of `before` and `after`, in that order.

    Call it first without `fresh`; launch the cells that `unsettled` names again, and call it with
    those launches as `fresh`, which settles them. `tolerance` is a slowdown of the parallel arm:
    0.05 lets the speedup fall to 1 / 1.05. `confidence` is that of each end of all intervals
    together. Cells in `oversubscribed` are estimated but not gated. ValueError on times that are
    no times.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance is a slowdown between 0 and 1 (5% is 0.05), not {tolerance}")
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence is between 0.5 and 1, not {confidence}")
    sides = (before, after, fresh or {})
    logs = {
        cell: tuple(_launches(side.get(cell, ())) for side in sides)
        for cell in before
        if cell in after
    }
    gated = [cell for cell in logs if cell not in oversubscribed]
    shown = [cell for cell in logs if cell in oversubscribed]
    level = 1 - (1 - confidence) / max(1, len(gated))
    enough = {cell: groups for cell, groups in logs.items() if _enough(groups)}
    # Oversubscribed cells are noisier by far: they do not lend their noise to the gated ones.
    noise = {
        cell: variance
        for kind in (gated, shown)
        for cell, variance in _noise({c: enough[c] for c in kind if c in enough}).items()
    }

    def verdict(cell: str) -> Verdict:
        if cell not in before:
            return Verdict(cell, Outcome.NEW, "not in the baseline", after=_speedup(after[cell]))
        if cell not in after:
            reason = "the baseline has this cell, this run did not measure it"
            return Verdict(cell, Outcome.MISSING, reason, before=_speedup(before[cell]))
        if cell not in enough:
            b, a, f = (len(group) for group in logs[cell])
            reason = f"{b} and {a} undisturbed launches, {MIN_LAUNCHES} a side are needed"
            outcome = Outcome.INCONCLUSIVE if cell in gated else Outcome.NOT_GATED
            return Verdict(cell, outcome, reason, launches=(b, a, f))
        return _settle(cell, enough[cell], noise[cell], level, tolerance, cell in gated)

    return [verdict(cell) for cell in [*before, *(c for c in after if c not in before)]]


def unsettled(verdicts: Iterable[Verdict]) -> list[str]:
    """Cells that fresh launches have to settle."""
    return [v.cell for v in verdicts if v.outcome in UNDECIDED and v.ratio is not None]


def _settle(
    cell: str,
    groups: tuple[NDArray[np.float64], ...],
    noise: tuple[float, float],
    level: float,
    tolerance: float,
    gated: bool,
) -> Verdict:
    """The verdict on a cell; groups are before, after and fresh, each (launches, 3)."""
    before, after, fresh = groups
    variance, freedom = noise
    # Fresh launches decide alone: the first ones were picked for being low, and would count twice.
    settled = len(fresh) >= MIN_LAUNCHES
    deciding = fresh if settled else after
    change, sequential, parallel = deciding.mean(axis=0) - before.mean(axis=0)
    half = stats.t.ppf(level, freedom) * math.sqrt(variance * (1 / len(before) + 1 / len(deciding)))
    bound = math.log1p(tolerance)
    first = after[:, 0].mean() - before[:, 0].mean()
    suspected, fell, rose = first < -bound, change < -bound, change > bound
    slowdown = f"as if the parallel arm were {math.expm1(-change):.1%} slower"
    arms = f"times: sequential {math.expm1(sequential):+.1%}, parallel {math.expm1(parallel):+.1%}"

    if not gated:
        outcome, reason = Outcome.NOT_GATED, "more ranks than cores: shown, not gated"
    elif suspected and not settled:
        outcome, reason = Outcome.SUSPECT, f"{slowdown}; fresh launches must confirm it"
    elif suspected and fell and change + half < 0:
        if -sequential > parallel:
            outcome = Outcome.SEQUENTIAL_FASTER
            reason = f"because the sequential arm got faster ({arms}); if meant, save a baseline"
        else:
            outcome, reason = Outcome.SLOWER, f"{slowdown}, confirmed ({arms})"
    elif fell:
        outcome = Outcome.INCONCLUSIVE
        reason = f"{slowdown}, " + ("but its interval holds 1" if suspected else "but not at first")
    elif half > WIDEST:
        outcome = Outcome.INCONCLUSIVE
        reason = f"too noisy: no slowdown below {math.expm1(half):.0%} could have been proven"
    elif suspected:
        outcome = Outcome.PASS
        reason = f"looked {math.expm1(-first):.1%} slower at first, not confirmed"
    elif rose and change - half > 0:
        if sequential > -parallel:
            outcome = Outcome.SEQUENTIAL_SLOWER
            reason = f"no gain: the speedup rose because the sequential arm got slower ({arms})"
        else:
            outcome, reason = Outcome.FASTER, f"the speedup rose by {math.expm1(change):.1%}"
    else:
        outcome, reason = Outcome.PASS, f"within {tolerance:.0%}"

    return Verdict(
        cell,
        outcome,
        reason,
        before=math.exp(before[:, 0].mean()),
        after=math.exp(deciding[:, 0].mean()),
        ratio=math.exp(change),
        low=math.exp(change - half),
        high=math.exp(change + half),
        sequential_ratio=math.exp(sequential),
        parallel_ratio=math.exp(parallel),
        launches=(len(before), len(after), len(fresh)),
    )


def _enough(groups: tuple[NDArray[np.float64], ...]) -> bool:
    before, after, _ = groups
    return min(len(before), len(after)) >= MIN_LAUNCHES


def _noise(cells: Mapping[str, tuple[NDArray[np.float64], ...]]) -> dict[str, tuple[float, float]]:
    """Moderated variance of one launch's log speedup, and its degrees of freedom, per cell."""
    if not cells:
        return {}
    samples = [[g[:, 0] for g in groups if len(g) > 1] for groups in cells.values()]
    freedom = [sum(x.size - 1 for x in groups) for groups in samples]
    squares = [sum(float(((x - x.mean()) ** 2).sum()) for x in groups) for groups in samples]
    variances, degrees = moderate(np.divide(squares, freedom), freedom)
    return {c: (float(v), float(d)) for c, v, d in zip(cells, variances, degrees, strict=True)}


def _launches(launches: Sequence[Arms]) -> NDArray[np.float64]:
    """(launches, 3): the `_medians` of each."""
    return np.array([_medians(*arms) for arms in launches]).reshape(-1, 3)


def _medians(sequential: ArrayLike, parallel: ArrayLike) -> NDArray[np.float64]:
    """Medians over the rounds of one launch of log speedup, log sequential, log parallel time."""
    seq, par = _logs(sequential), _logs(parallel)
    if seq.size != par.size:
        raise ValueError(f"rounds come in pairs, not {seq.size} sequential and {par.size} parallel")
    return np.median([seq - par, seq, par], axis=1)


def _logs(times: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(times, dtype=float)
    if array.ndim != 1 or array.size == 0 or not np.all(np.isfinite(array) & (array > 0)):
        raise ValueError("round times are a 1-D array of at least one positive number of seconds")
    return np.log(array)


def _speedup(launches: Sequence[Arms]) -> float | None:
    return math.exp(_launches(launches)[:, 0].mean()) if launches else None
