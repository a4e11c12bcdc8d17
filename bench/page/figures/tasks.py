"""Many trainings at once: k-fold cross-validation, searches and ensembles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from bench.page import charts
from bench.page.figure import Figure, Missing, Panel, Row, Series
from bench.page.records import Records
from bench.page.style import RAMP
from bench.page.words import counted, listed
from bench.report.kinds import EnsembleScores, KFold, Search

TITLE = "Many trainings at once"

STUDY = "nox -s bench_mpi -- -n 2 bench/studies/{}.py --quick"


def figures(records: Records) -> list[Figure | Missing]:
    return [
        *(kfolds(records) or [_missing("No cross-validation", "kfold")]),
        *(searches(records) or [_missing("No search of hyper-parameters", "search")]),
        *(ensembles(records) or [_missing("No ensemble", "ensemble")]),
    ]


def _missing(what: str, study: str) -> Missing:
    return Missing(f"{what} has been measured", STUDY.format(study))


def kfolds(records: Records) -> list[Figure | Missing]:
    results = records.of(KFold)
    return [parity(results), of_classes(results)] if results else []


def _series_of_executors(results: Sequence[KFold]) -> Series:
    names = list(dict.fromkeys(result.executor for result in results))
    return Series("executor", names[: len(charts.SERIES)], "trained by")


def parity(results: Sequence[KFold]) -> Figure:
    """Accuracy of every model and schedule, serial beside parallel, fold by fold."""
    rows: list[Row] = []
    first: dict[tuple[Any, ...], list[str]] = {}
    for result in results:
        for scores in result.scores:
            key = (result.dataset, result.k, result.seed, scores.model, scores.schedule)
            weights = [fold.weights for fold in scores.folds]
            same = first.setdefault(key, weights) == weights and all(weights)
            rows += [
                {
                    "dataset": result.dataset,
                    "model": f"{scores.model}, {scores.schedule}",
                    "executor": result.executor,
                    "fold": number,
                    "accuracy": fold.accuracy,
                    "mean": scores.mean,
                    "spread": scores.spread if len(scores.folds) > 1 else None,
                    "seconds": fold.seconds,
                    "same_bits_as_the_first": same,
                }
                for number, fold in enumerate(scores.folds)
            ]
    series = _series_of_executors(results)
    differ = sum(not row["same_bits_as_the_first"] for row in rows)
    several = len(series.names) > 1
    see = (
        "Every fold has the same weights to the bit, whoever trained it: marks lie on one another."
        if several and not differ
        else f"{counted(differ, 'fold')} differ in their weights."
        if several
        else f"The best mean is {max(row['mean'] for row in rows):.2%}."
    )
    sets = list(dict.fromkeys(row["dataset"] for row in rows))
    return Figure(
        id="kfold",
        title="Do serial and parallel cross-validation come to the same?",
        measured="Accuracy on the rows that each fold holds out. "
        + "; ".join(f"{r.executor}: {r.seconds:.2f} s" for r in results)
        + ".",
        see=see,
        alt=f"Points of the accuracy of each fold of {listed({row['model']: 0 for row in rows})}.",
        rows=rows,
        charts={"": [Panel(name, _folds(name, rows, series)) for name in sets]},
        series=series,
        records=results,
    )


def _folds(name: str, rows: Sequence[Row], series: Series) -> charts.Chart:
    base = charts.draw(dataset=name).encode(
        y=alt.Y("model:N", title=None, sort=None, axis=alt.Axis(grid=True)),
        yOffset=alt.YOffset("executor:N", sort=list(series.names)),
        color=charts.colour(series),
        tooltip=charts.tooltip(
            model="", executor="", fold="d", accuracy=".2%", mean=".2%", seconds=".2f"
        ),
    )
    points = base.mark_point(opacity=0.6).encode(
        x=charts.x("accuracy", "accuracy on the held-out rows", zero=False, format="%"),
        shape=charts.shape(series),
    )
    means = base.mark_tick(thickness=3, size=14).encode(x="mean:Q")
    return charts.layers(points, means).properties(height=alt.Step(18))


def of_classes(results: Sequence[KFold]) -> Figure:
    """Accuracy on every class, for each model and schedule of the last result."""
    result = results[-1]
    rows: list[Row] = [
        {"model": f"{s.model}, {s.schedule}", "class_name": k, "accuracy": accuracy}
        for s in result.scores
        for k, accuracy in enumerate(s.of_class)
    ]
    known = [row for row in rows if np.isfinite(row["accuracy"])]
    hardest = ""
    if known:
        worst = min(known, key=lambda row: row["accuracy"])
        hardest = f" The hardest is class {worst['class_name']}: {worst['model']} sorts "
        hardest += f"{worst['accuracy']:.1%} of it right."
    low = min((row["accuracy"] for row in known), default=0.0)
    steps = [float(step) for step in np.linspace(low, 1, len(RAMP) + 1)[1:-1]]
    scale = alt.Scale(type="threshold", domain=steps, range=RAMP)
    chart = (
        charts.draw()
        .mark_rect(stroke=charts.LIGHT["paper"])
        .encode(
            x=alt.X("class_name:O", title="class", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("model:N", title=None, sort=None),
            color=alt.Color("accuracy:Q", scale=scale, title="accuracy", legend=_PERCENT),
            tooltip=charts.tooltip(model="", class_name="", accuracy=".2%"),
        )
        .properties(height=alt.Step(24))
    )
    return Figure(
        id="kfold-classes",
        title="Which classes are hard?",
        measured=f"Share of each class's rows of {result.dataset} that were sorted right while "
        "they were held out.",
        see=f"The darker the better.{hardest}",
        alt="A map of models and classes, darker where more rows are sorted right.",
        rows=rows,
        charts={"": [Panel("", chart)]},
        records=[result],
    )


_PERCENT = alt.Legend(format=".0%", orient="bottom", direction="horizontal", gradientLength=160)


def searches(records: Records) -> list[Figure | Missing]:
    results = [s for s in records.of(Search) if any(trial.rungs for trial in s.trials)]
    return [against_budget(results), parallel_coordinates(results)] if results else []


def _named(results: Sequence[Search]) -> list[tuple[str, Search]]:
    """Every search with a name of its own."""
    seen: dict[str, int] = {}
    named = []
    for search in results:
        name = f"{search.how}, {search.executor}"
        seen[name] = seen.get(name, 0) + 1
        named.append((name if seen[name] == 1 else f"{name} ({seen[name]})", search))
    return named


def against_budget(results: Sequence[Search]) -> Figure:
    """The best accuracy so far against the epochs that were trained for it."""
    named = _named(results)[: len(charts.SERIES)]
    rows: list[Row] = []
    for name, search in named:
        spent, best = 0, 0.0
        before: dict[int, int] = {}
        ended = [(rung, trial) for trial in search.trials for rung in trial.rungs]
        for rung, trial in sorted(ended, key=lambda each: (each[0].epochs, each[1].number)):
            spent += rung.epochs - before.get(trial.number, 0)
            before[trial.number] = rung.epochs
            if not rung.error and rung.accuracy > best:
                best = rung.accuracy
                rows.append(
                    {
                        "search": name,
                        "epochs_spent": spent,
                        "accuracy": best,
                        "trial": trial.number,
                        "trained_epochs": rung.epochs,
                    }
                )
    series = Series("search", [name for name, _ in named], "search")
    line = (
        charts.draw()
        .mark_line(interpolate="step-after", point=True)
        .encode(
            x=charts.x("epochs_spent", "epochs trained by all trials"),
            y=charts.y("accuracy", "best validation accuracy", zero=False, format="%"),
            color=charts.colour(series),
            strokeDash=charts.dash(series),
            tooltip=charts.tooltip(
                search="", epochs_spent="d", accuracy=".2%", trial="d", trained_epochs="d"
            ),
        )
    )
    ends = "; ".join(
        f"{name}: {search.test_accuracy:.1%} of the test rows after {search.work:.1f} s of work"
        for name, search in named
    )
    return Figure(
        id="search-budget",
        title="What does a search find for its budget?",
        measured=f"The best accuracy on the validation rows so far. {ends}.",
        see="The further up and to the left, the better is the budget spent.",
        alt=f"Steps of the best accuracy against epochs of {listed(series.names)}.",
        rows=rows or [{"search": named[0][0], "epochs_spent": 0, "accuracy": None}],
        charts={"": [Panel("", charts.zoomed(line))]},
        series=series,
        records=[search for _, search in named],
    )


def parallel_coordinates(results: Sequence[Search]) -> Figure:
    """Every trial as a line through its hyper-parameters and the accuracy that it came to."""
    rows: list[Row] = []
    panels = []
    for name, search in _named(results):
        tried = [trial for trial in search.trials if trial.rungs and not trial.rungs[-1].error]
        axes = _axes([trial.configuration for trial in tried])
        found = [trial.rungs[-1].accuracy for trial in tried]
        axes["accuracy"] = {i: at for i, at in enumerate(_scaled(found))}
        for i, trial in enumerate(tried):
            values = {**trial.configuration, "accuracy": trial.rungs[-1].accuracy}
            rows += [
                {
                    "search": name,
                    "trial": trial.number,
                    "parameter": parameter,
                    "value": _text(values.get(parameter)),
                    "place": places[i],
                    "accuracy": trial.rungs[-1].accuracy,
                }
                for parameter, places in axes.items()
            ]
        if tried:
            panels.append(Panel(name, _coordinates(name, list(axes), found)))
    return Figure(
        id="search-trials",
        title="Which hyper-parameters go with which accuracy?",
        measured=f"{counted(sum(len(s.trials) for s in results), 'trial')}; each line is a trial, "
        "and each axis goes from the least of its values to the largest.",
        see="Dark lines are accurate trials: where they pass together, a value matters.",
        alt="Lines of all trials through their hyper-parameters and their accuracy.",
        rows=rows or [{"search": "none", "place": 0.0}],
        charts={"": panels or [Panel("", charts.draw().mark_point().encode(x="place:Q"))]},
        records=results,
    )


def _axes(configurations: Sequence[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Hyper-parameters that vary -> the place of each trial's value on its axis, 0 to 1."""
    names = list(dict.fromkeys(name for each in configurations for name in each))
    axes = {}
    for name in names:
        values = [each.get(name) for each in configurations]
        if len({str(value) for value in values}) > 1:
            axes[name] = dict(enumerate(_scaled(values)))
    return axes


def _scaled(values: Sequence[Any]) -> list[float]:
    """Places from 0 to 1: of positive numbers far apart by their logarithm, of text in order."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        numbers = np.array(values, float)
        if numbers.min() > 0 and numbers.max() / numbers.min() > 20:
            numbers = np.log(numbers)
    else:
        texts = sorted({str(value) for value in values})
        numbers = np.array([texts.index(str(value)) for value in values], float)
    width = np.ptp(numbers)
    return list(map(float, (numbers - numbers.min()) / width if width else 0 * numbers + 0.5))


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _coordinates(name: str, axes: Sequence[str], found: Sequence[float]) -> charts.Chart:
    low, high = min(found), max(found)
    steps = [float(step) for step in np.linspace(low, high, len(RAMP))[1:-1]]
    shades = RAMP[1:]
    scale = alt.Scale(type="threshold", domain=steps, range=shades)
    return (
        charts.draw(search=name)
        .mark_line(strokeWidth=1.5, opacity=0.8)
        .encode(
            x=alt.X(
                "parameter:N", sort=list(axes), title=None, axis=alt.Axis(labelAngle=0, grid=True)
            ),
            y=alt.Y("place:Q", title="least to largest", axis=alt.Axis(labels=False, ticks=False)),
            color=alt.Color("accuracy:Q", scale=scale, legend=_PERCENT),
            detail="trial:N",
            order=alt.Order("accuracy:Q"),
            tooltip=charts.tooltip(trial="d", parameter="", value="", accuracy=".2%"),
        )
    )


def ensembles(records: Records) -> list[Figure | Missing]:
    results = records.of(EnsembleScores)
    if not results:
        return []
    rows: list[Row] = []
    for found in results:
        for kind, scores in (("member", found.members), ("together", found.combinations)):
            rows += [
                {
                    "dataset": found.dataset,
                    "who": name,
                    "kind": kind,
                    "repeat": repeat,
                    "accuracy": share,
                    "mean": float(np.mean(shares)),
                }
                for name, shares in scores.items()
                for repeat, share in enumerate(shares)
            ]
    series = Series("kind", ["member", "together"], "who sorts")
    last = results[-1]
    way = max(last.combinations, key=last.gain)
    sets = list(dict.fromkeys(found.dataset for found in results))

    def points(name: str) -> charts.Chart:
        base = charts.draw(dataset=name).encode(
            y=alt.Y("who:N", title=None, sort=None, axis=alt.Axis(grid=True)),
            color=charts.colour(series),
            tooltip=charts.tooltip(who="", repeat="d", accuracy=".2%", mean=".2%"),
        )
        dots = base.mark_point(opacity=0.6).encode(
            x=charts.x("accuracy", "accuracy on the test rows", zero=False, format="%"),
            shape=charts.shape(series),
        )
        ticks = base.mark_tick(thickness=3, size=18).encode(x="mean:Q")
        return charts.layers(dots, ticks).properties(height=alt.Step(26))

    return [
        Figure(
            id="ensemble",
            title="Do several models sort better than the best of them?",
            measured=f"Accuracy on the test rows of {listed(sets)}, repeated with "
            f"{counted(last.repeats, 'seed')}; lines are means.",
            see=f"Combined by “{way}” they are {last.gain(way):+.2%} better than "
            f"{last.best_member}, {'more' if last.pays(way) else 'not more'} than the spread over "
            "seeds.",
            alt=f"Points of the accuracy of {listed({row['who']: 0 for row in rows})}.",
            rows=rows,
            charts={"": [Panel(name, points(name)) for name in sets]},
            series=series,
            records=results,
        )
    ]
