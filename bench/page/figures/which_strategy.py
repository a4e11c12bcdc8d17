"""Which strategy for which net? The map of races."""

from __future__ import annotations

import re

import altair as alt

from bench.core.cell import interval
from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row
from bench.page.records import Records
from bench.page.style import ON_RAMP, RAMP
from bench.page.words import counted, spread
from bench.report.kinds import Race

TITLE = "Which strategy for which net?"

STEPS = [0.9, 1.0, 1.2, 1.5, 2.0]
"""Speedups at which the colour of the map changes."""


def figures(records: Records) -> list[Figure | Missing]:
    raced = records.of(Race, "", "which_strategy")  # which is no test, and names none
    races = [race for race in raced if len(race.rounds) > 1]
    if not races:
        return [Missing("No strategies have been raced for each net", "nox -s bench_which")]
    return [winners(races), everyone(races)]


def _rows(races: list[Race]) -> list[Row]:
    rows: list[Row] = []
    for race in races:
        base, *_ = race.rounds
        speedups = race.over(base)
        best = max(speedups, key=lambda name: speedups[name])
        for name, speedup in speedups.items():
            low, high = interval(race.rounds[base], race.rounds[name])
            rows.append(
                {
                    "net": race.net,
                    "batch_size": race.batch_size,
                    "workers": race.workers,
                    "strategy": name,
                    "speedup": speedup,
                    "low": low,
                    "high": high,
                    "best": name == best,
                    "label": "\n".join([*_split(name), f"{speedup:.2f}"]),
                }
            )
    return rows


def _split(name: str) -> list[str]:
    """A strategy's name on several short lines."""
    words = re.findall(r"[A-Z][a-z]+|[A-Z]+[\w-]*|[^A-Z]+", name) or [name]
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + len(word) <= 10:
            lines[-1] += word
        else:
            lines.append(word)
    return lines


def winners(races: list[Race]) -> Figure:
    """The fastest strategy of every net and batch size, and its speedup."""
    rows = _rows(races)
    pay = [row for row in rows if row["best"] and row["low"] > 1]
    top = max(rows, key=lambda row: row["speedup"])
    scale = alt.Scale(type="threshold", domain=STEPS, range=RAMP)
    on = alt.Scale(type="threshold", domain=STEPS, range=ON_RAMP)
    base = (
        charts.draw(best=True)
        .encode(
            x=charts.whole("batch_size", "rows of a batch"),
            y=alt.Y("net:N", title=None, sort=None, axis=alt.Axis(labelLimit=90)),
            tooltip=charts.tooltip(
                net="", batch_size="d", strategy="", speedup=".3f", low=".3f", high=".3f"
            ),
        )
        .properties(height=alt.Step(64))
    )
    cells = base.mark_rect().encode(color=alt.Color("speedup:Q", scale=scale, title="speedup"))
    text = base.mark_text(fontSize=10, lineBreak="\n", baseline="middle", dy=-12).encode(
        text="label:N", color=alt.Color("speedup:Q", scale=on, legend=None)
    )
    workers = counted(races[0].workers, "worker")
    rounds = spread((len(next(iter(r.rounds.values()))) for r in races), "round")
    return Figure(
        id="which-strategy",
        title="Which strategy is fastest for which net and batch?",
        measured=f"All exact strategies took turns with plain training on {workers}: "
        f"medians of {rounds}.",
        see=f"In {len(pay)} of {len(races)} places the best strategy pays for certain. The best of "
        f"all is {top['strategy']}, {top['speedup']:.2f} ({top['net']}, batch "
        f"{top['batch_size']}).",
        alt="A map of nets and batch sizes with the fastest strategy of each and its speedup.",
        rows=rows,
        charts={"": [Panel("", charts.apart(charts.layers(cells, text), "color"))]},
        records=races,
    )


def everyone(races: list[Race]) -> Figure:
    """All strategies of every race."""
    rows = _rows(races)
    nets = list(dict.fromkeys(race.net for race in races))
    sizes = sorted({race.batch_size for race in races})
    names = list(dict.fromkeys(row["strategy"] for row in rows))

    def points(net: str, size: int) -> charts.Chart:
        base = charts.draw(net=net, batch_size=size).encode(
            y=alt.Y("strategy:N", title=None, sort=names),
            tooltip=charts.tooltip(strategy="", speedup=".3f", low=".3f", high=".3f"),
        )
        return charts.layers(
            charts.reference("x", 1, "plain"),
            base.mark_rule().encode(x=charts.x("low", "speedup"), x2="high:Q"),
            base.mark_point().encode(x="speedup:Q"),
        ).properties(height=alt.Step(22))

    return Figure(
        id="which-strategy-all",
        title="And all the others?",
        measured="The same races, with the 95% interval of each speedup over paired rounds.",
        see="Right of 1 a strategy is faster than plain training of this net and batch.",
        alt="Points of the speedup of every strategy for every net and batch size.",
        rows=[{k: v for k, v in row.items() if k not in ("label", "best")} for row in rows],
        charts={
            f"batch {size}": [
                Panel(net, points(net, size))
                for net in nets
                if any(race.net == net and race.batch_size == size for race in races)
            ]
            for size in sizes
        },
        records=races,
    )
