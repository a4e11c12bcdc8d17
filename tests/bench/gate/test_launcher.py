"""Launches of real processes, and the file that they append cells to."""

import json
import shlex
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.gate import baselines, collect, launcher
from bench.gate.launcher import CELLS, LAUNCHER
from bench.gate.launches import Launch
from bench.gate.named_paths import named_paths
from bench.gate.verdicts import Exit, Unusable
from tests.bench.gate.fake_mpiexec import line
from tests.bench.gate.simulated_grid import GRID, write_grid

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]

FAKE = shlex.join([sys.executable, str(Path(__file__).with_name("fake_mpiexec.py"))])


def writes(monkeypatch, *lines):
    """Have launches write these lines, objects or text, and nothing else."""
    text = "".join(f"{x if isinstance(x, str) else json.dumps(x)}\n" for x in lines)
    writer = f"import os; open(os.environ[{CELLS!r}], 'a').write({text!r})"
    monkeypatch.setenv(LAUNCHER, shlex.join([sys.executable, "-c", writer]))


@pytest.fixture(autouse=True)
def started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(LAUNCHER, FAKE)


def test_takes_the_cells_of_a_launch(tmp_path):
    write_grid(tmp_path)
    launch = launcher.start(2, ["-m", "pytest", "bench"], tmp_path)
    assert list(launch.cells) == list(GRID)
    assert all(line["background_load"] >= 0 for line in launch.cells.values())
    assert launch.failure is None


def test_takes_cells_without_a_kind_and_no_other_kind(tmp_path, monkeypatch):
    """Older checkouts write cells without a kind; newer ones write other records as well."""
    old, new = (line(name, {"parallel": 1.4}) for name in ("old", "new"))
    del old["kind"]
    wrong = line("wrong", {"parallel": 1.4}) | {"kind": "wrong"}
    others = {"kind": "run", "id": "header"}, {"kind": "transfer", "id": "transfer"}, wrong
    writes(monkeypatch, *others, old, *others[1:], new)
    launch = launcher.start(2, ["-m", "pytest", "bench"], tmp_path)
    assert list(launch.cells) == ["old", "new"]
    assert launch.failure is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "cell", "id": "b"}, "b: device is None"),
        (line("b", {"parallel": 1.4}) | {"rounds": {}}, "the sequential rounds are None"),
        (line("b", {"parallel": 1.4}) | {"nodeid": None}, "b names no test"),
        ("[" * 100_000, "nested without end"),
        (["b"], "expected an object"),
        ("{", "Expecting property name"),
    ],
)
def test_a_cell_that_cannot_be_judged_fails_the_launch_and_loses_none_before_it(
    tmp_path, monkeypatch, wrong, says
):
    """As of another version, or of ranks that write at once."""
    writes(monkeypatch, line("a", {"parallel": 1.4}), wrong)
    launch = launcher.start(2, ["-m", "pytest", "bench"], tmp_path)
    assert list(launch.cells) == ["a"]
    assert "wrote a cell that cannot be judged" in launch.failure
    assert says in launch.failure


def test_runs_named_cells_again(tmp_path):
    write_grid(tmp_path)
    runner = collect.Grid(2, root=tmp_path)
    runner.launch()
    again = runner.launch(["c", "e"])
    assert (list(again.cells), again.requested) == (["c", "e"], frozenset("ce"))


@pytest.mark.parametrize("named", ["bench/test_some.py", "bench/test_some.py::test_mlp"])
def test_launches_what_is_named_and_no_more(tmp_path, monkeypatch, named):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "test_some.py").touch()
    started = []

    def noted(ranks, command, root, label, number):
        started.append(command)
        return Launch({"a": {"nodeid": "bench/test_some.py::test_mlp[a]"}})

    monkeypatch.setattr(collect, "start", noted)
    runner = collect.Grid(2, ["--quick", named], tmp_path)
    runner.launch()
    runner.launch(["a"])
    asked = [[part for part in command if "bench" in part] for command in started]
    assert asked == [[named], ["bench/test_some.py::test_mlp[a]"]]


def test_the_file_of_an_option_is_not_launched(tmp_path, monkeypatch):
    (tmp_path / "rows.npz").touch()
    started = []
    monkeypatch.setattr(collect, "start", lambda *launch: started.append(launch[1]) or Launch({}))
    collect.Grid(2, ["--data", "rows.npz", "--quick"], tmp_path).launch()
    assert started == [["-m", "pytest", "bench", "--cells", "--data", "rows.npz", "--quick"]]


def test_an_option_and_its_file_name_no_test(tmp_path):
    (tmp_path / "bench").mkdir()
    assert named_paths(["--ignore", "bench", "-k", "bench", "-q"], tmp_path) == []
    assert named_paths(["-q", "bench", "--ignore", "bench"], tmp_path) == ["bench"]


def test_what_a_launch_measured_stays_on_disk(tmp_path):
    write_grid(tmp_path)
    launches = [launcher.start(2, ["-m", "pytest", "bench"], tmp_path, "x") for _ in range(2)]
    files = sorted(Path(".benchmarks", "lockstep").glob("*-launch-x-*.jsonl"))
    assert [
        [line["id"] for line in map(json.loads, file.read_text().splitlines()) if "id" in line]
        for file in files
    ] == [list(launch.cells) for launch in launches]


def test_keeps_the_cells_of_a_crash_and_says_where_to_look(tmp_path):
    write_grid(tmp_path, c={"crash": True})
    launch = launcher.start(2, ["-m", "pytest", "bench"], tmp_path)
    assert list(launch.cells) == ["a", "b"]
    assert "ended with code 3, see .lockstep" in launch.failure


def test_each_cell_has_the_background_load_of_its_own_lap(tmp_path, monkeypatch):
    loads = iter([0.25, 1.5, *[0.0] * 4])
    monkeypatch.setattr(
        launcher, "BackgroundLoad", lambda: SimpleNamespace(lap=lambda: next(loads))
    )
    write_grid(tmp_path)
    cells = launcher.start(2, ["-m", "pytest", "bench"], tmp_path).cells
    found = [line["background_load"] for line in cells.values()]
    assert found == [0.25, 1.5, 0.0, 0.0, 0.0, 0.0]


def test_a_line_that_comes_in_parts_is_one_cell(tmp_path, monkeypatch):
    whole = json.dumps(line("a", {"parallel": 1.4})) + "\n"
    writer = "\n".join(
        [
            "import os, time",
            f"file = open(os.environ[{CELLS!r}], 'a')",
            f"for part in ({whole[:99]!r}, {whole[99:]!r}):",
            "    file.write(part)",
            "    file.flush()",
            "    time.sleep(0.3)",
        ]
    )
    monkeypatch.setenv(LAUNCHER, shlex.join([sys.executable, "-c", writer]))
    launch = launcher.start(2, ["-m", "pytest", "bench"], tmp_path)
    assert list(launch.cells) == ["a"]
    assert launch.failure is None


@pytest.mark.parametrize(("ranks", "yields"), [(2, False), (3, True)])
def test_ranks_yield_where_there_are_more_than_cores(tmp_path, monkeypatch, ranks, yields):
    monkeypatch.setattr(launcher, "available", lambda: 2)
    monkeypatch.delenv("OMPI_MCA_mpi_yield_when_idle", raising=False)
    said = tmp_path / "said"
    writer = f"import os; open({str(said)!r}, 'w').write(str(dict(os.environ)))"
    monkeypatch.setenv(LAUNCHER, shlex.join([sys.executable, "-c", writer]))
    launcher.start(ranks, ["-m", "pytest", "bench"], tmp_path)
    assert ("'OMPI_MCA_mpi_yield_when_idle': '1'" in said.read_text()) is yields
    assert f"'LOCKSTEP_RANKS': '{ranks}'" in said.read_text()


def test_gives_up_only_if_no_cell_comes_for_long(tmp_path, monkeypatch):
    """Three cells, each after 0.4 s, are more than 0.8 s in all, and nothing is wrong."""
    lines = [json.dumps(line(name, {"parallel": 1.4})) for name in "abc"]
    writer = "\n".join(
        [
            "import os, time",
            f"for text in {lines!r}:",
            "    time.sleep(0.4)",
            f"    open(os.environ[{CELLS!r}], 'a').write(text + chr(10))",
        ]
    )
    monkeypatch.setenv(LAUNCHER, shlex.join([sys.executable, "-c", writer]))
    monkeypatch.setattr(launcher, "TIMEOUT", 0.8)
    launch = launcher.start(2, ["-m", "pytest", "bench"], tmp_path)
    assert (list(launch.cells), launch.failure) == (["a", "b", "c"], None)


def test_gives_up_on_a_launch_that_says_nothing(tmp_path, monkeypatch):
    silent = [sys.executable, "-c", "import time; time.sleep(60)"]
    monkeypatch.setenv(LAUNCHER, shlex.join(silent))
    monkeypatch.setattr(launcher, "TIMEOUT", 0.3)
    began = time.monotonic()
    launch = launcher.start(2, ["-m", "pytest", "bench"], tmp_path)
    assert "without a new cell" in launch.failure
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("given", "says"),
    [("no-such-mpiexec --with-ft ulfm", "install an MPI"), ("mpiexec '", "No closing quotation")],
)
def test_without_an_mpi_it_says_so(tmp_path, monkeypatch, capsys, given, says):
    """It is wrong usage, and not the exit code of a slower cell."""
    monkeypatch.setenv(LAUNCHER, given)
    with pytest.raises(Unusable, match=says):
        launcher.start(2, ["-m", "pytest", "bench"], tmp_path)
    assert baselines.main(["--save", "main"]) == Exit.USAGE
    assert says in capsys.readouterr().err


def test_an_empty_variable_names_no_launcher(tmp_path, monkeypatch):
    monkeypatch.setenv(LAUNCHER, "")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unusable, match="no mpiexec: install an MPI"):
        launcher.start(2, ["-m", "pytest", "bench"], tmp_path)


def test_the_variable_of_the_measuring_core():
    """Each side has the name in its source, since neither may import the other."""
    source = Path(__file__).parents[3].joinpath("bench", "conftest.py").read_text()
    assert f'"{CELLS}"' in source
