"""bench_results writes what was measured between the marks of its page, and nothing else."""

from pathlib import Path
from types import SimpleNamespace

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


@pytest.mark.parametrize("dirty", [True, False])
def test_a_commit_with_changes_is_no_commit(page, tmp_path, dirty):
    path = run_of(tmp_path / "run.jsonl", HEADER | {"dirty": dirty})
    assert results.main(["grid", "--from", path]) == 0
    assert ("commit `0123456789` with changes, on" in page.read_text()) is dirty


def test_the_picture_of_a_part_is_written_with_its_tables(page, tmp_path, monkeypatch):
    monkeypatch.setitem(results.PARTS, "grid", results.Part(2, "pytest", picture="curve.png"))
    (tmp_path / results.PICTURES).mkdir()
    (tmp_path / "curve.png").write_bytes(b"a curve")
    assert results.main(["grid", "--from", run_of(tmp_path / "run.jsonl")]) == 0
    assert (tmp_path / results.PICTURES / "curve.png").read_bytes() == b"a curve"


@pytest.fixture
def launched(monkeypatch):
    """Launches that take no time: what they were, and how they end."""
    launched = SimpleNamespace(commands=[], code=0, measures=True)

    def run(command, env, check):
        launched.commands.append((command, env["LOCKSTEP_RANKS"]))
        if launched.measures:
            run_of(env["LOCKSTEP_CELLS"])
        return SimpleNamespace(returncode=launched.code)

    monkeypatch.setenv("LOCKSTEP_MPIEXEC", "start --them")
    monkeypatch.setattr(results.subprocess, "run", run)
    return launched


@pytest.mark.parametrize("code", [0, 1])
def test_a_part_is_measured_on_its_ranks_and_a_broken_promise_is_a_result(page, launched, code):
    launched.code = code
    assert results.main(["grid"]) == 0
    ((command, ranks),) = launched.commands
    assert command[:4] == ["start", "--them", "-n", "2"]
    assert command[5:] == ["-m", "pytest", "bench"]
    assert ranks == "2"
    assert "| step \\| bound | 1.250 |" in page.read_text()


@pytest.mark.parametrize(
    ("code", "measures", "said"),
    [
        (2, True, "the launch ended with code 2"),
        (-9, True, "the launch ended with code -9"),
        (0, False, "it measured nothing (exit code 0)"),
    ],
)
def test_a_launch_that_breaks_off_changes_nothing(page, launched, code, measures, said, capsys):
    launched.code, launched.measures = code, measures
    assert results.main(["grid"]) == 1
    assert "old" in page.read_text()
    assert f"grid stays as it was: {said}" in " ".join(capsys.readouterr().err.split())


def test_the_page_is_changed_when_all_parts_are_measured(page, launched, monkeypatch):
    """A changed page would make the commit of the parts after it look dirty."""
    other = results.marks("peers", results.PROGRAM)
    page.write_text(page.read_text() + "\nold\n".join(other))
    content, seen = page.read_text(), []
    run = results.subprocess.run

    def watched(*arguments, **options):
        seen.append(page.read_text())
        return run(*arguments, **options)

    monkeypatch.setattr(results.subprocess, "run", watched)
    assert results.main(["grid", "peers"]) == 0
    assert seen == [content, content]
    assert "old" not in page.read_text()
