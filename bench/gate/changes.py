"""Find steps and drifts in the histories of cells: arrays in, changes out. Knows nothing of files.

A history is a cell's log speedup in each baseline, in order of time. The sampling unit is the
**baseline**: launches of one baseline share the state of the machine on that day, so ten launches
of one day are one sample.

Three models compete with "no change": a step between two baselines; an episode, which is a step and
one back or further on; and a straight line over all baselines. Each is measured by how much it
lowers the sum of squares, in units of the noise that the best of them leaves. Episodes are there
since a slowdown that was mended hides itself: about half of the baselines on either side of it are
fast (Olshen et al., "Circular binary segmentation", Biostatistics 5, 2004).

The largest gain over all places for a step has no distribution in tables, so it is drawn: histories
of normal noise, as many and as long as the real ones, go through the same computation (a
Monte-Carlo test, Barnard 1963), and the largest gain over all cells of each is kept. A cell has
changed if less than LEVEL / 2 of these are as large as its own, since there are two tests, one of
steps and one of lines. So a grid in which nothing has changed is left alone in all but LEVEL of
cases, however many cells it has.

Permutations of baselines would need no normal noise, and no permutation test can find a step in
five baselines: there are too few permutations. "Hunter" gave them up for the same reason (Fleming
et al., "Hunter: Using Change Point Detection to Hunt for Performance Regressions", ICPE 2023).

Few baselines are too few to learn a cell's noise, so cells lend each other theirs
(`statistics.moderate`). At least EDGE baselines lie on each side of a step, and a single odd
baseline, where that explains a history better than any change, is none. Found changes are taken
out and the rest is searched again, until nothing is found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from bench.gate.statistics import moderate

Array = NDArray[np.float64]

LEVEL = 0.01
"""Share of the histories of unchanged grids in which a change is found."""

EDGE = 2
"""Fewest baselines on either side of a step."""

MIN_BASELINES = 2 * EDGE + 1
"""Fewest baselines in which a change can be found."""

DRAWS = 4000
"""Histories without a change that real ones are compared with."""

MOST = 6
"""Changes of one cell after which the search ends."""

PLACES = -2 * math.log(1 - math.sqrt(0.95))
"""95% quantile of the likelihood ratio of a step's place (Hansen, "Sample splitting and threshold
estimation", Econometrica 68, 2000, table 1: 7.35)."""

TINY = float(np.finfo(float).tiny)

POWER = stats.norm.ppf(0.9)


class Kind(StrEnum):
    """How a speedup changed."""

    STEP = "step"
    DRIFT = "drift"


@dataclass(frozen=True)
class Change:
    """A change of one cell; baselines are counted from 0 in the cell's own history.

    Attributes:
        at: the first baseline after a step; 0 for a drift, which is over the whole history.
        earliest, latest: the 95% interval of `at`.
        size: change of the log speedup: at the step, or from the first baseline to the last. Below
            0 it fell.
        low, high: the 95% interval of `size`, if the place is right.
        p: how often a grid without a change shows one as large in some cell.
    """

    kind: Kind
    at: int
    earliest: int
    latest: int
    size: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Searched:
    """What a cell's history holds.

    Attributes:
        changes: in order of time, drifts first.
        noise: standard deviation of the log speedup from baseline to baseline, without changes.
        least_step, least_recent_step, least_drift: changes of the log speedup that would be found
            in 9 of 10 such histories: a step half-way, one before the newest EDGE baselines, and a
            drift from the first baseline to the last.
    """

    changes: Sequence[Change]
    noise: float
    least_step: float
    least_recent_step: float
    least_drift: float


@dataclass(frozen=True)
class _Null:
    """The largest gains over all cells in histories of unit noise without a change, sorted.

    Attributes:
        noise: the mean of the variances that are estimated there: below 1, since the best model
            takes some of the noise for a change.
    """

    step: Array
    drift: Array
    noise: float

    def p(self, kind: Kind, gain: float) -> float:
        """The share of histories with a gain as large, for both tests together."""
        drawn = self.step if kind is Kind.STEP else self.drift
        larger = len(drawn) - int(np.searchsorted(drawn, gain))
        return min(1.0, 2 * (1 + larger) / (1 + len(drawn)))


def search(histories: Mapping[str, ArrayLike], level: float = LEVEL) -> dict[str, Searched]:
    """Search the histories of several cells, which are judged together.

    Args:
        histories: cell id -> (baselines,) log speedups in order of time, at least MIN_BASELINES.
            Cells may differ in the number of baselines.
        level: see LEVEL.

    Raises:
        ValueError: a history is too short, or holds what is no finite number.
    """
    arrays = {cell: np.asarray(values, dtype=float) for cell, values in histories.items()}
    for cell, values in arrays.items():
        if values.ndim != 1 or len(values) < MIN_BASELINES or not np.isfinite(values).all():
            raise ValueError(f"{cell}: expected at least {MIN_BASELINES} finite log speedups")
    if not arrays:
        return {}
    null = _null(tuple(len(values) for values in arrays.values()))
    found: dict[str, list[_Part]] = {cell: [] for cell in arrays}
    while True:
        rest = {cell: values - fitted(values, found[cell]) for cell, values in arrays.items()}
        scans = [_scan(values[None]) for values in rest.values()]
        noise, freedom = _moderated(scans)
        new = False
        for cell, scan, variance in zip(rest, scans, noise, strict=True):
            parts = _likeliest(scan, float(variance), null)
            if _is_new(parts, found[cell], level):
                found[cell] += parts
                new = True
        if not new:
            break
    return {
        cell: _described(
            values, found[cell], float(variance) / null.noise, float(degrees), null, level
        )
        for (cell, values), variance, degrees in zip(arrays.items(), noise, freedom, strict=True)
    }


@dataclass(frozen=True)
class _Part:
    """A change whose size is not fitted yet."""

    kind: Kind
    at: int
    p: float


@dataclass(frozen=True)
class _Scan:
    """By how much each model lowers the sum of squares of R histories of one length.

    Attributes:
        steps: (R, places) a step before baseline EDGE, EDGE + 1, ...
        episode: (R,) the best two steps, up and down again; 0 in histories too short for any.
        places: (R, 2) of these.
        drift: (R,) a line.
        odd: (R,) a single baseline that lies off.
        rest: (R,) the sum of squares that the best of them leaves, but for the odd baseline.
        freedom: its degrees, less one for the choice of the place.
    """

    steps: Array
    episode: Array
    places: NDArray[np.intp]
    drift: Array
    odd: Array
    rest: Array
    freedom: int


def _scan(values: Array) -> _Scan:
    """Fit a step at each place, two steps at each pair of places, and a line, to (R, length)."""
    length = values.shape[1]
    centred = values - values.mean(axis=1, keepdims=True)
    before = np.arange(EDGE, length - EDGE + 1)
    sums = np.cumsum(centred, axis=1)[:, before - 1]
    steps = sums**2 * length / (before * (length - before))
    episode, places = _best_episode(sums, length)
    ramp = np.arange(length) - (length - 1) / 2
    drift = (centred @ ramp) ** 2 / (ramp @ ramp)
    odd = (centred**2).max(axis=1) * length / (length - 1)
    best = np.maximum(np.maximum(steps.max(axis=1), episode), drift)
    rest = np.maximum((centred**2).sum(axis=1) - best, 0.0)
    return _Scan(steps, episode, places, drift, odd, rest, length - 3)


def _best_episode(sums: Array, length: int) -> tuple[Array, NDArray[np.intp]]:
    """Return the largest gain of an episode whose level differs from before and after, and where.

    Args:
        sums: (R, places) of the centred values before each place.
    """
    rows = np.arange(len(sums))
    gain, places = np.zeros(len(sums)), np.zeros((len(sums), 2), dtype=np.intp)
    for begin in range(sums.shape[1] - EDGE):
        during = np.arange(EDGE, sums.shape[1] - begin)
        inside = sums[:, begin + EDGE :] - sums[:, begin, None]
        gains = inside**2 * length / (during * (length - during))
        best = gains.argmax(axis=1)
        better = gains[rows, best] > gain
        gain[better] = gains[rows, best][better]
        places[better] = np.stack([np.full(len(sums), begin), begin + EDGE + best], axis=1)[better]
    return gain, places + EDGE


def _moderated(scans: Sequence[_Scan]) -> tuple[Array, Array]:
    """Return the noise variance of each cell and its degrees of freedom, for one history each."""
    freedom = [scan.freedom for scan in scans]
    return moderate([float(scan.rest[0]) / scan.freedom for scan in scans], freedom)


@lru_cache(maxsize=16)
def _null(lengths: tuple[int, ...]) -> _Null:
    """Draw the largest gains over cells whose histories have these lengths and no change."""
    rng = np.random.default_rng(0)
    scans = [_scan(rng.standard_normal((DRAWS, length))) for length in lengths]
    freedom = np.array([scan.freedom for scan in scans], dtype=float)
    rests = np.array([scan.rest / scan.freedom for scan in scans]).T
    variances = np.array([moderate(rest, freedom)[0] for rest in rests]).T
    pairs = list(zip(scans, variances, strict=True))
    steps = [np.maximum(scan.steps.max(axis=1), scan.episode) / v for scan, v in pairs]
    drifts = [scan.drift / v for scan, v in pairs]
    step, drift = (np.sort(np.max(gains, axis=0)) for gains in (steps, drifts))
    return _Null(step, drift, float(variances.mean()))


def _likeliest(scan: _Scan, variance: float, null: _Null) -> list[_Part]:
    """Return a step, two steps, or a drift, by Schwarz' criterion; each place is a parameter.

    Nothing is returned where a single odd baseline is likelier than all of these.
    """
    place = int(scan.steps[0].argmax())
    step, episode, drift, odd = (
        float(gain[0]) for gain in (scan.steps[:, place], scan.episode, scan.drift, scan.odd)
    )
    length = scan.freedom + 3
    total = float(scan.rest[0]) + max(step, episode, drift)

    def criterion(gain: float, places: int) -> float:
        return length * math.log(max(total - gain, TINY)) + places * math.log(length)

    def steps(gain: float, *places: int) -> list[_Part]:
        return [_Part(Kind.STEP, at, null.p(Kind.STEP, gain / variance)) for at in places]

    models = [
        (criterion(drift, 0), [_Part(Kind.DRIFT, 0, null.p(Kind.DRIFT, drift / variance))]),
        (criterion(step, 1), steps(step, place + EDGE)),
        (criterion(episode, 2), steps(episode, *map(int, scan.places[0]))),
        (criterion(odd, 1), []),
    ]
    return min(models, key=lambda model: model[0])[1]


def _is_new(parts: Sequence[_Part], found: Sequence[_Part], level: float) -> bool:
    """Tell whether changes are larger than chance, and no step of theirs stands beside another."""
    if not parts or parts[0].p > level or len(found) >= MOST:
        return False
    if parts[0].kind is Kind.DRIFT:
        return not any(part.kind is Kind.DRIFT for part in found)
    places = [part.at for part in found if part.kind is Kind.STEP]
    return all(abs(part.at - at) >= EDGE for part in parts for at in places)


def sizes(values: Array, changes: Sequence[Change | _Part]) -> Array:
    """Return the level before all changes and the size of each, by least squares."""
    return np.asarray(np.linalg.lstsq(_design(len(values), changes), values)[0], dtype=float)


def fitted(values: Array, changes: Sequence[Change | _Part]) -> Array:
    """Return the least squares fit of all changes together."""
    return np.asarray(_design(len(values), changes) @ sizes(values, changes), dtype=float)


def fall(fit: Array) -> float:
    """Return by how much a fitted log speedup lies below its best at the end; 0 if it is best."""
    return float(fit.max() - fit[-1])


def _design(length: int, changes: Sequence[Change | _Part]) -> Array:
    shapes = [_shape(change.kind, change.at, length) for change in changes]
    return np.column_stack([np.ones(length), *shapes])


def _shape(kind: Kind, at: int, length: int) -> Array:
    """Return a change of size 1 as a history."""
    if kind is Kind.STEP:
        return (np.arange(length) >= at).astype(float)
    return np.linspace(0, 1, length)


def _described(
    values: Array, parts: list[_Part], variance: float, freedom: float, null: _Null, level: float
) -> Searched:
    """Place each step once more, with the other changes taken out, and fit all sizes together."""
    length = len(values)
    placed, likely = list(parts), [(0, 0)] * len(parts)
    for number, part in enumerate(parts):
        if part.kind is Kind.STEP:
            others = [*placed[:number], *placed[number + 1 :]]
            at, likely[number] = _place(values, part, others, variance)
            placed[number] = replace(part, at=at)
    design = _design(length, placed)
    spread = np.sqrt(variance * np.diag(np.linalg.pinv(design.T @ design)))
    widths = stats.t.ppf(0.975, freedom) * spread
    changes = [
        Change(part.kind, part.at, *span, size, size - width, size + width, part.p)
        for part, span, size, width in zip(
            placed, likely, sizes(values, placed)[1:].tolist(), widths[1:].tolist(), strict=True
        )
    ]
    deviation, half_way = math.sqrt(variance), length // 2
    step, drift = (float(np.quantile(drawn, 1 - level / 2)) for drawn in (null.step, null.drift))
    ramp = np.linspace(-0.5, 0.5, length)

    def least(gain: float, squares: float) -> float:
        return float(deviation * (math.sqrt(gain) + POWER) / math.sqrt(squares))

    return Searched(
        changes=sorted(changes, key=lambda change: change.at),
        noise=deviation,
        least_step=least(step, half_way * (length - half_way) / length),
        least_recent_step=least(step, EDGE * (length - EDGE) / length),
        least_drift=least(drift, float(ramp @ ramp)),
    )


def _place(
    values: Array, part: _Part, others: Sequence[_Part], variance: float
) -> tuple[int, tuple[int, int]]:
    """Return the likeliest place of a step between its neighbours, and its 95% interval."""
    length = len(values)
    of_others = _design(length, others)[:, 1:] @ sizes(values, [*others, part])[1:-1]
    gains = _scan((values - of_others)[None]).steps[0]
    steps = [other.at for other in others if other.kind is Kind.STEP]
    first = max((at + EDGE for at in steps if at < part.at), default=EDGE)
    last = min((at - EDGE for at in steps if at > part.at), default=length - EDGE)
    gains = gains[first - EDGE : last - EDGE + 1]
    likely = np.flatnonzero(gains >= gains.max() - PLACES * variance) + first
    return int(gains.argmax()) + first, (int(likely[0]), int(likely[-1]))
