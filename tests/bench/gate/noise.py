"""Synthetic round times with the faults of real ones, at the sizes measured on a shared machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

CELLS = tuple(f"cell-{number}" for number in range(6))


@dataclass(frozen=True)
class Noise:
    """Standard deviations of logarithms, except where said otherwise.

    Across launches the speedup of one cell varies by 1.2 to 2.4% and each arm by 3 to 4%
    (design, section 6), of which the median over noisy rounds is a part. With the other defaults
    it contributes 1.1%: `launch` of 0.014 makes 1.8%, the middle, and 0.021 the worst, 2.4%.
    """

    launch: float = 0.014
    """Of the speedup between launches: memory layout, placement."""
    common: float = 0.035
    """Of both arms together between launches: the machine's speed that day."""
    cells: float = 0.0
    """Share of the launch effect that all cells of a launch have in common, 0 to 1."""
    pair: float = 0.05
    """Of both rounds of a pair together: correlated arms."""
    round: float = 0.02
    """Of each single round."""
    drift: float = 0.0
    """Logarithm by which both arms slow down from a launch's first round to its last."""
    outliers: float = 0.1
    """Share of rounds that take up to four times as long."""
    tail: float = np.inf
    """Degrees of freedom of the launch effect's Student t; infinity is normal."""
    rounds: int = 15


@dataclass(frozen=True)
class Program:
    """What is to be measured: seconds of each arm, and slowdowns of single cells' arms."""

    sequential: float = 2.2e-3
    parallel: float = 1.4e-3
    slower_parallel: Mapping[str, float] = field(default_factory=dict)
    slower_sequential: Mapping[str, float] = field(default_factory=dict)

    def slowed(self, cell: str, amount: float) -> Program:
        return replace(self, slower_parallel={cell: amount})


def side(
    rng: np.random.Generator,
    noise: Noise = Noise(),
    program: Program = Program(),
    launches: int = 3,
    cells: tuple[str, ...] = CELLS,
) -> dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """That many launches of every cell."""
    measured: dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]] = {
        cell: [] for cell in cells
    }
    for _ in range(launches):
        shared = _launch_effect(rng, noise)
        machine = rng.normal(0, noise.common)
        for cell in cells:
            own = _launch_effect(rng, noise)
            effect = noise.launch * (np.sqrt(noise.cells) * shared + np.sqrt(1 - noise.cells) * own)
            pair = rng.normal(0, noise.pair, noise.rounds)
            both = machine + pair + np.linspace(0, noise.drift, noise.rounds)
            sequential = program.sequential * (1 + program.slower_sequential.get(cell, 0))
            parallel = program.parallel * (1 + program.slower_parallel.get(cell, 0))
            measured[cell].append(
                (
                    sequential * np.exp(both + _rounds(rng, noise)),
                    parallel * np.exp(both + _rounds(rng, noise) - effect),
                )
            )
    return measured


def _launch_effect(rng: np.random.Generator, noise: Noise) -> float:
    """Of unit variance, so that `launch` keeps its meaning whatever the tails."""
    if np.isinf(noise.tail):
        return rng.normal()
    return rng.standard_t(noise.tail) / np.sqrt(noise.tail / (noise.tail - 2))


def _rounds(rng: np.random.Generator, noise: Noise) -> NDArray[np.float64]:
    outlier = rng.random(noise.rounds) < noise.outliers
    slow = rng.uniform(0, np.log(4), noise.rounds) * outlier
    return rng.normal(0, noise.round, noise.rounds) + slow
