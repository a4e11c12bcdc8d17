"""Are the weights the same? Errors of all comparisons, and the planted bugs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import altair as alt

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records
from bench.page.words import counted
from bench.report.kinds import Mutant, Proof

TITLE = "Are the weights the same?"

FAILED = ("failed", "xpassed")

KINDS = {
    "transformer": r"Attention|GPT",
    "embedding": r"Embedding",
    "convolution": r"Conv",
    "torch": r"TorchModel",
}
"""Kind of net -> what its text has in it; the first that fits."""


def net_kind(net: str) -> str:
    """What kind of net it is, by its layers as Python shows them."""
    return next((kind for kind, sign in KINDS.items() if re.search(sign, net)), "linear layers")


OUTCOMES = Series("outcome", ["passed", "skipped", "failed"], "outcome")
CAUGHT = Series("caught", ["caught", "not caught"], "planted bugs")

LEAST = 1e-17
"""Where an error of 0 is drawn: a logarithm has no 0."""


def figures(records: Records) -> list[Figure | Missing]:
    proofs, mutants = records.of(Proof), records.of(Mutant)
    drawn: list[Figure | Missing] = []
    if any(p.comparisons for p in proofs):
        drawn.append(errors(proofs))
    else:
        drawn.append(Missing("No weights have been compared", "nox -s correctness"))
    if proofs:
        drawn.append(tests(proofs))
    if mutants:
        drawn.append(bugs(mutants))
    else:
        drawn.append(Missing("No planted bugs have been tried", "nox -s mutants"))
    return drawn


def errors(proofs: Sequence[Proof]) -> Figure:
    """The largest error of every strategy on every kind of net, beside its tolerance."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for p in proofs:
        for c in p.comparisons:
            groups.setdefault((c.strategy, net_kind(c.net)), []).append((c.error, c.tolerance))
    rows: list[Row] = []
    for (strategy, kind), found in sorted(groups.items()):
        error, tolerance = max(found, key=lambda each: each[0] / (each[1] or 1e-300))
        rows.append(
            {
                "strategy": strategy,
                "nets": kind,
                "trainings": len(found),
                "to_the_bit": sum(each == 0 for _, each in found),
                "largest_error": error,
                "tolerance": tolerance,
                "drawn_error": max(error, LEAST),
                "drawn_tolerance": max(tolerance, LEAST),
            }
        )
    kinds = list(dict.fromkeys(row["nets"] for row in rows))
    series = Series("nets", kinds, "nets of")
    base = charts.draw().encode(
        y=alt.Y("strategy:N", title=None, axis=alt.Axis(grid=True)),
        yOffset=alt.YOffset("nets:N", sort=kinds),
        color=charts.colour(series),
        tooltip=charts.tooltip(
            strategy="",
            nets="",
            trainings="d",
            to_the_bit="d",
            largest_error=".1e",
            tolerance=".1e",
        ),
    )
    x = charts.x("drawn_error", "largest error and its tolerance", log=True, format=".0e")
    chart = charts.layers(
        base.mark_rule(strokeWidth=1, strokeDash=[2, 2]).encode(x=x, x2="drawn_tolerance:Q"),
        base.mark_point().encode(x=x, shape=charts.shape(series)),
        base.mark_tick(thickness=2, size=10).encode(x="drawn_tolerance:Q"),
    )
    over = [row for row in rows if not row["largest_error"] <= row["tolerance"]]
    return Figure(
        id="errors",
        title="How far from sequential training do weights end?",
        measured=f"The weights of {counted(sum(row['trainings'] for row in rows), 'training')} "
        "were compared, after every step, with their oracle. An error is the largest difference of "
        f"a weight over the largest weight; 0 is drawn at {LEAST:.0e}.",
        see="All errors lie to the left of their tolerance, the stroke at the end of a dotted line."
        if not over
        else f"Errors to the right of their tolerance: {len(over)}.",
        alt="Points of the largest error of each strategy, each left or right of its tolerance.",
        rows=rows,
        charts={"": [Panel("", chart.properties(height=alt.Step(11)))]},
        series=series,
        records=proofs,
    )


def tests(proofs: Sequence[Proof]) -> Figure:
    """How many tests of every folder passed."""
    counts: dict[tuple[str, str], int] = {}
    for p in proofs:
        folder = "/".join(p.test.partition("::")[0].split("/")[:-1]) or "elsewhere"
        outcome = "failed" if p.outcome in FAILED else "passed"
        if p.outcome in ("skipped", "xfailed"):
            outcome = "skipped"
        counts[folder, outcome] = counts.get((folder, outcome), 0) + 1
    rows: list[Row] = [
        {"folder": folder, "outcome": outcome, "tests": number}
        for (folder, outcome), number in counts.items()
    ]
    folders = {row["folder"] for row in rows}
    failed = sum(row["tests"] for row in rows if row["outcome"] == "failed")
    chart = (
        charts.draw()
        .mark_bar()
        .encode(
            x=charts.x("tests", "tests"),
            y=alt.Y("folder:N", title=None),
            color=charts.colour(OUTCOMES),
            tooltip=charts.tooltip(folder="", outcome="", tests=",d"),
        )
        .properties(**charts.rows_high(len(folders)))
    )
    return Figure(
        id="tests",
        title="Which tests ran?",
        measured=f"{counted(len(proofs), 'test')}, by the folder that they stand in.",
        see=f"{counted(failed, 'test')} failed." if failed else "None failed.",
        alt=f"Bars of passed, skipped and failed tests of {counted(len(folders), 'folder')}.",
        rows=rows,
        charts={"": [Panel("", chart)]},
        series=OUTCOMES,
        records=proofs,
    )


def bugs(mutants: Sequence[Mutant]) -> Figure:
    """How many of the bugs that were planted in every folder were caught."""
    counts: dict[tuple[str, str], int] = {}
    for m in mutants:
        folder = "/".join(m.file.split("/")[:-1]) or m.file
        key = folder, CAUGHT.names[0 if m.caught else 1]
        counts[key] = counts.get(key, 0) + 1
    rows: list[Row] = [
        {"folder": folder, "caught": caught, "bugs": number}
        for (folder, caught), number in sorted(counts.items())
    ]
    folders = {row["folder"] for row in rows}
    survivors = [m.name for m in mutants if not m.caught]
    chart = (
        charts.draw()
        .mark_bar()
        .encode(
            x=charts.x("bugs", "planted bugs"),
            y=alt.Y("folder:N", title=None),
            color=charts.colour(CAUGHT),
            tooltip=charts.tooltip(folder="", caught="", bugs="d"),
        )
        .properties(**charts.rows_high(len(folders)))
    )
    return Figure(
        id="planted-bugs",
        title="Do the tests catch real bugs?",
        measured=f"{counted(len(mutants), 'bug')} planted one at a time, each beside the tests "
        "that are named for it.",
        see="Every one was caught." if not survivors else f"Not caught: {listed_few(survivors)}.",
        alt=f"Bars of the bugs that were planted in {counted(len(folders), 'folder')}, and caught.",
        rows=rows,
        charts={"": [Panel("", chart)]},
        series=CAUGHT,
        records=mutants,
    )


def listed_few(names: Sequence[str], most: int = 5) -> str:
    """Some names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
