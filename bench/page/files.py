"""The folder of a report: the page, a summary, and the pictures and data of each figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.page import two_runs
from bench.page.answers import Answer
from bench.page.answers import answers as answers_of
from bench.page.figure import Figure
from bench.page.images import Picture, named, pictures
from bench.page.machine import about
from bench.page.page import TITLE, Section, html, names, sections
from bench.page.records import Records
from bench.page.table import plain
from nn.atomic_write import atomic_write


def write(runs: Sequence[Records], folder: Path) -> Path:
    """Write the report of some runs, and return the path of its page.

    Raises:
        OSError: a file cannot be written.
    """
    made = sections(runs)
    figures = figures_of(made)
    drawn = {figure.id: pictures(figure) for figure in figures}
    answers = [two_runs.answer(*runs)] if len(runs) == 2 else []
    for records, run in zip(runs, names(runs), strict=True):
        answers += [replace(each, question=f"{each.question}{run}") for each in answers_of(records)]
    files = folder / "figures"
    files.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        _put(files / f"{figure.id}.csv", csv_of(figure).encode())
        for picture in drawn[figure.id]:
            _put(files / f"{picture.name}.svg", picture.svg.encode())
            _put(files / f"{picture.name}.png", picture.png())
    _put(folder / "summary.md", summary(runs, answers, made, drawn).encode())
    _put(folder / "index.html", html(runs, answers, made, drawn).encode())
    return folder / "index.html"


def figures_of(made: Sequence[Section]) -> list[Figure]:
    """All figures of a page, in its order."""
    return [figure for section in made for group in section.groups for figure in group]


def write_picture(runs: Sequence[Records], name: str, path: Path) -> None:
    """Write one picture, as SVG or PNG by the ending of the file.

    Raises:
        UnknownFigureError: no figure has the name.
        OSError: the file cannot be written.
    """
    picture = named(figures_of(sections(runs)), name)
    _put(path, picture.png() if path.suffix.lower() == ".png" else picture.svg.encode())


def _put(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def csv_of(figure: Figure) -> str:
    """The table of a figure, with every digit."""
    columns = list(dict.fromkeys(column for row in figure.rows for column in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(figure.rows)
    return text.getvalue()


def summary(
    runs: Sequence[Records],
    answers: Sequence[Answer],
    made: Sequence[Section],
    drawn: dict[str, list[Picture]],
) -> str:
    """The report in Markdown: answers with their tables, then each figure with its picture."""
    lines = [f"# {TITLE}", "", *(plain(about(records)) for records in runs), ""]
    lines += [f"- {plain(line)}" for records in runs for line in records.damaged]
    for answer in answers:
        lines += ["", f"## {answer.question}", "", plain(answer.sentence), ""]
        lines += [answer.table.markdown()] if answer.table else []
        lines += [f"{plain(note)}\n" for note in answer.notes]
    for section in made:
        lines += ["", f"## {section.title}", ""]
        for figure in (figure for group in section.groups for figure in group):
            lines += [f"### {plain(figure.title)}", "", plain(figure.see), ""]
            lines += [f"![{plain(figure.alt)}](figures/{p.name}.png)\n" for p in drawn[figure.id]]
            lines += [f"{plain(figure.measured)} [Data](figures/{figure.id}.csv)", ""]
        lines += [f"{plain(each.what)}: `{each.command}` does so.\n" for each in section.missing]
    return "\n".join(lines) + "\n"
