"""Layout bias: each launch has a memory layout of its own, all its ranks the same, on record."""

import json
import shlex
import sys

import pytest

from bench.gate import collect, launcher
from bench.gate.launcher import LAUNCHER
from bench.gate.launches import Launch
from bench.gate.layout import HASH_SEED, PADDING, PAGE, Layout
from bench.gate.storage import STORAGE
from strategies.records import read
from tests.bench.gate.fake_mpiexec import line
from tests.bench.gate.simulated_grid import judged, save_baseline, write_grid

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]

RANKS = f"""
import os, subprocess, sys
rank = 'import os; print(os.getenv("{HASH_SEED}"), len(os.environ["{PADDING}"]), hash("a"))'
for number in range(int(sys.argv[2])):
    subprocess.run([sys.executable, "-c", rank], check=True)
"""
"""A launcher: -n N starts N ranks, one after the other, which print what moves their memory."""


@pytest.fixture(autouse=True)
def no_seed_of_the_user(monkeypatch):
    monkeypatch.delenv(HASH_SEED, raising=False)


@pytest.fixture
def printed(tmp_path, monkeypatch):
    """Start launches and return what their ranks print, a line a rank, and their layout."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(LAUNCHER, shlex.join([sys.executable, "-c", RANKS]))

    def printed(number, ranks=3):
        launch = launcher.start(ranks, ["bench"], tmp_path, f"number-{number}", number)
        (log,) = launcher.LOGS.glob(f"*-number-{number}.log")
        return [line.split() for line in log.read_text().splitlines()], launch.layout

    return printed


def test_launches_differ_in_hash_seed_and_in_environment_size():
    layouts = [Layout.of_launch(number) for number in range(40)]
    assert len({layout.hash_seed for layout in layouts}) == 40
    assert len({layout.padding for layout in layouts}) > 35
    paddings = sorted(layout.padding for layout in layouts)
    assert 0 <= paddings[0] < PAGE / 8
    assert PAGE * 7 / 8 < paddings[-1] < PAGE


def test_a_number_has_one_layout():
    assert Layout.of_launch(7) == Layout.of_launch(7)


def test_the_ranks_of_a_launch_have_one_layout_and_other_launches_another(printed):
    found = [printed(number) for number in (0, 1)]
    for ranks, layout in found:
        assert len(ranks) == 3
        assert ranks == ranks[:1] * 3
        seed, padding, _ = ranks[0]
        assert (seed, int(padding)) == (layout.hash_seed, layout.padding)
    assert all(one != other for one, other in zip(found[0][0][0], found[1][0][0], strict=True))


def test_a_hash_seed_of_the_user_stays(printed, monkeypatch):
    monkeypatch.setenv(HASH_SEED, "77")
    ranks, layout = printed(3)
    assert {rank[0] for rank in ranks} == {layout.hash_seed} == {"77"}


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)"])
def test_the_record_ends_with_the_layout_also_after_a_crash(tmp_path, monkeypatch, end):
    monkeypatch.chdir(tmp_path)
    text = json.dumps(line("a", {"parallel": 1.4})) + "\n"
    writer = f"import os; open(os.environ['LOCKSTEP_CELLS'], 'a').write({text!r}); {end}"
    monkeypatch.setenv(LAUNCHER, shlex.join([sys.executable, "-c", writer]))
    launch = launcher.start(2, ["bench"], tmp_path, number=5)
    assert list(launch.cells) == ["a"]
    (file,) = tmp_path.glob(".benchmarks/lockstep/*.jsonl")
    assert read(file).records[-1] == launch.layout == Layout.of_launch(5)


def noted(monkeypatch):
    """Note the number of each launch that is made."""
    run, numbers = collect.start, []

    def start(ranks, command, root, label, number):
        numbers.append(number)
        return Launch(run(ranks, command, root, label).cells, layout=Layout.of_launch(number))

    monkeypatch.setattr(collect, "start", start)
    return numbers


def test_a_baseline_holds_the_layouts_of_its_launches(project, monkeypatch):
    numbers = noted(monkeypatch)
    save_baseline()
    (path,) = STORAGE.glob("*/*.json")
    saved = json.loads(path.read_text())["lockstep"]["launches"]
    assert numbers == [0, 1, 2]
    assert [launch["layout"] for launch in saved] == [
        Layout.of_launch(n).as_dict() for n in numbers
    ]


def test_fresh_launches_have_layouts_of_their_own(project, monkeypatch):
    """Else a cell that is slow in the first layouts would be slow again in the same ones."""
    save_baseline()
    write_grid(project, c={"parallel": 1.54})
    numbers = noted(monkeypatch)
    assert judged()[0] == 1
    assert numbers == list(range(3 + 5))
