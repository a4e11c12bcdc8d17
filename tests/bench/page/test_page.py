"""The page in one piece: answers first, nothing from outside, and names that are no markup."""

import json
import re
from dataclasses import replace

import pytest

from bench.page.__main__ import main
from bench.report.kinds import Mutant, Proof, WrongCell
from tests.bench.page import examples
from tests.bench.page.examples import EVIL
from tests.support.optional import needs

pytestmark = [pytest.mark.workers(1)]
report = needs("altair", "vl_convert")


def page_of(folder, *runs):
    assert main([*map(str, runs), "-o", str(folder)]) == 0
    return (folder / "index.html").read_text(encoding="utf-8")


def markup(page):
    """A page without what stands in its scripts."""
    return re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", page, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    run = examples.save(folder / "run.jsonl", examples.grid())
    page_of(folder, run)
    return folder


@report
def test_every_figure_has_its_files(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'href="(figures/[^"]+)"', page))
    assert {"figures/speedup-by-strategy.csv", "figures/pipeline-timeline.svg"} <= named
    assert named == {f"figures/{path.name}" for path in (folder / "figures").iterdir()}
    for path in (folder / "figures").glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    assert len(page) < 4e6


@report
def test_the_answers_come_first(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    body = page[page.index("<main") :]
    same, pays = body.index("still learn the same weights?"), body.index("Does it pay here?")
    assert same < pays < body.index("<figure")
    assert "in all 2 trainings" in body
    assert "caught 1 of 2 planted bugs" in body
    summary = (folder / "summary.md").read_text(encoding="utf-8")
    assert summary.index("same weights") < summary.index("pay here") < summary.index("![")


@report
def test_nothing_comes_from_outside(folder):
    page = (folder / "index.html").read_text(encoding="utf-8")
    head = page[: page.index("</head>")]
    assert "default-src 'none'" in head
    outside = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]*)"', markup(page))
    assert outside == ["data:,"]


@report
def test_names_from_records_are_no_markup(tmp_path):
    results = [("bench/test_speedup.py::t", examples.cell(EVIL, workers)) for workers in (1, 2)] + [
        ("", replace(examples.training(EVIL), dataset=EVIL)),
        ("bench/test_speedup.py::t", WrongCell(examples.cell(EVIL).cell, 0.5, EVIL)),
        ("", Proof(EVIL, "failed", 1, 0.1, EVIL, examples.proofs()[0].comparisons)),
        ("", Mutant(EVIL, EVIL, EVIL, [])),
    ]
    run = examples.save(tmp_path / "run.jsonl", results, host=EVIL, command=EVIL, commit=EVIL)
    page = page_of(tmp_path / "report", run)
    assert EVIL not in page
    assert "<img" not in markup(page)
    assert "&lt;img src=x onerror=alert(1)&gt;|`$[]({{ 1 }}" in markup(page)
    data = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert len(data) == 1 + page.count("<figure")  # no name has ended one early
    rows = [row for text in data for row in json.loads(text).get("rows", [])]
    assert EVIL in {row.get("strategy") for row in rows}
    summary = (tmp_path / "report" / "summary.md").read_text(encoding="utf-8")
    assert "<img" not in summary
    for svg in (tmp_path / "report" / "figures").glob("*.svg"):
        assert "<img" not in svg.read_text(encoding="utf-8")


@report
def test_a_damaged_file_is_named_in_the_page(tmp_path, capsys):
    run = examples.save(tmp_path / "run.jsonl", examples.grid()[:4])
    with run.open("ab") as file:
        file.write(b'{"kind": "cell", "strategy": "<b>"}\n')
    page = page_of(tmp_path / "report", run)
    assert f"{run}, line 6 was left out" in capsys.readouterr().err
    assert f"{run}, line 6 was left out" in page


@report
def test_what_was_not_measured_is_a_sentence(tmp_path):
    run = examples.save(tmp_path / "run.jsonl", examples.grid()[:4])
    page = page_of(tmp_path / "report", run)
    assert "No training has been recorded" in page
    assert "<code>nox -s correctness</code>" in page
    assert 'id="training"' not in page


@report
def test_failures_are_the_answer(tmp_path):
    failed = Proof("tests/a.py::t", "failed", 2, 0.1, "AssertionError")
    results = [("", each) for each in (*examples.proofs(), failed)]
    page = page_of(tmp_path / "report", examples.save(tmp_path / "run.jsonl", results))
    assert "No: 1 test of 3 failed" in page
    assert "Failed: tests/a.py::t: AssertionError" in page


@report
def test_two_runs_are_drawn_side_by_side(tmp_path):
    old = examples.save(tmp_path / "old.jsonl", examples.grid(), "2026-03-01T00:00:00+00:00")
    new = examples.save(tmp_path / "new.jsonl", examples.grid()[:8], "2026-03-02T00:00:00+00:00")
    page = page_of(tmp_path / "report", new, old)
    ids = re.findall(r'<figure id="([^"]+)"', page)
    assert {"speedup-by-strategy", "speedup-by-strategy-2", "training"} <= set(ids)
    assert "training-2" not in ids
    assert len(ids) == len(set(ids))
