"""Contenders of races side by side: the time of a step of each, for each race."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np

from bench.core.cell import interval
from bench.page import charts
from bench.page.figure import Figure, Panel, Row
from bench.page.words import listed, spread
from bench.report.kinds import Race


def forest(races: Sequence[Race], *, id: str, title: str, measured: str, what: str) -> Figure:
    """Draw the speed of every contender over the first of its race, with 95% intervals.

    Args:
        id, title: of the figure.
        measured: what took turns, as a sentence.
        what: what the first contender of a race is, e.g. "one core".
    """
    rows: list[Row] = []
    for race in races:
        base, *_ = race.rounds
        speedups = {base: 1.0} | race.over(base)
        for name, times in race.rounds.items():
            low, high = (1.0, 1.0) if name == base else interval(race.rounds[base], times)
            rows.append(
                {
                    "race": f"{race.net}, batch {race.batch_size}",
                    "contender": name,
                    "milliseconds": 1e3 * float(np.median(times)) / race.steps_per_round,
                    "speedup": speedups[name],
                    "low": low,
                    "high": high,
                }
            )
    best = max(rows, key=lambda row: row["speedup"])
    names = list(dict.fromkeys(row["race"] for row in rows))
    rounds = spread((len(next(iter(race.rounds.values()))) for race in races), "paired round")
    return Figure(
        id=id,
        title=title,
        measured=f"{measured} Medians of {rounds} with their 95% interval.",
        see=f"Right of 1 it is faster than {what}. The fastest is {best['contender']} with "
        f"{best['speedup']:.2f} ({best['race']}).",
        alt=f"Speedups over {what} in {listed(names)}.",
        rows=rows,
        charts={name: [Panel(name, _chart(name))] for name in names},
        records=races,
    )


def _chart(race: str) -> charts.Chart:
    base = charts.draw(race=race).encode(
        y=alt.Y("contender:N", title=None, sort=None, axis=None),
        tooltip=charts.tooltip(
            contender="", milliseconds=".3f", speedup=".2f", low=".2f", high=".2f"
        ),
    )
    bars = base.mark_rule().encode(x=charts.x("low", "speedup"), x2="high:Q")
    points = base.mark_point(filled=True).encode(x=charts.x("speedup", "speedup"))
    names = charts.names(base, "contender", above=11)
    chart = charts.layers(bars, points, charts.reference("x", 1), names)
    return chart.properties(height=alt.Step(34))
