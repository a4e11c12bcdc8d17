"""How long ranks wait for the slowest of them."""

import math
from collections.abc import Sequence
from functools import cache

from scipy import integrate, stats


@cache
def largest(ranks: int) -> float:
    """Return the expected largest of so many standard normal values (David, Nagaraja, 2003, 3.1).

    It is 0 for one, 0.56 for 2, 3.2 for 1,024.
    """
    value, _ = integrate.quad(
        lambda x: x * ranks * stats.norm.pdf(x) * stats.norm.cdf(x) ** (ranks - 1), -10, 12
    )
    return float(value)


def slowdown(sigma: float, ranks: int) -> float:
    """Return how much later the slowest of `ranks` ends than one of them, of log-normal steps."""
    return math.exp(sigma * largest(ranks))


def spread(steps: Sequence[tuple[float, float]]) -> float:
    """Return the median spread (sigma of the logarithm) of steps with (median, 95% quantile)."""
    sigmas = sorted(math.log(p95 / p50) / stats.norm.ppf(0.95) for p50, p95 in steps)
    return float(sigmas[len(sigmas) // 2]) if sigmas else 0.0
