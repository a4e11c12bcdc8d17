"""The page: answers and figures put together as HTML that needs no other file and no network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from bench.page import machine, specs, style, two_runs
from bench.page.answers import Answer
from bench.page.figure import Figure, Missing
from bench.page.figures import TOPICS
from bench.page.images import Picture
from bench.page.records import Records
from bench.page.symbols import symbol
from bench.page.table import of_rows

HERE = Path(__file__).parent

TITLE = "Lockstep: what was proven and measured"

MOST_ROWS = 40
"""Rows of a figure's table in the page; all of them are in its CSV file."""


@dataclass(frozen=True)
class Section:
    """A topic of the page.

    Attributes:
        groups: figures that stand side by side, one for each run that has them.
        missing: what no run has.
    """

    id: str
    title: str
    groups: Sequence[Sequence[Figure]]
    missing: Sequence[Missing]


def names(runs: Sequence[Records]) -> list[str]:
    """What each run is called beside its figures; "" where there is only one."""
    if len(runs) < 3:
        return [""] if len(runs) == 1 else [f" ({name})" for name in two_runs.SIDES.names]
    return [f" ({', '.join(source.path.name for source in each.sources)})" for each in runs]


def sections(runs: Sequence[Records]) -> list[Section]:
    """Draw every topic of every run; a figure that several runs have is drawn side by side.

    Of two runs, what has changed comes first.
    """
    made = []
    if len(runs) == 2:
        changes = [[figure] for figure in two_runs.figures(*runs)]
        made += [Section("about-two-runs", "Before and after", changes, [])] if changes else []
    for topic in TOPICS:
        drawn: dict[str, list[Figure]] = {}
        missing: dict[str, list[Missing]] = {}
        for records, run in zip(runs, names(runs), strict=True):
            for each in topic.figures(records):
                if isinstance(each, Missing):
                    missing.setdefault(str(each), []).append(each)
                    continue
                group = drawn.setdefault(each.id, [])
                number = len(group) + 1
                id = each.id if number == 1 else f"{each.id}-{number}"
                group.append(replace(each, id=id, title=f"{each.title}{run}"))
        nowhere = [each[0] for each in missing.values() if len(each) == len(runs)]
        name = topic.__name__.rpartition(".")[2].replace("_", "-")
        made.append(Section(f"about-{name}", topic.TITLE, list(drawn.values()), nowhere))
    return made


def html(
    runs: Sequence[Records],
    answers: Sequence[Answer],
    made: Sequence[Section],
    pictures: dict[str, list[Picture]],
) -> str:
    """Render the page.

    Args:
        runs: what it shows; one, or several to compare.
        pictures: of every figure, by its id.
    """
    vega, script = vega_bundle(), (HERE / "page.js").read_text(encoding="utf-8")
    shared = json_in_page({"config": json.loads(style.as_variables(json.dumps(specs.CONFIG)))})
    scripts = [vega, script]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["code"] = code
    return environment.get_template("page.html.j2").render(
        title=TITLE,
        about=" ".join(machine.about(records) for records in runs),
        css=Markup(style.css()),
        hashes=Markup(" ".join(f"'sha256-{_hash(text)}'" for text in scripts)),
        vega=Markup(vega),
        script=Markup(script),
        shared=shared,
        damaged=list(dict.fromkeys(line for records in runs for line in records.damaged)),
        answers=answers,
        sections=[
            {
                "id": section.id,
                "title": section.title,
                "missing": section.missing,
                "groups": [
                    [_shown(figure, pictures[figure.id], _where(runs, figure)) for figure in group]
                    for group in section.groups
                ],
            }
            for section in made
        ],
        machines=[table for records in runs for table in machine.machines(records)],
    )


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script, from vl-convert."""
    bundle = cast(Any, vl_convert).javascript_bundle()  # its stub asks for an argument too many
    return bundle.replace("</script", "<\\/script")


def code(text: str) -> Markup:
    """Text as HTML, in which `this` is code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def json_in_page(value: Any) -> Markup:
    """JSON that no browser takes for markup, whatever text is in it."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _where(runs: Sequence[Records], figure: Figure) -> str:
    """Say where and when a figure's results were measured."""
    sources = {}
    for records in runs:
        for record in figure.records:
            if source := records.source(record):
                sources[source.path] = source
    said = [
        f"{source.date[:16].replace('T', ' ')} in {source.path.name}" for source in sources.values()
    ]
    return f"Measured {'; '.join(said)}." if said else ""


def _shown(figure: Figure, pictures: Sequence[Picture], where: str) -> dict[str, Any]:
    """What the template needs of a figure."""
    rows, tabs = specs.table(figure), specs.for_page(figure)
    series = figure.series
    content = json.loads(style.as_variables(json.dumps(list(tabs.values()))))
    files = {f"{p.tab} SVG".strip(): f"figures/{p.name}.svg" for p in pictures}
    files |= {f"{p.tab} PNG".strip(): f"figures/{p.name}.png" for p in pictures}
    more = ""
    if len(rows) > MOST_ROWS:
        more = f"The first {MOST_ROWS} of {len(rows):,} rows; all are in figures/{figure.id}.csv."
    return {
        "id": figure.id,
        "title": figure.title,
        "see": figure.see,
        "alt": figure.alt,
        "measured": figure.measured,
        "where": where,
        "series_title": series.title if series else "",
        "symbols": [
            {"name": name, "svg": symbol(number)}
            for number, name in enumerate(series.names if series else ())
        ],
        "panes": [
            {
                "name": tab,
                "titles": [panel.title for panel in panels],
                "svg": Markup(still(picture.svg)),
            }
            for (tab, panels), picture in zip(figure.charts.items(), pictures, strict=True)
        ],
        "files": {"CSV": f"figures/{figure.id}.csv"} | files,
        "table": of_rows(f"Data: {figure.title}", rows[:MOST_ROWS]),
        "more": more,
        "json": json_in_page({"rows": rows, "tabs": content}),
    }


_TAG = re.compile(r"""<[a-z](?:[^"'>]|"[^"]*"|'[^']*')*>""")
_NEEDLESS = re.compile(
    r' (?:(?:aria-[a-z]+|role|font-family|pointer-events)="[^"]*"|(?:fill-|stroke-)?opacity="1")'
)
_PLACE = re.compile(r'(?<= )(?:d|transform|[xy][12]?|width|height)="[^"]*"')
_DECIMALS = re.compile(r"(\.\d)\d+")


def still(svg: str) -> str:
    """An SVG file as a part of the page: in its colours, and small.

    Places are cut to tenths of a pixel. What is read aloud is the text around the picture, and the
    style sheet names the font.
    """

    def smaller(tag: re.Match[str]) -> str:
        needed = _NEEDLESS.sub("", tag[0])
        return _PLACE.sub(lambda place: _DECIMALS.sub(r"\1", place[0]), needed)

    return style.as_variables(_TAG.sub(smaller, svg[svg.index("<svg") :]))
