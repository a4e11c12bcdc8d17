"""What bench_aa says of launches whose error rates are known."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench.gate import aa
from bench.gate.launches import Launch
from tests.bench.gate.noise import Noise, Program, side

pytestmark = pytest.mark.workers(1)


def entry(rng, noise, loaded=False, foreign=0.0, parallel=1.4e-3):
    """One launch on file: six cells, and a copy of each for every amount."""
    cells = []
    for amount in (0.0, *aa.AMOUNTS):
        program = Program(parallel=parallel * (1 + amount))
        for cell, (launch,) in side(rng, noise, program, launches=1).items():
            name = cell.replace("-", "") + (f"+{amount:.0%}" if amount else "")
            sequential, times = (arm.tolist() for arm in launch)
            rounds = {"sequential": sequential, "parallel": times}
            line = {"id": name, "workers": 2, "steps_per_round": 1, "rounds": rounds}
            cells.append(line | {"foreign": foreign})
    return {"code": "c", "machine": {}, "loaded": loaded, "seconds": 1.0, "cells": cells}


@pytest.fixture
def reported(tmp_path, monkeypatch):
    monkeypatch.setattr(aa, "RESAMPLED", 60)
    monkeypatch.setattr(aa, "code", lambda: "c")
    machine = {"cpu": "Abacus", "cores": 2, "mpi": "Pigeons 1.0"}
    monkeypatch.setattr(aa, "fingerprint", lambda ranks, devices: machine)
    monkeypatch.setattr("bench.core.background_load.available", lambda: 2)

    def reported(entries, rest=""):
        path = tmp_path / "aa.jsonl"
        lines = [json.dumps(entry | {"machine": machine}) + "\n" for entry in entries]
        path.write_text("".join(lines) + rest)
        return aa.report(path, 2)

    return reported


def by_name(rates):
    return {(rate.what, rate.how): rate for rate in rates}


def test_quiet_launches(reported):
    rng = np.random.default_rng(0)
    rates, notes = reported([entry(rng, Noise()) for _ in range(20)])
    found = by_name(rates)
    assert found["false alarms", "real, in a row"].hits == 0
    assert found["false alarms", "real, in a row"].of == 15
    assert found["false alarms", "resampled"].hits <= 1
    assert found["10% slowdown found", "resampled"].hits >= 57
    assert found["20% slowdown found", "resampled"].hits == 60
    assert "20 launches on Abacus, 2 cores, 2 ranks, Pigeons 1.0" in notes[0]
    assert "20 to 20 of each cell undisturbed" in notes[1]


def test_launches_of_other_code_and_a_line_cut_off_are_left_out(reported):
    rng = np.random.default_rng(1)
    entries = [entry(rng, Noise()) for _ in range(12)]
    entries[3]["code"] = "other"
    _, notes = reported(entries, rest='{"code": "c", "cel')
    assert "11 launches on" in notes[0]
    assert "1 launches of other code or machines left out" in notes[1]


def test_a_disturbed_measurement_costs_that_cell_one_launch_and_no_other_cell(reported):
    rng = np.random.default_rng(4)
    entries = [entry(rng, Noise()) for _ in range(20)]
    for number, disturbed in enumerate(entries):
        line = disturbed["cells"][number % 2]  # one that would be an alarm
        line["foreign"] = 0.6
        line["rounds"]["parallel"] = [2 * seconds for seconds in line["rounds"]["parallel"]]
    rates, notes = reported(entries)
    assert "10 to 20 of each cell undisturbed" in notes[1]
    assert rates == []
    rates, notes = reported(entries + [entry(rng, Noise()) for _ in range(2)])
    found = by_name(rates)
    assert "12 to 22 of each cell undisturbed" in notes[1]
    assert found["false alarms", "resampled"].hits <= 1
    slower = found["20% slowdown found", "resampled"]
    assert slower.hits == slower.of > 0


def test_too_few_launches_give_no_rates(reported):
    rng = np.random.default_rng(2)
    rates, notes = reported([entry(rng, Noise()) for _ in range(10)])
    assert rates == []
    assert "too few launches" in notes[-1]


def test_a_busy_neighbour_alarms_only_those_who_do_not_look(reported):
    rng = np.random.default_rng(3)
    quiet = [entry(rng, Noise()) for _ in range(12)]
    loaded = [entry(rng, Noise(), True, foreign=0.6, parallel=2.0e-3) for _ in range(4)]
    rates, _ = reported(quiet + loaded)
    found = by_name(rates)
    assert found["false alarms, busy neighbour", "real, in a row"].hits == 0
    blind = found["the same, if neighbours were not looked at", "real, in a row"]
    assert blind.hits == blind.of
    undecided = found["inconclusive (false alarms, busy neighbour)", "real, in a row"]
    assert undecided.hits == undecided.of


def test_the_table_goes_between_its_marks_and_nowhere_else(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{aa.MARKS[0]}\nold\n{aa.MARKS[1]}\nafter\n")
    aa.write("new\n", tmp_path / "rates.md", readme)
    assert readme.read_text() == f"before\n{aa.MARKS[0]}\nnew\n{aa.MARKS[1]}\nafter\n"
    readme.write_text("no marks\n")
    aa.write("new\n", tmp_path / "rates.md", readme)
    assert readme.read_text() == "no marks\n"


def test_intervals_are_those_of_clopper_and_pearson():
    low, high = aa.Rate("", "", 0, 100).interval
    assert (low, high) == (0, pytest.approx(1 - 0.025 ** (1 / 100)))


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next(tmp_path, monkeypatch):
    path = tmp_path / "aa.jsonl"
    whole = json.dumps({"seconds": 1.0}) + "\n"
    path.write_text(whole + '{"code": "c", "cel')
    monkeypatch.setattr(aa, "start", lambda *arguments: Launch({"a": {"id": "a"}}))
    aa.collect(path, 1, 2, False, Console(file=io.StringIO()))
    assert path.read_text().startswith(whole)
    assert [entry.get("cells") for entry in aa._entries(path)] == [None, [{"id": "a"}]]


@pytest.mark.parametrize("folder", aa.MEASURED)
def test_what_is_measured_is_there(folder):
    root = Path(aa.__file__).parent.parent
    assert [n for n in aa.MEASURED[folder] if not Path(root, folder, f"{n}.py").exists()] == []
