"""Charts as Vega-Lite: for the page, where a browser draws them, and for files."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import altair as alt

from bench.page.charts import WIDTH
from bench.page.figure import ROWS, Figure, Panel, Row
from bench.page.style import config

Spec = dict[str, Any]

CONFIG = config() | {"aria": False, "background": None, "padding": 2, "legend": {"disable": True}}
"""The style of charts in the page. It has buttons in place of legends, and texts for the blind."""

SHOWN = "shown"
"""The signal of a chart that holds the names of the series that are shown."""


def table(figure: Figure) -> list[Row]:
    """The rows of a figure as values that JSON knows: it has no infinity and no NaN."""
    return [
        {column: None if _not_finite(value) else value for column, value in row.items()}
        for row in figure.rows
    ]


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def for_page(figure: Figure) -> dict[str, list[Spec]]:
    """The charts of every tab, without their table, as wide as their places.

    Their style is `CONFIG`. The buttons of the page set the signal `SHOWN`.
    """
    return {
        tab: [_for_page(figure, panel) for panel in panels] for tab, panels in figure.charts.items()
    }


def _for_page(figure: Figure, panel: Panel) -> Spec:
    spec = panel.chart.properties(width="container").to_dict()
    del spec["config"]
    if isinstance(spec.get("height"), dict):
        spec["height"] = _pixels(spec, figure.rows)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    if figure.series:
        names = list(figure.series.names)
        spec["params"] = [*spec.get("params", ()), {"name": SHOWN, "value": names}]
        only = {"filter": f"indexof({SHOWN}, datum.{figure.series.field}) >= 0"}
        for view in _views(spec):
            view["transform"] = [*view.get("transform", ()), only]
    return spec


def _pixels(spec: Spec, rows: Sequence[Row]) -> int:
    """The height in pixels of a chart that has some for each value of y and its offset.

    Vega-Lite would count the values too, but warns of it in a chart that is as wide as its place.
    """
    view = next(view for view in _views(spec) if "y" in view["encoding"])
    for step in view.get("transform", ()):
        only = step["filter"]
        rows = [row for row in rows if row[only["field"]] == only["equal"]]
    fields = [view["encoding"][y]["field"] for y in ("y", "yOffset") if y in view["encoding"]]
    return math.prod(len({row[field] for row in rows}) for field in fields) * spec["height"]["step"]


def _views(spec: Spec, data: Any = None) -> Iterator[Spec]:
    """The marks of a chart that draw from the table of its figure."""
    data = spec.get("data", data)
    for layer in spec.get("layer", ()):
        yield from _views(layer, data)
    if "mark" in spec and data == {"name": ROWS}:
        yield spec


def _plain(text: str) -> str:
    """Text as a part of a file's name: small letters, digits and single hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def for_files(figure: Figure) -> Iterator[tuple[str, Spec]]:
    """The name of each file, without its ending, and what it shows: the charts of one tab."""
    for number, (tab, panels) in enumerate(figure.charts.items()):
        name = figure.id if number == 0 else f"{figure.id}-{_plain(tab)}"
        drawn = [
            panel.chart.properties(title=panel.title, width=WIDTH)
            if panel.title
            else panel.chart.properties(width=WIDTH)
            for panel in panels
        ]
        chart: Any = alt.concat(*drawn, columns=2) if len(drawn) > 1 else drawn[0]
        spec = chart.to_dict()
        spec |= {"config": config(), "datasets": spec.get("datasets", {}) | {ROWS: table(figure)}}
        yield name, spec
