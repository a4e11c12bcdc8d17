"""How do trainings go? Loss and accuracy against time and steps, and what happens on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records, measured_by
from bench.page.style import SERIES
from bench.page.words import counted, listed, spread
from bench.report.kinds import History

TITLE = "How do trainings go?"
COMMAND = "nox -s bench_mpi -- -n 2 bench/studies/time_to_accuracy.py"

POINTS = 80
"""Points of a curve of steps; a longer training is thinned."""

MEDIAN = "median"

ZERO = ("learning_rate", "samples_per_second", "steps_per_second")
"""Columns whose axis begins at 0."""

AXES = {"against time": ("seconds", "seconds of training"), "against steps": ("step", "steps")}


def figures(records: Records) -> list[Figure | Missing]:
    trainings = [t for t in records.of(History) if t.steps]
    if not trainings:
        return [Missing("No training has been recorded", COMMAND)]
    groups: dict[tuple[str, str, int], list[History]] = {}
    for t in trainings:
        names = list(dict.fromkeys(map(label, trainings)))
        part = names.index(label(t)) // len(SERIES)
        groups.setdefault((measured_by(t), t.dataset, part), []).append(t)
    drawn: list[Figure | Missing] = []
    for number, ((_, dataset, _), group) in enumerate(groups.items(), 1):
        suffix = "" if number == 1 else f"-{number}"
        if any(t.evaluations for t in group):
            drawn.append(evaluations(group, dataset, suffix))
            drawn += per_class(group, dataset, suffix)
        drawn.append(steps(group, dataset, suffix))
    return drawn


def label(t: History) -> str:
    """What a training is called."""
    return t.name or f"{t.strategy}, {counted(t.workers, 'worker')}"


def _series(trainings: Sequence[History]) -> Series:
    return Series("training", list(dict.fromkeys(map(label, trainings))), "training")


def _runs(trainings: Sequence[History]) -> list[tuple[int, History]]:
    """Every training with its number among those of its name."""
    seen: dict[str, int] = {}
    numbered = []
    for t in trainings:
        seen[label(t)] = seen.get(label(t), 0) + 1
        numbered.append((seen[label(t)], t))
    return numbered


def evaluations(trainings: Sequence[History], dataset: str, suffix: str) -> Figure:
    """What evaluations found, against time and against steps."""
    series = _series(trainings)
    rows: list[Row] = [
        {
            "training": label(t),
            "run": f"{run}",
            "step": each.step,
            "seconds": each.seconds,
            **{_column(k): v for k, v in each.values.items() if not k.startswith("class ")},
        }
        for run, t in _runs(trainings)
        for each in t.evaluations
    ]
    rows += [row for name in series.names for row in _median(rows, name)]
    values = [c for c in dict.fromkeys(c for row in rows for c in row) if c not in _ABOUT]
    last = [t.evaluations[-1] for t in trainings if t.evaluations]
    ends = ", ".join(
        f"{name} {np.median([e.values[name] for e in last if name in e.values]):.4g}"
        for name in last[0].values
        if not name.startswith("class ")
    )
    repeats = spread((sum(label(t) == name for t in trainings) for name in series.names), "time")
    how = (
        "once: a line for each."
        if repeats == "1 time"
        else f"{repeats} from different seeds: a thin line for each, a thick one for the median of "
        "their times and values."
    )
    return Figure(
        id=f"training{suffix}",
        title=f"Loss and accuracy on {dataset}",
        measured=f"Each way to train {how} The clock stands while weights are evaluated.",
        see="The further to the left a line gets to where it should, the sooner it is there. "
        f"At the end, as a median over all: {ends}.",
        alt=f"Curves of {listed(values)} of {listed(series.names)} against time and steps.",
        rows=rows,
        charts={
            tab: [Panel(_words(value), _curve(axis, value, series)) for value in values]
            for tab, axis in AXES.items()
        },
        series=series,
        records=trainings,
    )


def _median(rows: Sequence[Row], name: str) -> list[Row]:
    """The median over all runs of a training at every evaluation that all of them have."""
    runs: dict[str, list[Row]] = {}
    for row in rows:
        if row["training"] == name:
            runs.setdefault(row["run"], []).append(row)
    return [
        {"training": name, "run": MEDIAN}
        | {
            column: float(np.median([row[column] for row in at_once]))
            for column in at_once[0]
            if column not in ("training", "run") and all(column in row for row in at_once)
        }
        for at_once in zip(*runs.values())
    ]


_ABOUT = ("training", "run", "step", "seconds")


def _column(name: str) -> str:
    """A column's name: letters, digits and `_`."""
    return "".join(c if c.isalnum() and c.isascii() else "_" for c in name)


def _words(column: str) -> str:
    return column.replace("_", " ")


def _curve(axis: tuple[str, str], value: str, series: Series) -> charts.Chart:
    """Lines of a value: thin for single runs, and thick for their median."""

    def lines(chart: alt.Chart) -> alt.Chart:
        return chart.encode(
            x=charts.x(*axis),
            y=charts.y(value, _words(value), zero=False, log=value == "loss"),
            color=charts.colour(series),
            detail="run:N",
            tooltip=charts.tooltip(
                **{"training": "", "run": "", "step": "d", "seconds": ".3f", value: ".4f"}
            ),
        )

    known = charts.draw().transform_filter(alt.FieldValidPredicate(field=value, valid=True))
    of_median = alt.FieldEqualPredicate(field="run", equal=MEDIAN)
    single = lines(
        known.transform_filter(f"datum.run !== '{MEDIAN}'").mark_line(strokeWidth=1, opacity=0.4)
    )
    median = lines(known.transform_filter(of_median).mark_line(strokeWidth=2.5))
    return charts.layers(single, charts.zoomed(median).encode(strokeDash=charts.dash(series)))


def steps(trainings: Sequence[History], dataset: str, suffix: str) -> Figure:
    """What every step left: loss of the batch, learning rate, gradient norm, speed."""
    series = _series(trainings)
    first = [t for run, t in _runs(trainings) if run == 1]
    rows = [row for t in first for row in _steps(t)]
    columns = {
        "loss": "loss of the batch",
        "learning_rate": "learning rate",
        "grad_norm": "gradient norm",
        "samples_per_second": "samples/s",
        "steps_per_second": "steps/s",
    }
    known = {c: t for c, t in columns.items() if any(_is_number(row[c]) for row in rows)}
    fastest = max(first, key=lambda t: t.samples_per_second)
    return Figure(
        id=f"training-steps{suffix}",
        title=f"Step by step on {dataset}",
        measured="The first training of each kind, as rank 0 saw it; of long ones "
        f"{POINTS} steps, evenly apart. Speeds are means from one shown step to the next.",
        see=f"{label(fastest)} trains most samples in a second, {fastest.samples_per_second:,.0f}.",
        alt=f"Curves of {listed(known.values())} of {listed(series.names)}.",
        rows=rows,
        charts={
            tab: [Panel(title, _line(axis, column, series)) for column, title in known.items()]
            for tab, axis in AXES.items()
        },
        series=series,
        records=first,
    )


def _line(axis: tuple[str, str], value: str, series: Series) -> charts.Chart:
    line = (
        charts.draw()
        .transform_filter(alt.FieldValidPredicate(field=value, valid=True))
        .mark_line(strokeWidth=1.5)
        .encode(
            x=charts.x(*axis),
            y=charts.y(value, _words(value), zero=value in ZERO, log=value == "loss"),
            color=charts.colour(series),
            strokeDash=charts.dash(series),
            tooltip=charts.tooltip(**{"training": "", "step": "d", "seconds": ".3f", value: ".4f"}),
        )
    )
    return charts.zoomed(line)


def _is_number(value: Any) -> bool:
    return value is not None and bool(np.isfinite(value))


def _steps(t: History) -> list[Row]:
    shown = np.unique(np.linspace(0, t.steps - 1, min(POINTS, t.steps)).astype(int))
    # Norms are known at few steps: all of these are shown.
    known = [i for i, norm in enumerate(t.grad_norm) if np.isfinite(norm)]
    rows, before = [], -1
    for i in sorted({*map(int, shown), *known[:POINTS]}):
        seconds = t.seconds[i] - (t.seconds[before] if before >= 0 else 0.0)
        samples = t.samples[i] - (t.samples[before] if before >= 0 else 0)
        rows.append(
            {
                "training": label(t),
                "step": i + 1,
                "seconds": t.seconds[i],
                "loss": t.loss[i],
                "learning_rate": t.learning_rate[i] if t.learning_rate else None,
                "grad_norm": t.grad_norm[i] if t.grad_norm else None,
                "samples_per_second": samples / seconds if seconds else None,
                "steps_per_second": (i - before) / seconds if seconds else None,
            }
        )
        before = i
    return rows


def per_class(trainings: Sequence[History], dataset: str, suffix: str) -> list[Figure]:
    """Accuracy on every class at the end, if it was evaluated."""
    series = _series(trainings)
    rows: list[Row] = []
    for name in series.names:
        last = [t.evaluations[-1].values for t in trainings if label(t) == name and t.evaluations]
        classes = [k for k in (last[0] if last else ()) if k.startswith("class ")]
        rows += [
            {
                "training": name,
                "class_name": k.removeprefix("class "),
                "accuracy": float(np.mean([values[k] for values in last])),
                "trainings": len(last),
            }
            for k in classes
        ]
    if not rows:
        return []
    worst = min(rows, key=lambda row: row["accuracy"])
    chart = (
        charts.draw()
        .mark_point()
        .encode(
            x=alt.X("class_name:O", title="class", sort=None, axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("training:N", sort=list(series.names)),
            y=charts.y("accuracy", "test accuracy", zero=False, format="%"),
            color=charts.colour(series),
            shape=charts.shape(series),
            tooltip=charts.tooltip(training="", class_name="", accuracy=".2%", trainings="d"),
        )
    )
    return [
        Figure(
            id=f"training-classes{suffix}",
            title=f"Accuracy on each class of {dataset}",
            measured="Share of the class's test rows that are sorted right after training, as a "
            "mean over seeds.",
            see=f"The hardest class is {worst['class_name']}: {worst['training']} sorts "
            f"{worst['accuracy']:.1%} of it right.",
            alt=f"Points of the accuracy of {listed(series.names)} on every class.",
            rows=rows,
            charts={"": [Panel("", chart)]},
            series=series,
            records=trainings,
        )
    ]
