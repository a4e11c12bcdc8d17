"""Plugins with processes or files of their own, played by small ones with the same names."""

import os
from pathlib import Path

from tests.faults.launch import ROOT, Launch, launch

XDIST = """
def pytest_addoption(parser):
    parser.getgroup("xdist")._addoption("-n", dest="numprocesses", type=int, default=0)
    parser.addoption("--dist", default="no")

def pytest_cmdline_main(config):
    if config.option.numprocesses:
        config.option.dist = "load"
"""

COV = """
import os
from types import SimpleNamespace

import pytest


class Coverage:
    def __init__(self):
        self.config = SimpleNamespace(data_file=os.environ.get("COVERAGE_FILE", "shared"))
        self.data = {}

    def get_data(self):
        return self.data

    def stop(self):
        self.stopped = True

    def erase(self):
        self.data.clear()


class Plugin:
    def __init__(self):
        self.options = SimpleNamespace(cov_report={"term": None}, cov_fail_under=90)
        self.cov_controller = SimpleNamespace(cov=Coverage(), start=self.start)
        self.cov_controller.cov.data["imported"] = 1

    def start(self):
        self.cov_controller.cov = Coverage()

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self):
        cov = self.cov_controller.cov
        told = list(self.options.cov_report), self.options.cov_fail_under
        with open(cov.config.data_file, "x") as file:
            file.write(" ".join(map(str, [sorted(cov.data), *told])))


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config):
    early_config.pluginmanager.register(Plugin(), "_cov")
"""


def with_plugin(tmp_path: Path, text: str, *arguments: str, ranks: int = 2) -> Launch:
    """Run a healthy suite with one more plugin."""
    (tmp_path / "companion.py").write_text(text)
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "PLANTED_DEATH": ""}
    return launch(
        "lethal",
        tmp_path,
        ranks,
        environment=environment,
        arguments=["-p", "companion", *arguments],
        launcher=None if ranks > 1 else [],
    )


def test_workers_of_xdist_are_refused(tmp_path: Path) -> None:
    """Else the ranks would wait for each other for ever: the workers run the tests."""
    result = with_plugin(tmp_path, XDIST, "-n", "2")
    assert "ERROR: pytest-xdist (-n, --dist, --tx) does not work under mpiexec" in result.output
    assert not result.reports("test_before")
    assert result.code not in (0, None)


def test_without_a_launcher_xdist_is_left_alone(tmp_path: Path) -> None:
    result = with_plugin(tmp_path, XDIST, "-n", "2", ranks=1)
    assert result.code == 0, result.output


def test_each_rank_has_a_file_of_its_own_for_coverage(tmp_path: Path) -> None:
    """What was measured before the ranks knew of each other is in all; rank 0 reports."""
    result = with_plugin(tmp_path, COV)
    assert result.code == 0, result.output
    written = {path.name: path.read_text() for path in tmp_path.glob("shared*")}
    assert written == {
        "shared.rank0": "['imported'] ['term'] 90",
        "shared.rank1": "['imported'] [] None",
    }
