"""What do messages cost, and are steps as fast as promised?"""

from __future__ import annotations

import textwrap

import altair as alt

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records
from bench.page.words import counted, listed
from bench.report.kinds import Promise, Transfer

TITLE = "What do messages cost, and are promises kept?"

VERDICTS = Series("verdict", ["kept", "explained by other programs", "not kept"], "promise")


def figures(records: Records) -> list[Figure | Missing]:
    transfers = [t for t in records.of(Transfer)]
    command = "nox -s bench_mpi -- -n 2 --quick"
    drawn: list[Figure | Missing] = [
        combining(transfers)
        if transfers
        else Missing("What messages cost has not been measured", command)
    ]
    promises = [p for p in records.of(Promise) if p.limit is not None]
    drawn.append(kept(promises) if promises else Missing("No promise has been measured", command))
    return drawn


def combining(transfers: list[Transfer]) -> Figure:
    """The time in which workers combine their data, for every way to do it."""
    rows: list[Row] = [
        {
            "workers": counted(t.workers, "worker")
            + (", more than cores" if t.oversubscribed else ""),
            "way": t.verb,
            "megabytes": 1e-6 * t.bytes,
            "microseconds": 1e6 * t.seconds,
            "gigabytes_per_second": 1e-9 * t.bandwidth if t.bytes else None,
        }
        for t in transfers
    ]
    groups = list(dict.fromkeys(row["workers"] for row in rows))
    usual = [t for t in transfers if not t.oversubscribed] or transfers
    usual = [t for t in usual if t.bytes == max(each.bytes for each in usual)]
    slow, fast = max(usual, key=lambda t: t.seconds), min(usual, key=lambda t: t.seconds)
    return Figure(
        id="combining",
        title="How long does it take to bring the ranks' gradients together?",
        measured="Medians of the slowest rank. “Barrier” sends nothing, and “plain copy” is what a "
        "single core takes for the same bytes.",
        see=f"{slow.verb} takes {1e6 * slow.seconds:,.0f} microseconds for "
        f"{1e-6 * slow.bytes:.1f} MB, {fast.verb} {1e6 * fast.seconds:,.0f} for "
        f"{1e-6 * fast.bytes:.1f} MB.",
        alt=f"Times of {listed(dict.fromkeys(t.verb for t in transfers))}.",
        rows=rows,
        charts={"": [Panel(group, _combining(group)) for group in groups]},
        records=transfers,
    )


def _combining(group: str) -> charts.Chart:
    return (
        charts.draw(workers=group)
        .mark_point()
        .encode(
            x=charts.x("microseconds", "microseconds", log=True, format="~s"),
            y=alt.Y("way:N", title=None, sort=None, axis=alt.Axis(grid=True)),
            size=alt.Size("megabytes:Q", title="MB", scale=alt.Scale(range=[40, 300])),
            tooltip=charts.tooltip(
                way="", megabytes=",.3f", microseconds=",.1f", gigabytes_per_second=".2f"
            ),
        )
        .properties(height=alt.Step(28))
    )


def kept(promises: list[Promise]) -> Figure:
    """Every promised ratio beside its limit."""
    rows: list[Row] = [
        {
            "promise": "\n".join(textwrap.wrap(p.what, 42)),
            "ratio": p.value,
            "limit": p.limit,
            "of_its_limit": p.value / (p.limit or 1),
            "verdict": VERDICTS.names[0 if p.kept else 1 if p.excused else 2],
            "meanwhile": p.meanwhile,
        }
        for p in promises
    ]
    broken = sum(row["verdict"] == VERDICTS.names[2] for row in rows)
    base = charts.draw().encode(
        y=alt.Y("promise:N", title=None, sort=None, axis=None),
        tooltip=charts.tooltip(
            promise="", ratio=".3f", limit=".3f", of_its_limit=".2f", verdict="", meanwhile=""
        ),
    )
    bars = base.mark_bar(height=8, yOffset=18).encode(
        x=charts.x("of_its_limit", "measured / limit"), color=charts.colour(VERDICTS)
    )
    text = base.mark_text(align="left", baseline="middle", dy=-6, fontSize=11, lineBreak="\n")
    names = text.encode(x=alt.value(2), text="promise:N")
    lines = charts.layers(bars, names, charts.reference("x", 1, "limit"))
    return Figure(
        id="promises",
        title="Are promises kept?",
        measured="Ratios of times in the same rounds, or of memory, over their limits, which are "
        "made for a quiet machine with a core and a common cache for each worker.",
        see="All are kept."
        if not broken
        else f"Not kept: {broken} of {len(rows)}, and other programs do not explain it.",
        alt=f"Bars of {counted(len(rows), 'ratio')} over their limits.",
        rows=rows,
        charts={"": [Panel("", lines.properties(height=alt.Step(48)))]},
        series=VERDICTS,
        records=promises,
    )
