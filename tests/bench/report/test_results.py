"""bench_results writes what was measured between the marks of its page, and nothing else."""

from pathlib import Path

import pytest

from bench.report import results
from bench.report.promises import Promise
from strategies.records import RunFile

pytestmark = pytest.mark.workers(1)

HEADER = {
    "date": "2026-11-28T10:00:00+00:00",
    "commit": "0123456789abcdef",
    "dirty": False,
    "ranks": 2,
    "fingerprint": {"cpu": "a processor", "cores": 2, "mpi": "an MPI"},
}


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / results.PAGE
    page.parent.mkdir()
    opening, closing = results.marks("grid", results.PROGRAM)
    page.write_text(f"before\n{opening}\nold\n{closing}\nafter\n")
    return page


def run_of(path, header=HEADER):
    promise = Promise("step | bound", 1.25, 1.3)
    RunFile(path, header).append(promise.as_dict() | {"question": "Is it fast?"})
    return str(path)


def test_the_tables_of_a_run_and_where_it_was_measured(page, tmp_path):
    assert results.main(["grid", "--from", run_of(tmp_path / "run.jsonl")]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- grid")
    assert text.endswith("<!-- end of grid -->\nafter\n")
    assert "old" not in text
    assert "2026-11-28, commit `0123456789`, on a processor, 2 cores, 2 ranks, an MPI." in text
    assert "**Is it fast?**" in text
    assert "| step \\| bound | 1.250 |" in text


@pytest.mark.parametrize("wrong", ["no file", "no header"])
def test_a_part_that_cannot_be_written_stays_as_it_was(page, tmp_path, capsys, wrong):
    path = tmp_path / "run.jsonl"
    if wrong == "no header":
        path.write_text('{"kind": "promise", "what": "a", "value": 1.0, "limit": null}\n')
    assert results.main(["grid", "--from", str(path)]) == 1
    assert "old" in page.read_text()
    assert "grid stays as it was" in capsys.readouterr().err


def test_every_part_has_its_place_on_the_page():
    text = Path(__file__).parents[3].joinpath(results.PAGE).read_text(encoding="utf-8")
    for name in results.PARTS:
        opening, closing = results.marks(name, results.PROGRAM)
        before, after = text.index(opening), text.index(closing)
        assert text[before + len(opening) : after].strip(), f"{name} has no figures"


def test_a_page_that_cannot_take_the_tables_is_named_before_they_are_measured(
    page, monkeypatch, capsys
):
    page.write_text("no marks")
    monkeypatch.setattr(results, "measure", None)
    assert results.main(["grid"]) == 1
    assert "needs these two lines" in capsys.readouterr().err
