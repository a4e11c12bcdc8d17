"""Marks and scales that the charts have in common.

A chart draws from the table of its figure, which is named ROWS: `draw()` begins one. Its width is
that of its place in the page, and WIDTH in the files.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any, TypeAlias, cast

import altair as alt

from bench.page.figure import ROWS, Series
from bench.page.style import DASHES, LIGHT, SERIES, SHAPES

WIDTH = 360
"""Pixels of a chart in SVG and PNG files, without its axes."""

HEIGHT = 220
"""Pixels of a chart whose height does not depend on its rows."""

ROW = 30
"""Pixels of a row, where the rows are what is compared."""

Chart: TypeAlias = alt.Chart | alt.LayerChart


def draw(**only: Any) -> alt.Chart:
    """Begin a chart of the figure's table, of those rows whose columns have the given values."""
    chart = alt.Chart(alt.NamedData(name=ROWS)).properties(height=HEIGHT)
    for field, value in only.items():
        chart = chart.transform_filter(alt.FieldEqualPredicate(field=field, equal=value))
    return chart


def rows_high(rows: int) -> dict[str, Any]:
    """The height of a chart with so many rows, for `properties`."""
    return {"height": ROW * max(rows, 1)}


def layers(*parts: Chart) -> alt.LayerChart:
    """Draw charts over each other, the first below."""
    return cast(alt.LayerChart, alt.layer(*parts))


def apart(chart: alt.LayerChart, *channels: str) -> alt.LayerChart:
    """Let layers have scales of their own for some channels, such as "color"."""
    scales: Any = dict.fromkeys(channels, "independent")
    return chart.resolve_scale(**scales)


def constant(**values: Any) -> alt.Chart:
    """Begin a layer that is the same whatever was measured, of one row with these values."""
    return alt.Chart(alt.InlineData(values=[values]))


def reference(axis: str, value: float, label: str = "") -> Chart:
    """A dashed line across the chart at a value of its axis "x" or "y", with a label at its end."""
    at = {axis: alt.datum(value)}
    line = constant().mark_rule(style="reference").encode(**at)
    if not label:
        return line
    text = constant().mark_text(style="reference-text", align="right", baseline="bottom", dy=-3)
    end = {"y": alt.value(0)} if axis == "x" else {"x": alt.value("width")}
    return line + text.encode(**at, **end, text=alt.value(label))


def names(base: alt.Chart, field: str, above: int) -> alt.Chart:
    """The name of each row above its marks, where there is room for long ones."""
    text = base.mark_text(align="left", baseline="middle", dy=-above, fontSize=11)
    return text.encode(
        x=alt.value(2),
        text=f"{field}:N",
        color=alt.value(LIGHT["ink"]),
        tooltip=alt.value(None),
        order="count():Q",  # one text for all rows with a name
    )


def interval(
    base: alt.Chart, series: Series, name: str, value: str, below: int, zero: bool = True
) -> list[Chart]:
    """A value with its interval, `low` to `high`, of the rows of one of a series.

    Args:
        below: pixels below the middle of a row.
    """
    own = base.transform_filter(alt.FieldEqualPredicate(field=series.field, equal=name))
    ends = own.mark_rule(strokeWidth=2, yOffset=below)
    point = own.mark_point(yOffset=below)
    return [
        ends.encode(x=x("low", value, zero=zero), x2="high:Q"),
        point.encode(x=f"{value}:Q", shape=shape(series)),
    ]


TICKS = 6
"""About as many numbers stand at an axis, however wide it is."""


def x(field: str, title: str, zero: bool = True, log: bool = False, **axis: Any) -> alt.X:
    """A horizontal axis of numbers, which begins at 0 or at the least of them."""
    return alt.X(
        f"{field}:Q",
        title=title,
        axis=alt.Axis(tickCount=TICKS, **axis),
        scale=_scale(zero, log),
    )


def y(field: str, title: str, zero: bool = True, log: bool = False, **axis: Any) -> alt.Y:
    """A vertical axis of numbers, which begins at 0 or at the least of them."""
    return alt.Y(
        f"{field}:Q",
        title=title,
        axis=alt.Axis(tickCount=TICKS, **axis),
        scale=_scale(zero, log),
    )


def _scale(zero: bool, log: bool) -> alt.Scale:
    return alt.Scale(type="log") if log else alt.Scale(zero=zero)


def whole(field: str, title: str) -> alt.X:
    """A horizontal axis of counts, such as workers: each count that occurs, in order."""
    return alt.X(f"{field}:O", title=title, axis=alt.Axis(labelAngle=0, grid=True), sort=None)


def colour(series: Series) -> alt.Color:
    """Colours of a series."""
    return alt.Color(f"{series.field}:N", scale=_scale_of(series, SERIES), title=series.title)


def shape(series: Series) -> alt.Shape:
    """Shapes of a series, for readers without colours."""
    return alt.Shape(f"{series.field}:N", scale=_scale_of(series, SHAPES), title=series.title)


def dash(series: Series) -> alt.StrokeDash:
    """Dashes of a series, for readers without colours."""
    return alt.StrokeDash(f"{series.field}:N", scale=_scale_of(series, DASHES), title=series.title)


def _scale_of(series: Series, choices: Sequence[Any]) -> alt.Scale:
    return alt.Scale(domain=list(series.names), range=_first(choices, series))


def _first(choices: Sequence[Any], series: Series) -> list[Any]:
    if len(series.names) > len(choices):
        raise ValueError(
            f"{len(series.names)} {series.title}: expected at most {len(choices)}, as many as can "
            "be told apart; use places or panels instead of colours"
        )
    return list(choices[: len(series.names)])


def tooltip(**columns: str) -> list[alt.Tooltip]:
    """What is shown on hover: column -> Vega's format of a number, or "" for text."""
    return [
        alt.Tooltip(f"{field}:Q", title=_words(field), format=form)
        if form
        else alt.Tooltip(f"{field}:N", title=_words(field))
        for field, form in columns.items()
    ]


def _words(field: str) -> str:
    return field.replace("_", " ")


_NUMBERS = count()


def zoomed(chart: alt.Chart) -> alt.Chart:
    """Let readers zoom into the horizontal axis (shift and wheel) and move along it (drag).

    A double click shows all again.
    """
    zoom = alt.selection_interval(
        name=f"zoom_{next(_NUMBERS)}",  # charts in one file must not move each other
        bind="scales",
        encodings=["x"],
        zoom="wheel![event.shiftKey]",
    )
    return chart.add_params(zoom)


CROWDED = "more_workers_than_cores"
"""The column that says whether a row's workers have no core each."""


def over_workers(
    drawn: alt.Chart,
    series: Series,
    at: Sequence[int],
    value: tuple[str, str],
    ends: Sequence[str] = (),
    ideal: float | None = None,
    also: Sequence[str] = (),
) -> alt.LayerChart:
    """Draw a value against the column `workers`, with intervals.

    Rows that are `CROWDED` have hollow marks, and no line leads to them.

    Args:
        drawn: what `draw` has begun.
        at: numbers of workers that occur.
        value: its column, and the title of its axis.
        ends: columns of its interval, or none.
        ideal: where a line is drawn across.
        also: further columns that are shown on hover.
    """
    column, title = value
    shown = dict.fromkeys((column, *ends, *also), ".3f")
    axis = alt.Axis(values=list(at), format="d")
    base = drawn.encode(
        x=alt.X("workers:Q", title="workers", axis=axis, scale=alt.Scale(nice=False, padding=20)),
        tooltip=tooltip(**{series.field: "", "workers": "d"} | shown),
    )
    crowded = alt.FieldEqualPredicate(field=CROWDED, equal=True)
    usual = alt.FieldEqualPredicate(field=CROWDED, equal=False)
    height = y(column, title)
    line = base.transform_filter(usual).mark_line()
    parts: list[Chart] = [
        line.encode(y=height, color=colour(series), strokeDash=dash(series)),
        *([reference("y", ideal)] if ideal is not None else []),
    ]
    if ends:
        rule = base.mark_rule().encode(y=y(ends[0], title), y2=f"{ends[1]}:Q")
        parts.append(rule.encode(color=colour(series)))
    # A mark without rows would have the browser complain of axes without ends: one for both.
    fill = alt.condition(crowded, alt.value(LIGHT["paper"]), colour(series))
    point = base.mark_point(filled=True, strokeWidth=1.5)
    stroke = alt.Stroke(f"{series.field}:N", scale=_scale_of(series, SERIES), title=series.title)
    parts.append(point.encode(y=height, shape=shape(series), stroke=stroke, fill=fill))
    return layers(*parts)
