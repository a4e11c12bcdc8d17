"""What has changed between two runs: every speedup that both have measured, and the ratio."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import altair as alt

from bench.core.cell import interval
from bench.core.fingerprint import differences
from bench.page import charts
from bench.page.answers import Answer
from bench.page.figure import Figure, Panel, Row, Series
from bench.page.figures import speedup
from bench.page.records import Records, measured_by
from bench.page.table import Table
from bench.page.words import counted
from bench.report.kinds import Measurement, Race
from strategies.records import Record

TITLE = "What has changed between the two runs?"

CHANGES = Series("change", ["faster", "no clear change", "slower"], "change")
SIDES = Series("side", ["before", "after"], "run")

MOST_ROWS = 40
"""Rows of the table; all of them are in the CSV file."""


@dataclass(frozen=True)
class Speedup:
    """A speedup with its 95% interval.

    Attributes:
        setting: what trained on what; those of one setting are shown together.
        record: where it stands.
    """

    setting: str
    name: str
    value: float
    low: float
    high: float
    record: Record
    oversubscribed: bool = False

    @property
    def known(self) -> bool:
        """Whether it is a number above 0 with an interval, which has logarithms."""
        return all(0 < each < math.inf for each in (self.value, self.low, self.high))


def speedups(records: Records) -> dict[tuple[str, str], Speedup]:
    """Every speedup that a run has measured, by setting and name; of several, the last."""
    found = [_of_cell(m) for m in records.of(Measurement)]
    found += [each for race in records.of(Race) for each in _of_race(race)]
    return {(each.setting, each.name): each for each in found}


def _of_cell(m: Measurement) -> Speedup:
    setting = f"{speedup.setting(m)}, {counted(m.cell.workers, 'worker')}{_file(m)}"
    ends = m.speedup_low, m.speedup_high
    return Speedup(setting, m.cell.strategy, m.speedup, *ends, m, m.oversubscribed)


def _of_race(race: Race) -> list[Speedup]:
    """The speedup of every contender over the first."""
    base, *_ = race.rounds
    workers = counted(race.workers, "worker")
    setting = f"{race.net}, batch {race.batch_size}, {workers}, over {base}{_file(race)}"
    return [
        Speedup(setting, name, value, *interval(race.rounds[base], race.rounds[name]), race)
        for name, value in race.over(base).items()
    ]


def _file(record: Record) -> str:
    """The benchmark that measured it, which may measure the same cells as the grid."""
    name = measured_by(record)
    return "" if name in speedup.GRID else f" ({name.replace('_', ' ')})"


def ratio(before: Speedup, after: Speedup) -> tuple[float, float, float]:
    """Return after / before with its 95% interval.

    The two are independent, so the interval follows from theirs. On the logarithms, in which a
    ratio is a difference, the distances of the limits are added as squares: MOVER, Zou and Donner,
    "Construction of confidence limits about effect measures: a general approach", Statistics in
    Medicine 27 (2008), equations 4 and 5.
    """
    change = math.log(after.value / before.value)
    down = math.hypot(math.log(after.value / after.low), math.log(before.high / before.value))
    up = math.hypot(math.log(after.high / after.value), math.log(before.value / before.low))
    return math.exp(change), math.exp(change - down), math.exp(change + up)


@dataclass(frozen=True)
class Pair:
    """A speedup before and after."""

    before: Speedup
    after: Speedup

    @property
    def ratio(self) -> tuple[float, float, float]:
        return ratio(self.before, self.after)

    @property
    def change(self) -> str:
        """One of `CHANGES`: faster or slower if the whole interval of the ratio says so."""
        faster, unclear, slower = CHANGES.names
        _, low, high = self.ratio
        return faster if low > 1 else slower if high < 1 else unclear


def pairs(before: Records, after: Records) -> list[Pair]:
    """Every speedup that both runs have."""
    old, new = speedups(before), speedups(after)
    both = [Pair(old[key], new[key]) for key in old if key in new]
    return [pair for pair in both if pair.before.known and pair.after.known]


def answer(before: Records, after: Records) -> Answer:
    """Say how many speedups changed, and show each before, after and as a ratio, slowest first."""
    both = sorted(pairs(before, after), key=lambda pair: pair.ratio)
    runs = f"Before is {_run(before)}; after is {_run(after)}."
    unequal = [f"The machines differ: {line}." for line in _machines_differ(before, after)]
    if not both:
        return Answer(TITLE, "The two runs have no speedup in common.", notes=[runs, *unequal])
    rows = [
        [
            *(pair.after.setting, pair.after.name),
            *(_shown(each.value, each.low, each.high) for each in (pair.before, pair.after)),
            _shown(*pair.ratio),
            pair.change,
        ]
        for pair in both
    ]
    columns = ["setting", "strategy", "before (95%)", "after (95%)", "after / before (95%)"]
    more = f" The table has the {MOST_ROWS} that fell most." if len(rows) > MOST_ROWS else ""
    notes = [
        f"{runs} A change is clear if the whole interval of the ratio lies on one side of 1. By "
        f"chance alone 1 of 20 does.{more}",
        "These intervals tell how far the rounds of one launch agree, and launches of the same "
        "code differ by more. `nox -s bench_compare -- NAME` judges with several on each side.",
        *unequal,
    ]
    table = Table("Speedups before and after", [*columns, "change"], rows[:MOST_ROWS])
    return Answer(TITLE, _said(both), table, notes)


def _said(both: Sequence[Pair]) -> str:
    faster, _, slower = ([p for p in both if p.change == name] for name in CHANGES.names)
    head = (
        f"Of {counted(len(both), 'speedup')} that both have, {len(faster)} rose and {len(slower)} "
        "fell clearly."
    )
    clear = [*faster, *slower]
    if not clear:
        return head
    most = max(clear, key=lambda pair: abs(math.log(pair.ratio[0])))
    value, low, high = most.ratio
    return (
        f"{head} The largest change is that of {most.after.name}: {value:.2f} times what it was "
        f"({low:.2f} to {high:.2f}; {most.after.setting})."
    )


def _run(records: Records) -> str:
    return ", ".join(f"{s.path.name} of {s.date[:16].replace('T', ' ')}" for s in records.sources)


def _machines_differ(before: Records, after: Records) -> list[str]:
    found = []
    for records in (before, after):
        machine = records.sources[0].run.header.get("fingerprint") if records.sources else None
        found.append(machine if isinstance(machine, Mapping) else {})
    return differences(*found) if all(found) else []


def _shown(value: float, low: float, high: float) -> str:
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def figures(before: Records, after: Records) -> list[Figure]:
    """Draw the ratio of every speedup that both runs have, and the speedups themselves."""
    both = pairs(before, after)
    return [ratios(both), side_by_side(both)] if both else []


MEASURED = (
    "Speedups over plain training, or over the first contender of a race, in one launch before and "
    "one after, with their 95% intervals."
)


def ratios(both: Sequence[Pair]) -> Figure:
    """Draw the ratio of each speedup with its interval."""
    rows: list[Row] = []
    for pair in both:
        value, low, high = pair.ratio
        rows.append(
            {
                "setting": pair.after.setting,
                "strategy": pair.after.name,
                **_columns("before", pair.before),
                **_columns("after", pair.after),
                "ratio": value,
                "low": low,
                "high": high,
                "change": pair.change,
                charts.CROWDED: pair.before.oversubscribed or pair.after.oversubscribed,
            }
        )
    return Figure(
        id="change",
        title="How much faster has each become?",
        measured=f"{MEASURED} The interval of a ratio follows from theirs.",
        see=f"Right of 1 it has become faster. {_said(both)}",
        alt=f"{counted(len(rows), 'ratio')} with intervals, beside the line of no change.",
        rows=rows,
        charts={"": [Panel(name, _ratios(name)) for name in _settings(both)]},
        series=CHANGES,
        records=_records(both),
    )


def _columns(name: str, found: Speedup) -> Row:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _settings(both: Sequence[Pair]) -> list[str]:
    return list(dict.fromkeys(pair.after.setting for pair in both))


def _records(both: Sequence[Pair]) -> list[Record]:
    return [each.record for pair in both for each in (pair.before, pair.after)]


def _ratios(setting: str) -> charts.Chart:
    shown = ("before", "after", "ratio", "low", "high")
    base = charts.draw(setting=setting).encode(
        y=alt.Y("strategy:N", title=None, sort=None, axis=None),
        color=charts.colour(CHANGES),
        tooltip=charts.tooltip(strategy="", change="", **dict.fromkeys(shown, ".3f")),
    )
    across = charts.x("low", "speedup after / before", zero=False)
    return charts.layers(
        charts.reference("x", 1, "as before"),
        base.mark_rule(strokeWidth=2).encode(x=across, x2="high:Q"),
        base.mark_point().encode(x="ratio:Q", shape=charts.shape(CHANGES)),
        charts.names(base, "strategy", above=11),
    ).properties(height=alt.Step(36))


def side_by_side(both: Sequence[Pair]) -> Figure:
    """Draw each speedup before and after."""
    rows: list[Row] = [
        {
            "setting": each.setting,
            "strategy": each.name,
            "side": side,
            "speedup": each.value,
            "low": each.low,
            "high": each.high,
            charts.CROWDED: each.oversubscribed,
        }
        for pair in both
        for side, each in zip(SIDES.names, (pair.before, pair.after), strict=True)
    ]
    return Figure(
        id="before-and-after",
        title="How fast was each before, and how fast is it now?",
        measured=MEASURED,
        see="Where the two intervals of a strategy overlap by much, nothing has changed that this "
        "measurement can see.",
        alt=f"{counted(len(both), 'speedup')} before and after, each with its interval.",
        rows=rows,
        charts={"": [Panel(name, _sides(name, both)) for name in _settings(both)]},
        series=SIDES,
        records=_records(both),
    )


def _sides(setting: str, both: Sequence[Pair]) -> charts.Chart:
    base = charts.draw(setting=setting).encode(
        y=alt.Y("strategy:N", title=None, sort=None, axis=None),
        color=charts.colour(SIDES),
        tooltip=charts.tooltip(strategy="", side="", speedup=".3f", low=".3f", high=".3f"),
    )
    marks: list[charts.Chart] = []
    for side, offset in zip(SIDES.names, (0, 11), strict=True):
        marks += charts.interval(base, SIDES, side, "speedup", offset, zero=False)
    rows = sum(pair.after.setting == setting for pair in both)
    drawn = charts.layers(*marks, charts.names(base, "strategy", above=12))
    return drawn.properties(height=44 * rows)
