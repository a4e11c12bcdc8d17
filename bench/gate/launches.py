"""What launches of the grid measured: the samples that the gate compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.core.background_load import disturbed
from bench.gate.layout import Layout
from bench.gate.statistics import PairedTimes


@dataclass(frozen=True)
class Launch:
    """The cells that one launch measured.

    Attributes:
        cells: cell id -> its line, with the `background_load` while it was measured.
        requested: the cells that it was to measure; None is the whole grid.
        failure: how it failed, if it did; follows "a launch".
        layout: of its memory; None if it was not recorded.
    """

    cells: dict[str, dict[str, Any]]
    requested: frozenset[str] | None = None
    failure: str | None = None
    layout: Layout | None = None

    def disturbed(self) -> list[str]:
        """List the cells that other programs took processor time from."""
        return [
            cell
            for cell, line in self.cells.items()
            if disturbed(background_load(line), line["workers"])
        ]


def background_load(line: dict[str, Any]) -> float:
    """Return how many cores other programs kept busy while the cell was measured."""
    return line.get("background_load", line.get("foreign", 0.0))  # its name in older baselines


def seconds_per_step(line: dict[str, Any]) -> PairedTimes:
    """Return the round times *per step*: launches may differ in the steps of a round."""
    steps, rounds = line["steps_per_round"], line["rounds"]
    return [t / steps for t in rounds["sequential"]], [t / steps for t in rounds["parallel"]]


def undisturbed_launches(launches: Sequence[Launch]) -> dict[str, list[PairedTimes]]:
    """Return the undisturbed launches of every measured cell, for `statistics.judge`."""
    return {
        cell: [
            seconds_per_step(launch.cells[cell])
            for launch in launches
            if cell in launch.cells and cell not in launch.disturbed()
        ]
        for cell in every_cell(launches)
    }


def unmeasured_cells(launches: Sequence[Launch]) -> set[str]:
    """Return the cells that a launch was to measure and did not: they failed or it crashed."""
    return {
        cell
        for launch in launches
        for cell in (every_cell(launches) if launch.requested is None else launch.requested)
        if cell not in launch.cells
    }


def every_cell(launches: Sequence[Launch]) -> list[str]:
    """List the cells that any launch measured, in their order."""
    return list(dict.fromkeys(cell for launch in launches for cell in launch.cells))


def oversubscribed_cells(launches: Sequence[Launch]) -> set[str]:
    """Return the cells with more ranks than cores."""
    return {c for launch in launches for c, line in launch.cells.items() if line["oversubscribed"]}


def devices(launches: Sequence[Launch]) -> set[str]:
    """Return the devices that the cells ran on, which are part of a machine's fingerprint."""
    return {line["device"] for launch in launches for line in launch.cells.values()}


def notes(launches: Sequence[Launch]) -> list[str]:
    """Say what a reader of the verdicts has to know about the launches."""
    said = [f"a launch {launch.failure}" for launch in launches if launch.failure]
    disturbed = sum(len(launch.disturbed()) for launch in launches)
    total = sum(len(launch.cells) for launch in launches)
    if disturbed:
        said.append(
            f"{disturbed} of {total} measurements are left out: other programs used the processor"
        )
    return said
