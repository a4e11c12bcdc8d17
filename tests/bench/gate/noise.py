"""Synthetic round times with the faults of real ones, as large as measured on a shared machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

CELLS = tuple(f"cell-{number}" for number in range(6))


@dataclass(frozen=True)
class Noise:
    """The noise of round times: standard deviations of logarithms, if nothing else is said.

    From launch to launch the speedup of a real cell varies by 1.2 to 2.4%, and each arm by 3 to 4%.
    The median over noisy rounds contributes 1.1% with the other defaults, so a `launch` of 0.014
    makes 1.8%, the middle, and one of 0.021 makes 2.4%, the worst.

    Attributes:
        launch: of the speedup from launch to launch: memory layout, placement on cores.
        common: of both arms together from launch to launch: the speed of the machine that day.
        cells: share of the launch effect that all cells of a launch have in common, 0 to 1.
        pair: of both rounds of a pair together, which correlates the arms.
        round: of each single round.
        drift: logarithm by which both arms slow down from a launch's first round to its last.
        outliers: share of the rounds that take up to four times as long.
        tail: degrees of freedom of the launch effect's Student t; infinity is normal.
        rounds: of each arm in a launch.
    """

    launch: float = 0.014
    common: float = 0.035
    cells: float = 0.0
    pair: float = 0.05
    round: float = 0.02
    drift: float = 0.0
    outliers: float = 0.1
    tail: float = np.inf
    rounds: int = 15


@dataclass(frozen=True)
class Program:
    """The measured program: seconds of each arm, and slowdowns of single cells."""

    sequential: float = 2.2e-3
    parallel: float = 1.4e-3
    slower_parallel: Mapping[str, float] = field(default_factory=dict)
    slower_sequential: Mapping[str, float] = field(default_factory=dict)

    def slowed(self, cell: str, amount: float) -> Program:
        return replace(self, slower_parallel={cell: amount})


def measure(
    rng: np.random.Generator,
    noise: Noise = Noise(),
    program: Program = Program(),
    launches: int = 3,
    cells: tuple[str, ...] = CELLS,
) -> dict[str, list[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Draw the round times of every cell in that many launches."""
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
    """Draw an effect of unit variance, so that `launch` means the same for every tail."""
    if np.isinf(noise.tail):
        return rng.normal()
    return rng.standard_t(noise.tail) / np.sqrt(noise.tail / (noise.tail - 2))


def _rounds(rng: np.random.Generator, noise: Noise) -> NDArray[np.float64]:
    outlier = rng.random(noise.rounds) < noise.outliers
    slow = rng.uniform(0, np.log(4), noise.rounds) * outlier
    return rng.normal(0, noise.round, noise.rounds) + slow
