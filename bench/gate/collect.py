"""Launch the grids of one or two checkouts in turn, until enough launches are undisturbed."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from bench.gate.launcher import start
from bench.gate.launches import Launch, background_load, undisturbed_launches
from bench.gate.named_paths import named_paths


@dataclass
class Grid:
    """The benchmark grid of one checkout.

    Attributes:
        ranks: how many processes a launch has.
        arguments: for pytest: options, and paths or node ids to launch a part of the grid.
        root: the checkout.
        label: its name in messages and logs.
        nodes: cell id -> pytest node id, of the cells seen so far.
        launched: how often it was launched so far. Grids that take turns are launched equally
            often, so both launches of a pair have one number, and one `Layout`.
    """

    ranks: int
    arguments: Sequence[str] = ()
    root: Path = field(default_factory=Path.cwd)
    label: str = ""
    console: Console = field(default_factory=lambda: Console(stderr=True))
    nodes: dict[str, str] = field(default_factory=dict)
    launched: int = 0

    def launch(self, only: Collection[str] | None = None) -> Launch:
        """Launch the grid, or only some cells; what was measured is kept even if it fails."""
        nodes = [self.nodes[cell] for cell in only or () if cell in self.nodes]
        if only is not None and len(nodes) < len(only):
            nodes, only = [], None  # the test of a cell is unknown, so launch the whole grid
        named = named_paths(self.arguments, self.root)
        options = [argument for argument in self.arguments if argument not in named]
        command = ["-m", "pytest", *(nodes or named or ["bench"]), "--cells", *options]
        launch = start(self.ranks, command, self.root, self.label, self.launched)
        self.launched += 1
        self.nodes |= {cell: line["nodeid"] for cell, line in launch.cells.items()}
        if only is None:
            return launch
        cells = {cell: line for cell, line in launch.cells.items() if cell in only}
        return replace(launch, cells=cells, requested=frozenset(only))


def collect(
    grids: Sequence[Grid],
    launches: int,
    only: Collection[str] | None = None,
    keep: Callable[[Grid, Launch], None] = lambda grid, launch: None,
) -> list[list[Launch]]:
    """Launch every grid `launches` times, and up to as often again for disturbed cells.

    Grids take turns in changing order (A B, B A, A B), so that a slow drift of the machine affects
    them alike.

    Args:
        only: the cells to launch; None is the whole grid.
        keep: called with each launch as soon as it has ended.

    Returns:
        For each grid its launches.
    """
    done: list[list[Launch]] = [[] for _ in grids]
    wanted = only
    for turn in range(2 * launches):
        if turn >= launches:
            usable = [item for own in done for item in undisturbed_launches(own).items()]
            wanted = list(dict.fromkeys(cell for cell, own in usable if len(own) < launches))
            if not wanted:
                break
        order = list(zip(grids, done, strict=True))
        for grid, own in order if turn % 2 == 0 else reversed(order):
            purpose = " again, for disturbed cells" if turn >= launches else f" of {launches}"
            own.append(_announced(grid, f"launch {turn + 1}{purpose}", wanted))
            keep(grid, own[-1])
    return done


def _announced(grid: Grid, name: str, only: Collection[str] | None) -> Launch:
    start = time.monotonic()
    name = f"{grid.label} {name}".strip()
    with grid.console.status(f"{name} ..."):
        launch = grid.launch(only)
    note = f"{name}: {len(launch.cells)} cells in {time.monotonic() - start:.0f} s"
    if disturbed := launch.disturbed():
        worst = max(background_load(launch.cells[cell]) for cell in disturbed)
        note += f", {len(disturbed)} disturbed by other programs (up to {worst:.1f} cores)"
    if launch.failure:
        note += f", {launch.failure}"
    grid.console.print(note, highlight=False, soft_wrap=True)
    return launch
