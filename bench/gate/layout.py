"""The memory layout of a launch, changed on purpose from one launch to the next.

A program's speed depends on where its memory lies, and that depends on the size of the environment:
two programs compared in one layout may differ by that layout alone (Mytkowicz et al., "Producing
wrong data without doing anything obviously wrong!", ASPLOS 2009). With a layout drawn anew for each
launch, this bias becomes noise between launches, which the gate measures.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import numpy as np

from strategies.records import Record

HASH_SEED: Final = "PYTHONHASHSEED"
"""Environment variable of Python: the seed of the order of sets, and of where their items lie."""

PADDING: Final = "LOCKSTEP_PADDING"
"""Environment variable of a launch that nobody reads; it moves the stack."""

PAGE = 4096
"""Bytes; a padding is shorter."""


@dataclass(frozen=True)
class Layout(Record, kind="launch layout"):
    """What moves the memory of all ranks of a launch.

    Attributes:
        number: of the launch, from 0 on; what follows is drawn from it.
        hash_seed: the value of HASH_SEED, the same on every rank.
        padding: the length of PADDING in bytes.
    """

    number: int
    hash_seed: str
    padding: int

    @classmethod
    def of_launch(cls, number: int) -> Layout:
        """Draw the layout of a launch, always the same; a hash seed that the user has set stays.

        The seed "random" is none: each rank would draw one of its own.
        """
        seed, padding = np.random.default_rng(number).integers([2**32, PAGE])
        given = os.environ.get(HASH_SEED, "")
        return cls(number, given if given.isdecimal() else str(seed), int(padding))

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the launch."""
        return {HASH_SEED: self.hash_seed, PADDING: "x" * self.padding}
