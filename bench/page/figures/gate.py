"""Has it become slower? Every cell that the gate has judged, beside what it was before."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records
from bench.page.style import LIGHT
from bench.page.words import counted, listed
from bench.report.judged import Judged

TITLE = "Has it become slower?"

VERDICTS = Series("verdict", ["held", "in doubt", "failed"], "verdict")

FAILED = ("slower", "sequential arm faster", "missing")
HELD = ("pass", "faster", "sequential arm slower", "new")


def figures(records: Records) -> list[Figure | Missing]:
    judged = [each for each in records.of(Judged) if each.ratio is not None]
    if not judged:
        command = "nox -s bench_compare -- NAME"
        return [Missing("No cell has been compared with an earlier state", command)]
    return [forest(judged, len(records.of(Judged)) - len(judged))]


def verdict(outcome: str) -> str:
    """What an outcome of the gate means: one of `VERDICTS`."""
    held, doubt, failed = VERDICTS.names
    return failed if outcome in FAILED else held if outcome in HELD else doubt


def forest(judged: Sequence[Judged], without: int) -> Figure:
    """The ratio of every cell with its interval; cells without one are counted only."""
    rows: list[Row] = [
        {
            "comparison": f"{each.before} / {each.after}",
            "cell": each.cell,
            "ratio": each.ratio,
            "low": each.low,
            "high": each.high,
            "outcome": each.outcome,
            "verdict": verdict(each.outcome),
            "reason": each.reason,
            "speedup_before": each.speedup_before,
            "speedup_after": each.speedup_after,
            "launches": "+".join(map(str, each.launches)),
        }
        for each in judged
    ]
    compared = list(dict.fromkeys(row["comparison"] for row in rows))
    failed = [row["cell"] for row in rows if row["verdict"] == VERDICTS.names[2]]
    doubt = sum(row["verdict"] == VERDICTS.names[1] for row in rows)
    unknown = f" {counted(without, 'cell')} could not be compared." if without else ""
    limits = {1 / (1 + each.tolerance) for each in judged}
    return Figure(
        id="gate",
        title="How do speedups compare with those of before?",
        measured="Speedup after / before, with an interval that holds for all cells of the "
        f"comparison together, over {counted(max(sum(j.launches) for j in judged), 'launch')} "
        "of a cell at most.",
        see=(
            f"{counted(len(failed), 'cell')} failed: {listed(failed)}."
            if failed
            else f"No cell failed; {doubt} of {len(rows)} are in doubt."
        )
        + unknown,
        alt=f"{counted(len(rows), 'ratio')} with intervals, beside the line of no change.",
        rows=rows,
        charts={name: [Panel("", _cells(name, rows, min(limits)))] for name in compared},
        series=VERDICTS,
        records=judged,
    )


def _cells(comparison: str, rows: Sequence[Row], limit: float) -> charts.Chart:
    base = charts.draw(comparison=comparison).encode(
        y=alt.Y("cell:N", title=None, sort=None, axis=None),
        color=charts.colour(VERDICTS),
        tooltip=charts.tooltip(
            cell="",
            outcome="",
            reason="",
            ratio=".3f",
            low=".3f",
            high=".3f",
            speedup_before=".3f",
            speedup_after=".3f",
            launches="",
        ),
    )
    ratio = charts.x("low", "speedup after / before", zero=False)
    names = base.mark_text(align="left", baseline="middle", dy=-11, fontSize=11).encode(
        x=alt.value(2), text="cell:N", color=alt.value(LIGHT["ink"])
    )
    return charts.layers(
        charts.reference("x", 1, "as before"),
        charts.reference("x", limit),
        base.mark_rule(strokeWidth=2).encode(x=ratio, x2="high:Q"),
        base.mark_point().encode(x="ratio:Q", shape=charts.shape(VERDICTS)),
        names,
    ).properties(height=alt.Step(36))
