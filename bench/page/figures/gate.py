"""Has it become slower? Every cell that the gate has judged, beside what it was before."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records
from bench.page.words import counted, listed
from bench.report.judged import Judged, Tracked

TITLE = "Has it become slower?"

SIDES = Series("side", ["before", "after", "after, launched again"], "launches")
"""The groups of launches that a verdict stands on."""

VERDICTS = Series("verdict", ["held", "undecided", "failed"], "verdict")

HELD = ("pass", "faster", "sequential arm slower", "new")
FAILED = ("slower", "sequential arm faster", "missing")
"""Outcomes of the gate; all others leave it open, or are of cells that are not gated."""


def figures(records: Records) -> list[Figure | Missing]:
    judged = records.of(Judged)
    tracked = [each for each in records.of(Tracked) if len(each.baselines) > 1]
    drawn: list[Figure | Missing] = []
    if any(each.ratio is not None for each in judged):
        drawn.append(forest(judged))
        drawn.append(launches(judged))
    elif judged:
        command = "nox -s bench_mpi -- --save NAME"
        drawn.append(Missing(f"{_failures(judged)} No cell is in both", command))
    else:
        command = "nox -s bench_compare -- NAME"
        drawn.append(Missing("No cell has been compared with an earlier state", command))
    if tracked:
        drawn.append(history(tracked))
    else:
        drawn.append(Missing("No history of baselines has been searched", "nox -s bench_history"))
    return drawn


def verdict(outcome: str) -> str:
    """What an outcome of the gate means: one of `VERDICTS`."""
    held, doubt, failed = VERDICTS.names
    return failed if outcome in FAILED else held if outcome in HELD else doubt


def _failures(judged: Sequence[Judged]) -> str:
    failed = [each.cell for each in judged if each.outcome in FAILED]
    return f"{counted(len(failed), 'cell')} failed: {listed(failed)}." if failed else "None failed."


def forest(judged: Sequence[Judged]) -> Figure:
    """The ratio of every cell with its interval; cells without one are only counted."""
    known = [each for each in judged if each.ratio is not None]
    rows: list[Row] = [
        {
            "comparison": f"{each.after} / {each.before}",
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
        for each in known
    ]
    limits = {
        row["comparison"]: 1 / (1 + each.tolerance) for row, each in zip(rows, known, strict=True)
    }
    undecided = sum(row["verdict"] == VERDICTS.names[1] for row in rows)
    without = len(judged) - len(known)
    unknown = f" {counted(without, 'cell')} could not be compared." if without else ""
    return Figure(
        id="gate",
        title="How do speedups compare with those of before?",
        measured="Speedup after / before, with an interval that holds for all cells of the "
        f"comparison together, over {counted(max(sum(j.launches) for j in known), 'launch')} "
        "of a cell at most.",
        see=f"{_failures(judged)} Undecided or not gated: {undecided} of {len(rows)}.{unknown}",
        alt=f"{counted(len(rows), 'ratio')} with intervals, beside the line of no change.",
        rows=rows,
        charts={name: [Panel("", _cells(name, limit))] for name, limit in limits.items()},
        series=VERDICTS,
        records=judged,
    )


def _cells(comparison: str, limit: float) -> charts.Chart:
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
    return charts.layers(
        charts.reference("x", 1, "as before"),
        charts.reference("x", limit),
        base.mark_rule(strokeWidth=2).encode(x=ratio, x2="high:Q"),
        base.mark_point().encode(x="ratio:Q", shape=charts.shape(VERDICTS)),
        charts.names(base, "cell", above=11),
    ).properties(height=alt.Step(36))


def launches(judged: Sequence[Judged]) -> Figure | Missing:
    """The speedup of every launch that a verdict stands on, before beside after."""
    known = [each for each in judged if any(each.speedups)]
    if not known:
        command = "nox -s bench_compare -- NAME"
        return Missing("These verdicts do not say what each launch measured", command)
    rows: list[Row] = [
        {
            "comparison": f"{each.after} / {each.before}",
            "cell": each.cell,
            "side": side,
            "launch": number,
            "speedup": speedup,
            "outcome": each.outcome,
        }
        for each in known
        for side, group in zip(SIDES.names, each.speedups, strict=True)
        for number, speedup in enumerate(group, 1)
    ]
    apart, at_odds = _differ(known)
    comparisons = dict.fromkeys(row["comparison"] for row in rows)
    return Figure(
        id="gate-launches",
        title="How much do launches of the same cell differ?",
        measured="A point is the speedup of one launch: the median over its paired rounds. "
        "Launches that other programs disturbed are left out.",
        see=f"The gate can see changes that are large beside the spread of one side. Launches of "
        f"the same code differ most in {at_odds.cell}, by {apart:.1%}.",
        alt=f"Speedups of {counted(len(rows), 'launch')} of {counted(len(known), 'cell')}, before "
        "and after.",
        rows=rows,
        charts={
            name: [
                Panel(
                    "", _launches(name, len({r["cell"] for r in rows if r["comparison"] == name}))
                )
            ]
            for name in comparisons
        },
        series=SIDES,
        records=known,
    )


def _differ(judged: Sequence[Judged]) -> tuple[float, Judged]:
    """The most that launches of one side differ, as a share of the lowest, and of which cell."""
    return max(
        (
            (max(group) / min(group) - 1, each)
            for each in judged
            for group in each.speedups
            if group
        ),
        key=lambda found: found[0],
    )


def _launches(comparison: str, cells: int) -> charts.Chart:
    base = charts.draw(comparison=comparison).encode(
        y=alt.Y("cell:N", title=None, sort=None, axis=None),
        tooltip=charts.tooltip(cell="", side="", launch="d", speedup=".3f", outcome=""),
    )
    sides = [
        base.transform_filter(alt.FieldEqualPredicate(field="side", equal=side))
        .mark_point(yOffset=offset, opacity=0.8)
        .encode(
            x=charts.x("speedup", "speedup", zero=False),
            color=charts.colour(SIDES),
            shape=charts.shape(SIDES),
        )
        for side, offset in zip(SIDES.names, (-5, 6, 17), strict=True)
    ]
    return charts.layers(*sides, charts.names(base, "cell", above=18)).properties(height=52 * cells)


def history(tracked: Sequence[Tracked]) -> Figure:
    """The speedup of every cell over the baselines, with the steps that were found."""
    rows: list[Row] = [
        {
            "cell": each.cell,
            "number": at + 1,
            "baseline": name,
            "saved": each.saved[at],
            "commit": each.commits[at],
            "speedup": each.speedups[at],
            "fitted": each.fitted[at] if each.fitted else None,
            "step": at in each.steps,
            "verdict": verdict(each.outcome),
            "outcome": each.outcome,
        }
        for each in tracked
        for at, name in enumerate(each.baselines)
    ]
    stepped = [row for row in rows if row["step"]]
    first = f", the first of {stepped[0]['cell']} in {stepped[0]['baseline']}" if stepped else ""
    return Figure(
        id="gate-history",
        title="When did speedups change?",
        measured="Mean speedups of the undisturbed launches of each of "
        f"{max(len(each.baselines) for each in tracked)} saved baselines of this machine. The line "
        "is fitted with the changes that were found.",
        see=f"{counted(len(stepped), 'step')} found{first}. "
        "Rings mark the first baseline after one.",
        alt=f"Speedups of {counted(len(tracked), 'cell')} against the number of the baseline.",
        rows=rows,
        charts={"": [Panel(each.cell, _course(each)) for each in tracked]},
        series=VERDICTS,
        records=tracked,
    )


def _course(each: Tracked) -> charts.Chart:
    base = charts.draw(cell=each.cell).encode(
        x=charts.x("number", "baseline", zero=False, format="d", tickMinStep=1),
        color=charts.colour(VERDICTS),
        tooltip=charts.tooltip(
            baseline="", saved="", commit="", speedup=".3f", fitted=".3f", outcome=""
        ),
    )
    height = charts.y("speedup", "speedup", zero=False)
    parts = [base.mark_point().encode(y=height, shape=charts.shape(VERDICTS))]
    if each.fitted:
        parts.append(base.mark_line(interpolate="step").encode(y="fitted:Q"))
    if each.steps:
        found = base.transform_filter(alt.FieldEqualPredicate(field="step", equal=True))
        parts.append(found.mark_point(size=220, shape="circle", filled=False).encode(y="fitted:Q"))
    return charts.layers(*parts)
