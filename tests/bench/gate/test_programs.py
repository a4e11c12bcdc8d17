"""The programs from end to end, on benchmarks that only pretend: see fake_mpiexec."""

import io
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest
from rich.console import Console

from bench.core.background_load import BackgroundLoad, disturbed
from bench.gate import ab, baselines, compare, launches
from bench.gate.aa import busy_neighbour
from bench.gate.launches import CELLS, LAUNCHER, Launch
from bench.gate.statistics import Outcome, Verdict
from bench.gate.verdicts import Report, show
from tests.bench.gate.fake_mpiexec import cells

pytestmark = [pytest.mark.workers(1), pytest.mark.deadline(60)]

FAKE = shlex.join([sys.executable, str(Path(__file__).with_name("fake_mpiexec.py"))])
GRID = {name: {"parallel": 1.4} for name in "abcdef"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty working directory with a grid of six cells, whose launches start no process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launches, "start", pretended)
    # Other programs may run beside this test; what they do to a cell has tests of its own.
    monkeypatch.setattr(launches, "disturbed", lambda foreign, workers: False)
    grid(tmp_path)
    return tmp_path


def pretended(ranks, command, root, label=""):
    lines = (
        list(cells(Path(root, "grid.json"), command)) if Path(root, "grid.json").exists() else []
    )
    measured = {line["id"]: line | {"foreign": 0.0} for line in lines if line}
    return Launch(measured, failure="ended with code 3" if None in lines else None)


def grid(folder, **changes):
    """Write grid.json: GRID with changes; None leaves a cell out."""
    specs = {name: spec for name, spec in (GRID | changes).items() if spec is not None}
    (folder / "grid.json").write_text(json.dumps(specs))


def saved(*arguments, name="main"):
    assert baselines.main(["-n", "2", "--save", name, *arguments]) == 0


def verdicts(path="report.json"):
    return {v["cell"]: v for v in json.loads(Path(path).read_text())["verdicts"]}


def judged(*arguments, name="main"):
    code = compare.main([name, "--json", "report.json", *arguments])
    return code, {cell: v["outcome"] for cell, v in verdicts().items()}


class TestCompare:
    def test_the_same_code_is_green(self, project):
        saved()
        assert judged() == (0, dict.fromkeys(GRID, "pass"))

    def test_a_slowed_cell_is_red_and_only_that_cell(self, project):
        saved()
        grid(project, c={"parallel": 1.54})
        code, outcomes = judged()
        assert (code, outcomes.pop("c")) == (1, "slower")
        assert set(outcomes.values()) == {"pass"}

    def test_fresh_launches_are_of_suspect_cells_only(self, project):
        saved()
        grid(project, c={"parallel": 1.54})
        judged()
        assert verdicts()["c"]["launches"] == [3, 3, 5]
        assert verdicts()["a"]["launches"] == [3, 3, 0]

    def test_a_larger_tolerance_lets_it_pass(self, project):
        saved()
        grid(project, c={"parallel": 1.54})
        assert judged("--tolerance", "15%")[0] == 0

    def test_a_vanished_cell_is_red(self, project):
        saved()
        grid(project, d=None)
        code, outcomes = judged()
        assert (code, outcomes["d"]) == (1, "missing")

    def test_a_launch_that_crashes_is_red_for_what_it_did_not_measure(self, project):
        saved()
        grid(project, d={"crash": True})
        code, outcomes = judged()
        assert code == 1
        assert [outcomes[name] for name in "abcdef"] == ["pass"] * 3 + ["missing"] * 3

    def test_a_faster_sequential_arm_is_named(self, project):
        saved()
        grid(project, b={"sequential": 1.7, "parallel": 1.4})
        code, outcomes = judged()
        assert (code, outcomes["b"]) == (1, "sequential arm faster")

    def test_another_machine_is_incomparable(self, project):
        saved()
        (path,) = project.glob(".benchmarks/*/*_main.json")
        content = json.loads(path.read_text())
        content["lockstep"]["fingerprint"]["cpu"] = "Abacus"
        path.write_text(json.dumps(content))
        assert judged() == (3, {})
        report = json.loads(Path("report.json").read_text())
        assert any("Abacus" in difference for difference in report["incomparable"])

    def test_another_number_of_ranks_is_incomparable(self, project):
        saved()
        assert judged("-n", "3") == (3, {})

    def test_neighbours_make_it_inconclusive(self, project, monkeypatch):
        saved()
        monkeypatch.setattr(launches, "disturbed", lambda foreign, workers: True)
        code, outcomes = judged()
        assert code == 4
        assert set(outcomes.values()) == {"inconclusive"}

    def test_oversubscribed_cells_do_not_fail(self, project):
        grid(project, f={"parallel": 2.0, "oversubscribed": True})
        saved()
        grid(project, f={"parallel": 4.0, "oversubscribed": True})
        assert judged() == (0, dict.fromkeys("abcde", "pass") | {"f": "not gated"})

    def test_a_grid_without_a_gated_cell_is_no_pass(self, project):
        only = {name: {"parallel": 2.0, "oversubscribed": True} for name in GRID}
        grid(project, **only)
        saved()
        assert judged()[0] == 4

    def test_reports_for_machines(self, project):
        saved()
        grid(project, c={"parallel": 1.7}, d=None)
        arguments = ["--junit", "out/report.xml", "--markdown", "summary.md"]
        assert judged(*arguments)[0] == 1
        suite = ET.parse("out/report.xml").getroot()
        assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("6", "2", "0")
        failed = {case.get("name") for case in suite if case.find("failure") is not None}
        assert failed == {"c", "d"}
        summary = Path("summary.md").read_text()
        assert "failed: 4 pass, 1 slower, 1 missing" in summary
        table = [line.split(" | ")[0] for line in summary.splitlines() if line.startswith("| ")]
        assert table == ["| cell", *(f"| {cell}" for cell in "cdabef")]  # worst first

    def test_the_worst_come_first(self, project, capsys):
        saved()
        grid(project, c={"parallel": 1.7}, d=None)
        judged()
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert [row[0] for row in rows if row and row[0] in GRID] == list("cdabef")

    @pytest.mark.parametrize("width", [None, 80])
    def test_nothing_is_cut_off_in_a_log_or_a_narrow_terminal(self, width):
        cell = "speedup/SharedDataParallel-mlp-2w-b256-n10000-cpu"
        why = f"as if the parallel arm were 26.4% slower, {'confirmed, ' * 10}finally"
        figures = {"before": 1.57, "after": 1.24, "ratio": 0.791, "low": 0.772, "high": 0.811}
        verdict = Verdict(cell, Outcome.SLOWER, why, **figures, parallel_ratio=1.276)
        page = io.StringIO()
        console = Console(
            file=page, width=width, force_terminal=width is not None, color_system=None
        )
        show(Report("then", "now", [verdict]), console)
        rows = [line.split() for line in page.getvalue().splitlines()]
        assert any({"0.791", "0.772", "0.811", "1.276", "slower"} <= set(row) for row in rows)
        assert f"{cell}: {why}" in page.getvalue()
        assert cell in "".join(row[0] for row in rows if row)
        if not width:
            assert any(row[:1] == [cell] and "slower" in row for row in rows)

    @pytest.mark.parametrize("text", ["0", "-5%", "100%", "five", "nan"])
    def test_refuses_a_tolerance_that_is_none(self, text, capsys):
        with pytest.raises(SystemExit) as ended:
            compare.main(["main", f"--tolerance={text}"])
        assert ended.value.code == 2
        assert "expected a slowdown such as 5%" in capsys.readouterr().err


class TestBaseline:
    def test_is_readable_by_pytest_benchmark(self, project):
        saved()
        command = [sys.executable, "-m", "pytest_benchmark", "compare", "0001"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert all(f"\n{name} " in done.stdout for name in GRID)

    def test_the_newest_of_a_name_counts(self, project):
        saved()
        grid(project, a={"parallel": 1.0})
        saved()
        assert baselines.load(baselines.STORAGE, "main").path.name == "0002_main.json"
        assert judged() == (0, dict.fromkeys(GRID, "pass"))

    def test_of_two_machines_this_one_counts(self, project):
        saved()
        here = baselines.load(baselines.STORAGE, "main").path
        there = here.parent.with_name("another-machine")
        there.mkdir()
        (there / "0002_main.json").write_bytes(here.read_bytes())
        assert baselines.load(baselines.STORAGE, "main").path == here

    def test_of_machines_that_are_all_others_the_newest_counts(self, project):
        saved()
        here = baselines.load(baselines.STORAGE, "main").path
        for folder, number, year in (("x", 1, "2031"), ("y", 2, "2030")):
            path = here.parent.with_name(folder) / f"000{number}_main.json"
            path.parent.mkdir()
            content = json.loads(here.read_text()) | {"datetime": f"{year}-01-01T00:00:00+00:00"}
            path.write_text(json.dumps(content))
        here.unlink()
        assert baselines.load(baselines.STORAGE, "main").saved.year == 2031

    def test_a_crash_keeps_what_was_measured(self, project):
        grid(project, d={"crash": True})
        assert baselines.main(["-n", "2", "--save", "main"]) == 1
        kept = baselines.load(baselines.STORAGE, "main")
        assert [list(launch.cells) for launch in kept.launches] == [["a", "b", "c"]] * 3

    def test_an_interrupted_save_keeps_the_launches_before_it(self, project, monkeypatch):
        run, calls = launches.start, []

        def interrupted(*arguments, **options):
            calls.append(arguments)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return run(*arguments, **options)

        monkeypatch.setattr(launches, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            baselines.main(["-n", "2", "--save", "main"])
        assert len(baselines.load(baselines.STORAGE, "main").launches) == 2

    def test_a_write_that_fails_leaves_the_old_file(self, project):
        saved()
        kept = baselines.load(baselines.STORAGE, "main")
        before = kept.path.read_bytes()
        kept.launches[0].cells["a"]["speedup"] = float("nan")
        with pytest.raises(ValueError, match="JSON"):
            baselines.write(kept.path, kept.launches, kept.fingerprint, kept.arguments)
        assert kept.path.read_bytes() == before
        assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]

    def test_too_few_launches_are_refused(self, project, capsys):
        with pytest.raises(SystemExit) as ended:
            baselines.main(["--save", "main", "--launches", "2"])
        assert ended.value.code == 2
        assert "at least 3 launches" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["../main", "a b", "", "-x", "*"])
    def test_refuses_names_that_are_none(self, name):
        with pytest.raises(SystemExit):
            baselines.main([f"--save={name}"])

    def test_says_what_there_is(self, project, capsys):
        saved(name="other")
        assert compare.main(["main"]) == 2
        assert "there: other" in " ".join(capsys.readouterr().out.split())

    @pytest.mark.parametrize(
        ("damage", "says"),
        [
            (lambda c: "{", "is damaged"),
            (lambda c: "[]", "is no baseline"),
            (lambda c: json.dumps(c | {"lockstep": None}), "is no baseline"),
            (lambda c: json.dumps(c | {"lockstep": c["lockstep"] | {"format": 9}}), "format 9"),
            (lambda c: json.dumps(c | {"lockstep": {"format": 1}}), "is damaged"),
            (
                lambda c: json.dumps(c).replace('"steps_per_round": 10', '"steps_per_round": 0'),
                "steps",
            ),
            (lambda c: json.dumps(_with_round(c, -1.0)), "round times"),
            (lambda c: json.dumps(_with_round(c, float("nan"))), "round times"),
            (lambda c: json.dumps(_with_round(c, None)), "unpaired"),
            (lambda c: json.dumps(c | {"lockstep": c["lockstep"] | {"launches": []}}), "is empty"),
        ],
        ids=[
            "cut off",
            "a list",
            "pytest-benchmark's own",
            "a later format",
            "no launches",
            "no steps",
            "negative time",
            "nan",
            "a round lost",
            "empty",
        ],
    )
    def test_a_damaged_or_foreign_file_is_named(self, project, damage, says):
        saved()
        (path,) = project.glob(".benchmarks/*/*_main.json")
        path.write_text(damage(json.loads(path.read_text())))
        with pytest.raises(baselines.BaselineError, match=says) as refused:
            baselines.load(baselines.STORAGE, "main")
        assert path.name in str(refused.value)


def _with_round(content, seconds):
    rounds = content["lockstep"]["launches"][1]["cells"][2]["rounds"]["parallel"]
    if seconds is None:
        rounds.pop()
    else:
        rounds[4] = seconds
    return content


def commit(paths):
    subprocess.run(["git", "add", *paths], check=True)
    author = ["-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", *author, "commit", "--quiet", "-m", "as it is"], check=True)


class TestAB:
    @pytest.fixture
    def repository(self, project):
        subprocess.run(["git", "init", "--quiet"], check=True)
        commit(["grid.json"])
        return project

    def test_the_same_code_is_green(self, repository):
        assert ab.main(["HEAD", "-n", "2"]) == 0

    def test_a_slower_working_tree_is_red(self, repository):
        grid(repository, e={"parallel": 1.6})
        assert ab.main(["HEAD", "-n", "2", "--json", "report.json"]) == 1
        outcomes = {cell: v["outcome"] for cell, v in verdicts().items()}
        assert outcomes.pop("e") == "slower"
        assert set(outcomes.values()) == {"pass"}

    def test_a_vanished_cell_is_red(self, repository):
        grid(repository, e=None)
        assert ab.main(["HEAD", "-n", "2"]) == 1

    def test_launches_alternate(self, repository, monkeypatch):
        order = []
        run = launches.start

        def noted(ranks, command, root, label):
            order.append(label)
            return run(ranks, command, root, label)

        monkeypatch.setattr(launches, "start", noted)
        ab.main(["HEAD", "-n", "2"])
        assert order == ["before", "after", "after", "before", "before", "after"]

    def test_says_which_commits_they_are(self, repository):
        (repository / "more").touch()
        commit(["more"])
        ab.main(["HEAD^", "-n", "2", "--json", "report.json"])
        report = json.loads(Path("report.json").read_text())
        log = ["git", "log", "--format=%h"]
        newer, older = subprocess.run(log, capture_output=True, text=True).stdout.split()
        assert (report["before"], report["after"]) == (f"HEAD^ ({older})", newer)

    def test_leaves_no_worktree_behind(self, repository, monkeypatch):
        monkeypatch.setattr(ab, "collect", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ab.main(["HEAD", "-n", "2"])
        done = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True)
        assert len(done.stdout.splitlines()) == 1

    @pytest.mark.parametrize("reference", ["nowhere", "--help-me"])
    def test_an_unknown_commit_is_wrong_usage(self, repository, reference, capsys):
        try:
            code = ab.main([reference])
        except SystemExit as ended:  # argparse: it looks like an option
            code = ended.code
        assert code == 2

    @pytest.mark.parametrize(
        ("conftest", "says"),
        [('addoption("--cells")', "ended with code 3"), ("", "it is from before this gate")],
    )
    def test_a_commit_that_measures_nothing_is_wrong_usage_at_once(
        self, repository, monkeypatch, capsys, conftest, says
    ):
        (repository / "bench").mkdir()
        (repository / "bench" / "conftest.py").write_text(conftest)
        grid(repository, a={"crash": True})
        commit(["bench", "grid.json"])
        grid(repository)
        started = []

        def noted(ranks, command, root, label):
            started.append(label)
            return pretended(ranks, command, root)

        monkeypatch.setattr(launches, "start", noted)
        assert ab.main(["HEAD", "-n", "2"]) == 2
        said = " ".join(capsys.readouterr().out.split())
        assert f"HEAD measured nothing: {says}" in said
        assert started == ["before"]


class TestStart:
    """What the other tests pretend: processes, and the file that they append to."""

    @pytest.fixture(autouse=True)
    def started(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv(LAUNCHER, FAKE)

    def test_takes_the_cells_of_a_launch(self, tmp_path):
        grid(tmp_path)
        launch = launches.start(2, ["-m", "pytest", "bench"], tmp_path)
        assert list(launch.cells) == list(GRID)
        assert all(line["foreign"] >= 0 for line in launch.cells.values())
        assert launch.failure is None

    def test_runs_named_cells_again(self, tmp_path):
        grid(tmp_path)
        runner = launches.Grid(2, root=tmp_path)
        runner.launch()
        again = runner.launch(["c", "e"])
        assert (list(again.cells), again.asked) == (["c", "e"], frozenset("ce"))

    @pytest.mark.parametrize("named", ["bench/test_some.py", "bench/test_some.py::test_mlp"])
    def test_launches_what_is_named_and_no_more(self, tmp_path, monkeypatch, named):
        (tmp_path / "bench").mkdir()
        (tmp_path / "bench" / "test_some.py").touch()
        started = []

        def noted(ranks, command, root, label):
            started.append(command)
            return Launch({"a": {"nodeid": "bench/test_some.py::test_mlp[a]"}})

        monkeypatch.setattr(launches, "start", noted)
        runner = launches.Grid(2, ["--quick", named], tmp_path)
        runner.launch()
        runner.launch(["a"])
        asked = [[part for part in command if "bench" in part] for command in started]
        assert asked == [[named], ["bench/test_some.py::test_mlp[a]"]]

    def test_keeps_the_cells_of_a_crash_and_says_where_to_look(self, tmp_path):
        grid(tmp_path, c={"crash": True})
        launch = launches.start(2, ["-m", "pytest", "bench"], tmp_path)
        assert list(launch.cells) == ["a", "b"]
        assert "ended with code 3, see .lockstep" in launch.failure

    def test_gives_up_on_a_launch_that_says_nothing(self, tmp_path, monkeypatch):
        silent = [sys.executable, "-c", "import time; time.sleep(60)"]
        monkeypatch.setenv(LAUNCHER, shlex.join(silent))
        monkeypatch.setattr(launches, "PATIENCE", 0.3)
        began = time.monotonic()
        launch = launches.start(2, ["-m", "pytest", "bench"], tmp_path)
        assert "no new cell" in launch.failure
        assert time.monotonic() - began < 10

    def test_without_an_mpi_it_says_so(self, tmp_path, monkeypatch):
        monkeypatch.setenv(LAUNCHER, "no-such-mpiexec --with-ft ulfm")
        with pytest.raises(SystemExit, match="install an MPI"):
            launches.start(2, ["-m", "pytest", "bench"], tmp_path)


@pytest.mark.alone
class TestNeighbours:
    def test_a_busy_process_outside_is_seen(self):
        neighbours = BackgroundLoad()
        with busy_neighbour(after=0.0):
            time.sleep(0.5)
            neighbours.lap()
            time.sleep(1.0)
            assert neighbours.lap() > 0.3

    def test_the_cores_are_those_of_the_launch(self, monkeypatch):
        """Also where this rank is bound to one: the time of all ranks counts as their own."""
        cores = os.sched_getaffinity(0) | os.sched_getaffinity(os.getppid())
        if len(cores) < 2:
            pytest.skip("one core is all cores")
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda pid: cores if pid == os.getppid() else {min(cores)}
        )
        times = psutil.cpu_times(percpu=True)
        neighbours = BackgroundLoad()
        busier = [core._replace(user=core.user + 1e6) for core in times]
        monkeypatch.setattr(psutil, "cpu_times", lambda percpu: busier)
        _, before, _ = neighbours._last
        _, busy, _ = neighbours._now()
        assert busy - before == pytest.approx(1e6 * len(cores), rel=1e-3)

    def test_work_of_children_is_our_own(self):
        neighbours = BackgroundLoad()
        _, _, before = neighbours._now()
        work = "import time\nwhile time.process_time() < 0.4: pass"  # however long that takes
        subprocess.run([sys.executable, "-c", work], check=True)
        _, _, own = neighbours._now()
        assert own - before > 0.3

    @pytest.mark.parametrize(
        ("foreign", "needed", "cores", "expected"),
        [
            (0.05, 2, 2, False),
            (0.5, 2, 2, True),
            (1.0, 2, 4, False),
            (2.5, 2, 4, True),
            (0.5, 1, 2, False),
            (0.5, 4, 2, True),
        ],
    )
    def test_only_load_that_takes_cores_from_a_cell_disturbs(
        self, monkeypatch, foreign, needed, cores, expected
    ):
        monkeypatch.setattr("bench.core.background_load.available", lambda: cores)
        assert disturbed(foreign, needed) is expected


def test_the_variable_of_the_measuring_core():
    """Both sides name it; they must not import each other."""
    source = Path(launches.__file__).with_name("conftest.py").read_text()
    assert f'"{CELLS}"' in source
