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
def test_one_picture_is_written_as_its_ending_says(tmp_path, folder):
    run = str(folder / "run.jsonl")
    for name, begin in (("a.svg", b"<svg"), ("b.PNG", b"\x89PNG")):
        path = tmp_path / "new" / name
        path.parent.mkdir(exist_ok=True)
        picture = ["--picture", "speedup-by-workers-efficiency", str(path)]
        assert main([run, *picture, "-o", str(tmp_path / "report")]) == 0
        assert path.read_bytes().startswith(begin)
    same = folder / "figures" / "speedup-by-workers-efficiency.svg"
    assert (tmp_path / "new" / "a.svg").read_text() == same.read_text()
    assert not (tmp_path / "report").exists()


@report
def test_an_unknown_picture_lists_those_that_there_are(tmp_path, folder, capsys):
    path = tmp_path / "a.svg"
    assert main([str(folder / "run.jsonl"), "--picture", "sped", str(path)]) == 2
    said = capsys.readouterr().err
    assert "no figure 'sped': expected one of errors, " in said
    assert all(f"{p.stem}" in said for p in (folder / "figures").glob("*.svg"))
    assert not path.exists()
    nowhere = tmp_path / "nowhere" / "a.svg"
    assert main([str(folder / "run.jsonl"), "--picture", "errors", str(nowhere)]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_picture_is_of_a_kind_that_is_known(tmp_path, capsys):
    run = examples.save(tmp_path / "run.jsonl", examples.grid()[:4])
    with pytest.raises(SystemExit) as left:
        main([str(run), "--picture", "errors", "a.gif"])
    assert left.value.code == 2
    assert "a.gif: expected a file.svg or a file.png" in capsys.readouterr().err


@report
def test_what_is_one_is_said_in_the_singular(tmp_path):
    """A run with one of everything: no "1 times", "1 workers"."""
    alone = [
        ("bench/test_speedup.py::t", examples.cell("DataParallel", 1)),
        ("bench/studies/time_to_accuracy.py::t", examples.training()),
        ("bench/studies/devices.py::t", examples.race("mlp, devices")),
        *(("", each) for each in examples.proofs()),
        *(("", each) for each in examples.verdicts()[:2]),
        ("", examples.histories()[0]),
    ]
    run = examples.save(tmp_path / "run.jsonl", alone)
    page = markup(page_of(tmp_path / "report", run))
    page += markup(page_of(tmp_path / "both", run, examples.save(tmp_path / "b.jsonl", alone)))
    assert "Each way to train once: a line for each." in page
    said = "".join(re.findall(r"(?:<p[^>]*>|<h[234]>|<figcaption>|alt=|label=)([^<]*)", page))
    assert re.findall(r"(?<![\d.,])1 [a-z]+s\b(?! (?:sooner|fell))", said) == []


@report
def test_a_still_keeps_its_text_and_loses_what_nobody_sees():
    from bench.page.page import still

    svg = (
        '<?xml version="1.0"?><svg xmlns="x"><g role="img" aria-label="a &lt; b > 1.2345">'
        '<path d="M0.123,4.567L8,9" opacity="1"/><text x="1.96" font-family="\'A\', B" '
        'fill="#16191d" opacity="0.75">1.2345 role="img" d="0.123"</text></g></svg>'
    )
    assert still(svg) == (
        '<svg xmlns="x"><g><path d="M0.1,4.5L8,9"/><text x="1.9" fill="var(--ink)" '
        'opacity="0.75">1.2345 role="img" d="0.123"</text></g></svg>'
    )


@report
def test_two_runs_are_drawn_side_by_side(tmp_path):
    old = examples.save(tmp_path / "old.jsonl", examples.grid(), "2026-03-01T00:00:00+00:00")
    new = examples.save(tmp_path / "new.jsonl", examples.grid()[:8], "2026-03-02T00:00:00+00:00")
    page = page_of(tmp_path / "report", new, old)
    ids = re.findall(r'<figure id="([^"]+)"', page)
    assert {"speedup-by-strategy", "speedup-by-strategy-2", "training"} <= set(ids)
    assert "training-2" not in ids
    assert len(ids) == len(set(ids))
