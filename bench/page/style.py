"""How the pages look: colours, in the light and in the dark, and the style of page and charts.

Charts are drawn in the colours of LIGHT. In a page each becomes a variable of its style sheet, so
that a chart follows the colour scheme of its reader, and is light on paper. The eight series keep
a distance of 20 in CIELAB from each other, also to readers who lack a kind of cones, and a contrast
of 3 to the paper (tests/bench/page/test_style.py).
"""

import re
from pathlib import Path
from typing import Any

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f4f5f7",
    "ink": "#16191d",
    "muted": "#585f69",
    "line": "#d8dbe0",
    "link": "#0a50c8",
    "good": "#0b7a3b",
    "bad": "#c3221a",
    "doubt": "#8a5a00",
    "series-0": "#2e6ef5",
    "series-1": "#d77a00",
    "series-2": "#0aa681",
    "series-3": "#b755a1",
    "series-4": "#4a4a4a",
    "series-5": "#a08549",
    "series-6": "#391dd7",
    "series-7": "#793b13",
    "on-0": "#fffffe",
    "on-1": "#16191c",
    "on-little": "#15191d",
    "on-much": "#fffeff",
    "ramp-0": "#e7effe",
    "ramp-1": "#c2d7fb",
    "ramp-2": "#93b8f5",
    "ramp-3": "#5f94ea",
    "ramp-4": "#2f6cd0",
    "ramp-5": "#16479c",
}

DARK = {
    "paper": "#14171c",
    "panel": "#1d2128",
    "ink": "#eceef1",
    "muted": "#a6adb8",
    "line": "#3a404a",
    "link": "#8db8ff",
    "good": "#4fd18a",
    "bad": "#ff8a80",
    "doubt": "#f0b64a",
    "series-0": "#4a7fe0",
    "series-1": "#ff9720",
    "series-2": "#30ffaa",
    "series-3": "#e445a1",
    "series-4": "#c9d4d6",
    "series-5": "#caab5d",
    "series-6": "#8fcdff",
    "series-7": "#a56855",
    "on-0": "#0b0d10",
    "on-1": "#0b0d11",
    "on-little": "#f2f4f7",
    "on-much": "#0b0d12",
    "ramp-0": "#1f2733",
    "ramp-1": "#23406e",
    "ramp-2": "#2c5b9e",
    "ramp-3": "#3a70b8",
    "ramp-4": "#75a7ec",
    "ramp-5": "#b3d0fa",
}

SERIES = [colour for name, colour in LIGHT.items() if name.startswith("series-")]
"""Colours of things that are told apart."""

RAMP = [colour for name, colour in LIGHT.items() if name.startswith("ramp-")]
"""Colours of a little to much."""

ON_SERIES = [LIGHT["on-0"], LIGHT["on-1"]]
"""Colours of text on marks of the first two series."""

ON_RAMP = [LIGHT["on-little" if step < 4 else "on-much"] for step in range(len(RAMP))]
"""Colours of text on each colour of RAMP."""

SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke", "wedge"]
DASHES = [[1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 2], [12, 4], [1, 3], [6, 2, 2, 2]]
"""What tells series apart without colour."""

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"


def as_variables(text: str) -> str:
    """Replace every colour of LIGHT by its variable."""
    names = {colour: name for name, colour in LIGHT.items()}
    pattern = "|".join(map(re.escape, names))
    return re.sub(rf"({pattern})(?![0-9a-fA-F])", lambda found: f"var(--{names[found[0]]})", text)


def css() -> str:
    """The style sheet of a page; dark where the reader's system is, and light on paper."""

    def variables(palette: dict[str, str]) -> str:
        return "".join(f"--{name}: {colour};" for name, colour in palette.items())

    rules = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return (
        f":root {{ color-scheme: light dark; --font: {FONT}; {variables(LIGHT)} }}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {variables(DARK)} }} }}\n"
        f"{rules}"
    )


def config() -> dict[str, Any]:
    """The style of all charts, as Vega-Lite's `config`."""
    text = {"labelColor": LIGHT["ink"], "titleColor": LIGHT["muted"]}
    return {
        "background": LIGHT["paper"],
        "font": FONT,
        "padding": 4,
        "view": {"stroke": None},
        "axis": {
            **text,
            "domainColor": LIGHT["muted"],
            "tickColor": LIGHT["muted"],
            "gridColor": LIGHT["line"],
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelLimit": 0,
            "labelOverlap": "greedy",
            "labelSeparation": 6,
        },
        "legend": {
            **text,
            "labelFontSize": 12,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "orient": "top",
            "columns": 3,
            "labelLimit": 0,
            "symbolStrokeWidth": 2,
        },
        "header": {**text, "labelFontSize": 12},
        "title": {
            "color": LIGHT["ink"],
            "subtitleColor": LIGHT["muted"],
            "anchor": "start",
            "fontSize": 13,
            "fontWeight": 600,
        },
        "mark": {"color": SERIES[0]},
        "text": {"fontSize": 12, "color": LIGHT["ink"]},
        "rule": {"strokeWidth": 2, "color": LIGHT["ink"]},
        "line": {"strokeWidth": 2},
        "point": {"size": 60, "filled": True, "opacity": 1},
        "style": {
            "reference": {"color": LIGHT["muted"], "strokeDash": [4, 3], "strokeWidth": 1.5},
            "reference-text": {"color": LIGHT["muted"], "fontSize": 11},
        },
        "range": {"category": SERIES, "ordinal": RAMP, "ramp": RAMP, "heatmap": RAMP},
    }
