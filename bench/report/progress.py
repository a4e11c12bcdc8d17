"""One line per benchmark while they run, with the time that the rest will take."""

import time
from collections import defaultdict
from collections.abc import Sequence

import pytest


class Progress:
    """Writes to pytest's terminal between measurements, and never during one."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._todo: dict[str, str] = {}
        self._total = 0
        self._took: dict[str, list[float]] = defaultdict(list)
        self._start = 0.0
        self.said: dict[str, str] = {}
        """Node id -> its result in a word, such as "1.52x"."""

    def plan(self, items: Sequence[pytest.Item]) -> None:
        """Take the benchmarks that will run, in order."""
        self._todo = {item.nodeid: item.nodeid.split("[")[0] for item in items}
        self._total = len(items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._start = time.monotonic()
        self._terminal.showfspath = nodeid not in self._todo

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        over = report.when == "call" or not report.passed
        if report.nodeid not in self._todo or not over:
            return
        self._took[self._todo.pop(report.nodeid)].append(time.monotonic() - self._start)
        self._terminal.ensure_newline()
        self._terminal.write(f"{self._total - len(self._todo):4d}/{self._total}  ")
        said = self.said.get(report.nodeid, "") if report.passed else report.outcome
        colours = {"green": report.passed, "red": report.failed, "yellow": report.skipped}
        self._terminal.write(f"{said:>16}  ", **colours)
        name = report.nodeid.removeprefix("bench/")
        self._terminal.write_line(f"{name:74} {self._left()}")

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Print no letter for a benchmark, since it has a line."""
        if (
            report.nodeid in self._todo
            and report.when == "call"
            and not hasattr(report, "wasxfail")
        ):
            return report.outcome, "", ""
        return None

    def _left(self) -> str:
        """Time left: each benchmark takes as long as others of its test did, else the average."""
        took = [seconds for times in self._took.values() for seconds in times]
        mean = sum(took) / len(took)
        left = 0.0
        for kind in self._todo.values():
            times = self._took.get(kind)
            left += sum(times) / len(times) if times else mean
        minutes, seconds = divmod(round(left), 60)
        return f"{minutes}:{seconds:02d} left" if self._todo else ""
