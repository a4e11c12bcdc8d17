"""The three regimes of batch sizes, by fit: doubling halves the steps, saves some, saves nothing.

Shallue et al., "Measuring the effects of data parallelism on neural network training" (JMLR
20(112), 2019), section 4.1, name them: perfect scaling, diminishing returns, maximal data
parallelism. McCandlish et al., "An empirical model of large-batch training" (2018), section 2.3,
give the steps S and examples E to a target a form: (S / S_min - 1) (E / E_min - 1) = 1. With
E = B S for batches of B rows, that is S = S_min (1 + c / B), where c = E_min / S_min is the
critical batch size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from bench.report.batch_sizes import Interval

HALVES_WITHIN = 0.2
"""Doubling still halves the steps if they are at most this much above the half."""

PAYS_ABOVE = 0.1
"""Doubling pays if it saves more than this share of the steps."""

BLUNTEST, SHARPEST = 0.5, 8.0
"""Limits of the sharpness of a curve."""


@dataclass(frozen=True)
class Curve:
    """Steps to a target: S = fewest_steps (1 + (critical / B)^sharpness)^(1 / sharpness).

    Attributes:
        fewest_steps: that batches of any size need.
        critical: the batch size at which the lines of perfect scaling and of the fewest steps meet.
        sharpness: how soon the one goes over into the other; 1 in the form of McCandlish et al.
    """

    fewest_steps: float
    critical: float
    sharpness: float = 1.0

    @property
    def fewest_examples(self) -> float:
        """Rows that batches of any size need."""
        return self.fewest_steps * self.critical

    def steps(self, batch_sizes: ArrayLike) -> np.ndarray:
        over = (self.critical / np.asarray(batch_sizes, float)) ** self.sharpness
        return self.fewest_steps * (1 + over) ** (1 / self.sharpness)

    @property
    def halves_until(self) -> float:
        """The batch size up to which doubling it halves the steps, within HALVES_WITHIN."""
        return self._doubling_leaves((1 + HALVES_WITHIN) / 2)

    @property
    def pays_until(self) -> float:
        """The batch size up to which doubling it saves more than PAYS_ABOVE of the steps."""
        return self._doubling_leaves(1 - PAYS_ABOVE)

    def _doubling_leaves(self, share: float) -> float:
        """Return the batch size B at which 2 B rows need this share of the steps of B rows."""
        power, half = share**self.sharpness, 0.5**self.sharpness
        return self.critical * ((power - half) / (1 - power)) ** (1 / self.sharpness)


def fit(
    batch_sizes: Sequence[float], steps: Sequence[float], sharpness: float | None = None
) -> Curve | None:
    """Fit a curve to the steps that batch sizes needed, by least squares of their logarithms.

    Args:
        steps: of each batch size; those that never arrived (infinity) are left out.
        sharpness: of the curve; None fits it too.

    Returns:
        The curve; None if fewer batch sizes have arrived than it has parameters, and one more.
    """
    sizes, needed = np.asarray(batch_sizes, float), np.asarray(steps, float)
    arrived = np.isfinite(needed)
    sizes, needed = sizes[arrived], needed[arrived]
    unknown = 2 if sharpness else 3
    if len(np.unique(sizes)) <= unknown:
        return None
    # A curve that is straight over all sizes bends far outside of them, no matter where.
    span = math.log(sizes.max() / sizes.min())
    low = [math.log(needed.min()) - 3 * span, math.log(sizes.min()) - 2 * span, math.log(BLUNTEST)]
    high = [math.log(needed.max()) + 1, math.log(sizes.max()) + 2 * span, math.log(SHARPEST)]

    def curve(logarithms: np.ndarray) -> Curve:
        return Curve(*map(float, np.exp(logarithms)), *([sharpness] if sharpness else []))

    def misfits(logarithms: np.ndarray) -> np.ndarray:
        return np.log(curve(logarithms).steps(sizes)) - np.log(needed)

    best = None
    for size in sizes:  # from several beginnings, since the misfit may have more than one minimum
        begin = [math.log(needed.min()), math.log(size), math.log(2)][:unknown]
        found = optimize.least_squares(misfits, begin, bounds=(low[:unknown], high[:unknown]))
        if best is None or found.cost < best.cost:
            best = found
    assert best is not None
    return curve(best.x)


def over_seeds(values: Sequence[float]) -> Interval:
    """Return the geometric mean of a figure over seeds, with its 95% interval by Student's t.

    The seed is the unit: figures of other seeds are as good. The tuned settings, which all seeds
    share, are not drawn anew, so their luck is not in the interval.

    Args:
        values: positive; infinity and nan are left out. Without two that are left, the interval is
            from 0 to infinity; without one, the mean is nan.
    """
    known = [value for value in values if 0 < value < math.inf]
    logarithms = np.log(known)
    mean = float(np.exp(logarithms.mean())) if known else math.nan
    if len(known) < 2:
        return Interval(mean, 0.0, math.inf)
    half = stats.t.ppf(0.975, len(known) - 1) * logarithms.std(ddof=1) / math.sqrt(len(known))
    return Interval(mean, mean * math.exp(-half), mean * math.exp(half))
