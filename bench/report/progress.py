"""One line per benchmark while they run, with the time that the rest will take."""

import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from types import MappingProxyType

import pytest


class Progress:
    """Writes to pytest's terminal between measurements, and never during one."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._todo: dict[str, str] = {}
        self._total = 0
        self._cells: dict[str, int] = {}
        """Node id -> cells that the benchmark measures: all of its race, or none of it, or one."""

        self._took: dict[str, list[float]] = defaultdict(list)
        self._start = 0.0
        self.said: dict[str, str] = {}
        """Node id -> its result in a word, such as "1.52x"."""

    def plan(
        self, items: Sequence[pytest.Item], races: Mapping[str, Hashable] = MappingProxyType({})
    ) -> None:
        """Take the benchmarks that will run, in order.

        Args:
            races: node id -> the race of the benchmark. The first benchmark of a race runs all of
                it, and the others only show what came out.
        """
        self._todo = {item.nodeid: item.nodeid.split("[")[0] for item in items}
        self._total = len(items)
        cells, seen = Counter(races[node] for node in self._todo if node in races), set()
        self._cells = dict.fromkeys(self._todo, 1)
        for node in self._todo:
            if race := races.get(node):
                self._todo[node] = "a race"
                self._cells[node] = 0 if race in seen else cells[race]
                seen.add(race)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._start = time.monotonic()
        self._terminal.showfspath = nodeid not in self._todo
        if (cells := self._cells.get(nodeid, 0)) > 1:
            self._terminal.ensure_newline()
            self._terminal.write_line(f"{'':9}{'a race':>16}  {cells} cells take turns")

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        over = report.when == "call" or not report.passed
        if report.nodeid not in self._todo or not over:
            return
        kind, cells = self._todo.pop(report.nodeid), self._cells[report.nodeid]
        if cells:
            self._took[kind].append((time.monotonic() - self._start) / cells)
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
        """Time left: each benchmark takes as long as others of its test did, else the average.

        A race takes that long for each of its cells.
        """
        took = [seconds for times in self._took.values() for seconds in times]
        mean = sum(took) / len(took) if took else 0.0
        left = 0.0
        for node, kind in self._todo.items():
            times = self._took.get(kind)
            left += self._cells[node] * (sum(times) / len(times) if times else mean)
        minutes, seconds = divmod(round(left), 60)
        return f"{minutes}:{seconds:02d} left" if self._todo else ""
