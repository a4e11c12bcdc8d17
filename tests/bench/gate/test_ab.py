"""Comparing with a commit, from end to end on simulated cells."""

import json
import subprocess
from pathlib import Path

import pytest

from bench.gate import ab, collect
from tests.bench.gate.simulated_grid import simulated_start, verdicts, write_grid

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]


def commit(paths):
    subprocess.run(["git", "add", *paths], check=True)
    author = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", *author, "commit", "--quiet", "-m", "as it is"], check=True)


@pytest.fixture
def repository(project):
    subprocess.run(["git", "init", "--quiet"], check=True)
    commit(["grid.json"])
    return project


def test_the_same_code_is_green(repository):
    assert ab.main(["HEAD", "-n", "2"]) == 0


def test_a_slower_working_tree_is_red(repository):
    write_grid(repository, e={"parallel": 1.6})
    assert ab.main(["HEAD", "-n", "2", "--json", "report.json"]) == 1
    outcomes = {cell: v["outcome"] for cell, v in verdicts().items()}
    assert outcomes.pop("e") == "slower"
    assert set(outcomes.values()) == {"pass"}


def test_a_vanished_cell_is_red(repository):
    write_grid(repository, e=None)
    assert ab.main(["HEAD", "-n", "2"]) == 1


def test_launches_alternate_and_those_of_a_pair_have_one_number(repository, monkeypatch):
    order = []
    run = collect.start

    def noted(ranks, command, root, label, number):
        order.append((label, number))
        return run(ranks, command, root, label)

    monkeypatch.setattr(collect, "start", noted)
    ab.main(["HEAD", "-n", "2"])
    a, b = "before", "after"
    assert order == [(a, 0), (b, 0), (b, 1), (a, 1), (a, 2), (b, 2)]


def test_cells_in_doubt_are_launched_again_in_three_pairs(repository, monkeypatch):
    """Both commits, so that a machine that got slower meanwhile is not the commit's fault."""
    write_grid(repository, e={"parallel": 1.6})
    order = []
    run = collect.start

    def noted(ranks, command, root, label, number):
        cells = [argument for argument in command if "::" in argument]
        order.append((label, number, len(cells)))
        return run(ranks, command, root, label)

    monkeypatch.setattr(collect, "start", noted)
    assert ab.main(["HEAD", "-n", "2", "--json", "report.json"]) == 1
    a, b = "before", "after"
    assert order[6:] == [(a, 3, 1), (b, 3, 1), (b, 4, 1), (a, 4, 1), (a, 5, 1), (b, 5, 1)]
    assert verdicts()["e"]["launches"] == [6, 3, 3]


@pytest.mark.parametrize(
    ("given", "launched"),
    [([], ["bench", "--cells", "--quick"]), (["-x"], ["bench", "--cells", "-x"])],
)
def test_a_small_grid_is_launched_unless_pytest_is_told_another(
    repository, monkeypatch, given, launched
):
    commands = []
    run = collect.start

    def noted(ranks, command, root, label, number):
        commands.append(command)
        return run(ranks, command, root, label, number)

    monkeypatch.setattr(collect, "start", noted)
    ab.main(["HEAD", "-n", "2", *given])
    assert commands == [["-m", "pytest", *launched]] * 6


def test_says_which_commits_they_are(repository):
    (repository / "more").touch()
    commit(["more"])
    ab.main(["HEAD^", "-n", "2", "--json", "report.json"])
    report = json.loads(Path("report.json").read_text())
    log = ["git", "log", "--format=%h"]
    newer, older = subprocess.run(log, capture_output=True, text=True).stdout.split()
    assert (report["before"], report["after"]) == (f"HEAD^ ({older})", newer)


def test_leaves_no_worktree_behind(repository, monkeypatch):
    monkeypatch.setattr(ab, "collect", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        ab.main(["HEAD", "-n", "2"])
    done = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("reference", ["nowhere", "--help-me"])
def test_an_unknown_commit_is_wrong_usage(repository, reference, capsys):
    try:
        code = ab.main([reference])
    except SystemExit as ended:  # argparse: it looks like an option
        code = ended.code
    assert code == 2


@pytest.mark.parametrize(
    ("conftest", "says"),
    [('addoption("--cells")', "ended with code 3"), ("", "it is older than this gate")],
)
def test_a_commit_that_measures_nothing_is_wrong_usage_at_once(
    repository, monkeypatch, capsys, conftest, says
):
    (repository / "bench").mkdir()
    (repository / "bench" / "conftest.py").write_text(conftest)
    write_grid(repository, a={"crash": True})
    commit(["bench", "grid.json"])
    write_grid(repository)
    started = []

    def noted(ranks, command, root, label, number):
        started.append(label)
        return simulated_start(ranks, command, root)

    monkeypatch.setattr(collect, "start", noted)
    assert ab.main(["HEAD", "-n", "2"]) == 2
    said = " ".join(capsys.readouterr().out.split())
    assert f"HEAD measured nothing: {says}" in said
    assert started == ["before"]
