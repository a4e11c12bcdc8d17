"""Find steps and drifts of speedups over all saved baselines of this machine.

    python -m bench.gate.history [-k TEXT] [--since 7] [--tolerance 5%] [-n N] [--json F]

`bench_compare` against one baseline lets a slowdown of 4% a week through for ever. This program
launches nothing: it reads what `bench_mpi -- --save NAME` has saved, and names the baseline and the
commit in which the speedup of a cell changed.

Exit codes: 0 no cell is slower than at its best by more than the tolerance; 1 a cell is; 2 wrong
usage, or no usable baseline; 3 incomparable: all baselines are of another machine or other
libraries; 4 inconclusive: too few baselines, or too much noise. Only 0 is a pass.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from bench.gate.baselines import Baseline
from bench.gate.changes import MIN_BASELINES, Array, Kind, Searched, fall, fitted, search, sizes
from bench.gate.command_line import (
    judge_and_publish,
    make_interruptible,
    output_file,
    rank_count,
    tolerance,
)
from bench.gate.comparable import Chosen, choose, since
from bench.gate.history_report import (
    CellHistory,
    History,
    Located,
    describe,
    keep,
    show,
    write,
)
from bench.gate.launches import oversubscribed_cells, undisturbed_launches
from bench.gate.statistics import (
    MAX_HALF_WIDTH,
    MIN_LAUNCHES,
    TOLERANCE,
    Outcome,
    log_medians,
)
from bench.gate.storage import STORAGE
from bench.gate.verdicts import Unusable
from bench.report.run_file import SESSION


@dataclass(frozen=True)
class Series:
    """A cell in the baselines that measured it.

    Attributes:
        baselines: in order of time.
        values: (baselines, 3) log speedup, log sequential and log parallel time: means over the
            undisturbed launches of each baseline.
    """

    baselines: Sequence[Baseline]
    values: Array


def judge(chosen: Chosen, wanted: Sequence[str] = (), allowed: float = TOLERANCE) -> History:
    """Judge the cells of the chosen baselines.

    Args:
        wanted: parts of the ids of cells; a cell is looked at if it has one of them. None is all.
        allowed: the slowdown of the parallel arm that a cell may have.

    Raises:
        Unusable: no cell is wanted.
    """
    series = {
        cell: own
        for cell, own in cell_series(chosen.baselines).items()
        if not wanted or any(part.lower() in cell.lower() for part in wanted)
    }
    if wanted and chosen.baselines and not series:
        known = ", ".join(cell_series(chosen.baselines))
        raise Unusable(f"no cell has {' or '.join(wanted)} in its id; there are: {known}")
    shown = {
        cell for baseline in chosen.baselines for cell in oversubscribed_cells(baseline.launches)
    }
    # Oversubscribed cells are far noisier, so they do not lend their noise to the gated ones.
    searched: dict[str, Searched] = {}
    for gated in (True, False):
        family = {
            cell: own.values[:, 0]
            for cell, own in series.items()
            if (cell not in shown) is gated and len(own.baselines) >= MIN_BASELINES
        }
        searched |= search(family)
    newest = cell_series(chosen.baselines[-1:]).keys()
    return History(
        baselines=chosen.baselines,
        cells=[
            _judged(cell, own, searched.get(cell), cell in shown, allowed)
            if cell in newest
            else CellHistory(
                cell,
                Outcome.NOT_GATED,
                "the newest baseline does not have it any more",
                len(own.baselines),
                own=own.baselines,
                speedups=list(own.values[:, 0]),
            )
            for cell, own in series.items()
        ],
        tolerance=allowed,
        unlike=chosen.unlike,
        left_out=chosen.left_out,
        remarks=chosen.remarks,
    )


def cell_series(baselines: Sequence[Baseline]) -> dict[str, Series]:
    """Return the cells of all baselines, each with the baselines that measured it well enough."""
    found: dict[str, tuple[list[Baseline], list[Array]]] = {}
    for baseline in baselines:
        for cell, launches in undisturbed_launches(baseline.launches).items():
            own, values = found.setdefault(cell, ([], []))
            if len(launches) >= MIN_LAUNCHES:
                own.append(baseline)
                values.append(log_medians(launches).mean(axis=0))
    return {
        cell: Series(own, np.array(values).reshape(-1, 3)) for cell, (own, values) in found.items()
    }


def _judged(
    cell: str, series: Series, searched: Searched | None, oversubscribed: bool, allowed: float
) -> CellHistory:
    """Return the verdict on a cell; None stands for a history that is too short."""
    count = len(series.baselines)
    speedups = list(series.values[:, 0])
    if searched is None:
        outcome = Outcome.NOT_GATED if oversubscribed else Outcome.INCONCLUSIVE
        reason = (
            f"{count} baselines have {MIN_LAUNCHES} undisturbed launches of this cell, and "
            f"{MIN_BASELINES} such baselines are needed"
        )
        return CellHistory(cell, outcome, reason, count, own=series.baselines, speedups=speedups)
    changes = [_located(number, series, searched) for number in range(len(searched.changes))]
    fit = fitted(series.values[:, 0], searched.changes)
    outcome, reason = _decided(searched, changes, fit, allowed)
    if oversubscribed:
        outcome, reason = Outcome.NOT_GATED, f"more ranks than cores, not gated; {reason}"
    return CellHistory(
        cell,
        outcome,
        reason,
        count,
        changes,
        fall(fit),
        searched.least_step,
        searched.least_recent_step,
        searched.least_drift,
        series.baselines,
        speedups,
        list(fit),
    )


def _decided(
    searched: Searched, changes: Sequence[Located], fit: Array, allowed: float
) -> tuple[Outcome, str]:
    """Return the outcome of a cell that was searched, and the reason in a sentence."""
    said = "; ".join(map(describe, changes))
    if fall(fit) > math.log1p(allowed):
        best = int(fit.argmax())
        lowered = [
            each
            for each in changes
            if each.change.size < 0 and (each.change.kind is Kind.DRIFT or each.change.at > best)
        ]
        sequential = sum(each.sequential for each in lowered)
        parallel = sum(each.parallel for each in lowered)
        slower = f"{math.expm1(fall(fit)):.1%} slower than at its best"
        if -sequential > parallel:
            why = "because the sequential arm got faster"
            return Outcome.SEQUENTIAL_FASTER, f"{slower}, {why}: {said}"
        return Outcome.SLOWER, f"{slower}: {said}"
    if changes:
        risen = fit[-1] - fit[0] > math.log1p(allowed)
        return (Outcome.FASTER if risen else Outcome.PASS), said
    if searched.least_step > MAX_HALF_WIDTH:
        least = math.expm1(searched.least_step)
        return Outcome.INCONCLUSIVE, f"too noisy: a step of less than {least:.0%} would be missed"
    return Outcome.PASS, "no change was found"


def _located(number: int, series: Series, searched: Searched) -> Located:
    """Name the baselines between which a change lies, and what it did to both arms."""
    change, own = searched.changes[number], series.baselines
    sequential, parallel = (
        float(sizes(series.values[:, arm], searched.changes)[1 + number]) for arm in (1, 2)
    )
    is_drift = change.kind is Kind.DRIFT
    return Located(
        change,
        before=own[0] if is_drift else own[change.at - 1],
        first=own[-1] if is_drift else own[change.at],
        earliest=own[change.earliest],
        latest=own[change.latest],
        sequential=sequential,
        parallel=parallel,
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.gate.history",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-k", dest="cells", action="append", default=[], metavar="TEXT")
    parser.add_argument("--since", type=since, metavar="NUMBER or DATE")
    parser.add_argument("--tolerance", type=tolerance, default=TOLERANCE, metavar="5%")
    parser.add_argument("-n", dest="ranks", type=rank_count, metavar="N")
    parser.add_argument("--storage", type=Path, default=STORAGE)
    parser.add_argument("--json", type=output_file, metavar="FILE")
    options = parser.parse_args(argv)
    console = Console()

    def judged() -> History:
        chosen = choose(options.storage, options.ranks, options.since)
        return judge(chosen, options.cells, options.tolerance)

    def publish(history: History) -> None:
        show(history, console)
        write(history, options.json)
        keep(history, os.environ.get(SESSION, "bench_history"))

    return judge_and_publish(judged, publish, console)


if __name__ == "__main__":
    make_interruptible()
    sys.exit(main())
