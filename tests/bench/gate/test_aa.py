"""What bench_aa reports on launches whose error rates are known."""

import io
import re
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI
from rich.console import Console

from bench.core.cell import Cell
from bench.core.grid import case
from bench.gate import launcher
from bench.gate.aa import error_rates, report, slowed_copies, trial
from bench.gate.aa.__main__ import main
from bench.gate.aa.error_rates import AT_RANDOM, IN_A_ROW, Rate
from bench.gate.aa.report import MARKS, Report
from bench.gate.aa.trial import AMOUNTS, TrialLaunch
from bench.gate.launches import Launch
from strategies.records import RunFile
from tests.bench.gate.noise import Noise, Program, measure
from tests.support.oracles import random_batches

pytestmark = pytest.mark.workers(1)

MACHINE = {"cpu": "Abacus", "cores": 2, "mpi": "Pigeons 1.0"}


def trial_launch(rng, noise, loaded=False, load=0.0, parallel=1.4e-3, code="c"):
    """Simulate a launch of six cells, and a copy of each for every amount."""
    cells = []
    for amount in (0.0, *AMOUNTS):
        program = Program(parallel=parallel * (1 + amount))
        for cell, (launch,) in measure(rng, noise, program, launches=1).items():
            name = cell.replace("-", "") + (f"+{amount:.0%}" if amount else "")
            sequential, times = (arm.tolist() for arm in launch)
            rounds = {"sequential": sequential, "parallel": times}
            line = {"id": name, "workers": 2, "steps_per_round": 1, "rounds": rounds}
            cells.append(line | {"background_load": load})
    return TrialLaunch(code, MACHINE, loaded, 1.0, cells)


@pytest.fixture
def reported(tmp_path, monkeypatch):
    monkeypatch.setattr(error_rates, "RESAMPLED", 60)
    monkeypatch.setattr(trial, "code", lambda: "c")
    monkeypatch.setattr(report, "fingerprint", lambda ranks, devices: MACHINE)
    monkeypatch.setattr("bench.core.background_load.available", lambda: 2)

    def reported(launches, rest=""):
        path = tmp_path / "aa.jsonl"
        path.unlink(missing_ok=True)
        for launch in launches:
            RunFile(path, {}).append(launch)
        with path.open("a") as file:
            file.write(rest)
        found = report.summarise(path, 2)
        return {(rate.outcome, rate.launches): rate for rate in found.rates}, found.notes

    return reported


def test_quiet_launches(reported):
    rng = np.random.default_rng(0)
    found, notes = reported([trial_launch(rng, Noise()) for _ in range(20)])
    assert found["no change: false alarm", IN_A_ROW].hits == 0
    assert found["no change: false alarm", IN_A_ROW].comparisons == 15
    assert found["no change: false alarm", AT_RANDOM].hits <= 1
    assert found["10% slowdown: found", AT_RANDOM].hits >= 57
    assert found["20% slowdown: found", AT_RANDOM].hits == 60
    assert "20 launches on Abacus, 2 cores, 2 ranks, Pigeons 1.0" in notes[0]
    assert "20 to 20 launches of each cell were undisturbed" in notes[1]


def test_launches_of_other_code_and_a_line_cut_off_are_left_out(reported):
    rng = np.random.default_rng(1)
    launches = [trial_launch(rng, Noise(), code="other" if n == 3 else "c") for n in range(12)]
    _, notes = reported(launches, rest='{"code": "c", "cel')
    assert "11 launches on" in notes[0]
    assert "left out: 2 launches of other code or machines, or damaged lines" in notes[1]


def test_a_disturbed_measurement_costs_that_cell_one_launch_and_no_other_cell(reported):
    rng = np.random.default_rng(4)
    launches = [trial_launch(rng, Noise()) for _ in range(20)]
    for number, disturbed in enumerate(launches):
        line = disturbed.cells[number % 2]  # one that would be an alarm
        line["background_load"] = 0.6
        line["rounds"]["parallel"] = [2 * seconds for seconds in line["rounds"]["parallel"]]
    found, notes = reported(launches)
    assert "10 to 20 launches of each cell were undisturbed" in notes[1]
    assert found == {}
    found, notes = reported(launches + [trial_launch(rng, Noise()) for _ in range(2)])
    assert "12 to 22 launches of each cell were undisturbed" in notes[1]
    assert found["no change: false alarm", AT_RANDOM].hits <= 1
    slower = found["20% slowdown: found", AT_RANDOM]
    assert slower.hits == slower.comparisons > 0


def test_too_few_launches_give_no_rates(reported):
    rng = np.random.default_rng(2)
    rates, notes = reported([trial_launch(rng, Noise()) for _ in range(10)])
    assert rates == {}
    assert "too few launches" in notes[-1]


def test_a_busy_core_alarms_only_a_gate_that_ignores_it(reported):
    rng = np.random.default_rng(3)
    quiet = [trial_launch(rng, Noise()) for _ in range(12)]
    loaded = [trial_launch(rng, Noise(), True, load=0.6, parallel=2.0e-3) for _ in range(4)]
    found, _ = reported(quiet + loaded)
    assert found["busy core: false alarm", IN_A_ROW].hits == 0
    blind = found["busy core, if the gate ignored it: false alarm", IN_A_ROW]
    assert blind.hits == blind.comparisons
    undecided = found["busy core: inconclusive", IN_A_ROW]
    assert undecided.hits == undecided.comparisons


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Run the program with --write on launches that are enough; return its exit code and page."""
    found = Report([Rate("found", AT_RANDOM, 3, 4)], ["a note"])
    monkeypatch.setattr(report, "summarise", lambda path, ranks: found)
    data, page = tmp_path / "aa.jsonl", tmp_path / "README.md"
    data.touch()

    def written(content):
        page.write_text(content)
        command = ["--launches", "0", "--data", str(data), "--write", str(page)]
        try:
            code = main(command)
        except SystemExit as ended:
            code = ended.code
        return code, page.read_text()

    return written


def test_the_table_goes_between_its_marks_and_nowhere_else(written):
    code, content = written(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    head, table, tail = re.split("|".join(MARKS), content)
    assert (code, head, tail) == (0, "before\n", "\nafter\n")
    assert table.splitlines()[3] == "| found | at random | 3 of 4 | 75.0% | 19.4% to 99.4% |"
    assert table.endswith("\n\n- a note\n")


@pytest.mark.parametrize("content", ["no marks\n", f"{MARKS[0]}\n", f"{MARKS[0]}\n" * 2])
def test_a_page_without_marks_is_refused_and_stays_as_it_was(written, capsys, content):
    assert written(content) == (2, content)
    assert MARKS[0] in capsys.readouterr().err


def test_the_page_of_the_gate_has_the_marks(pytestconfig):
    content = (pytestconfig.rootpath / report.PAGE).read_text()
    assert [content.count(mark) for mark in MARKS] == [1, 1]


def test_intervals_are_those_of_clopper_and_pearson():
    low, high = Rate("", "", 0, 100).interval
    assert (low, high) == (0, pytest.approx(1 - 0.025 ** (1 / 100)))


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next(tmp_path, monkeypatch):
    path = tmp_path / "aa.jsonl"
    whole = TrialLaunch("c", {}, False, 1.0, [])
    RunFile(path, {}).append(whole)
    content = path.read_text()
    path.write_text(content + '{"code": "c", "cel')
    monkeypatch.setattr(trial, "code", lambda: "c")
    monkeypatch.setattr(trial, "start", lambda *_, number: Launch({"a": {"id": "a"}}))
    trial.collect_trial(path, 1, 2, False, Console(file=io.StringIO()))
    assert path.read_text().startswith(content)
    launches, others = trial.read_trial(path)
    assert launches[0] == whole
    assert launches[1].cells == [{"id": "a"}]
    assert others == 0


@pytest.mark.workers(2)
def test_a_slowed_copy_trains_and_takes_so_much_longer(comm, monkeypatch):
    now = iter([0.0, 1.0, 1.1, 1.19, 1.21])  # a step lasts 1 s, and 0.2 s more
    cell = Cell("SharedDataParallel", "mlp", comm.size, 64, 10_000)
    strategy = slowed_copies.slowed_copy(case(cell), 0.2).build(comm)
    before = strategy.weights()
    batch = random_batches(strategy.model, 4)[0]
    with monkeypatch.context() as patch:
        clock = SimpleNamespace(perf_counter=lambda: next(now))
        patch.setattr(slowed_copies, "time", clock)
        strategy.step(batch)
    assert next(now, None) is None
    assert not np.array_equal(strategy.weights(), before)
    strategy.close()


def test_a_launch_writes_cells_that_can_be_judged(tmp_path, monkeypatch):
    class Raced:
        background_load = 0.5

        def __init__(self, case):
            self.case = case

        def as_dict(self):
            rounds = {"sequential": [1.0], "parallel": [0.5]}
            counts = {"workers": 2, "steps_per_round": 1, "oversubscribed": False}
            return {"device": "cpu", "rounds": rounds, **counts}

    alone = SimpleNamespace(COMM_WORLD=MPI.COMM_SELF)  # tests on one rank may run on any of several
    monkeypatch.setattr(slowed_copies, "MPI", alone)
    monkeypatch.setattr(slowed_copies, "race", lambda cases, comm: [Raced(c) for c in cases])
    monkeypatch.setattr("sys.argv", ["slowed_copies", "0.1", "0.2"])
    monkeypatch.setenv("LOCKSTEP_CELLS", str(tmp_path / "cells.jsonl"))
    slowed_copies.main()
    lines = (tmp_path / "cells.jsonl").read_text().splitlines()
    cells = [cell for line in lines[1:] if (cell := launcher._cell(line))]
    assert len(cells) == 2 * len(slowed_copies.GRID)
    assert {cell["background_load"] for cell in cells} == {0.5}


def test_what_is_measured_is_what_a_launch_imports(pytestconfig, monkeypatch):
    monkeypatch.chdir(pytestconfig.rootpath)
    files = {str(path) for path in trial.measured_files()}
    assert {
        "nn/batch.py",
        "nn/data/sets/digits.py",
        "nn/layers/base.py",
        "strategies/data_parallel.py",
        "strategies/comm/shared_window.py",
        "bench/core/race.py",
        "bench/gate/aa/slowed_copies.py",
    } <= files
    assert not any(path.startswith((".nox", "tests")) for path in files)
    assert "bench/gate/statistics.py" not in files  # judging does not change what was measured
