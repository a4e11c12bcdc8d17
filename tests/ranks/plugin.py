"""The pytest hooks. A conftest loads them by ``pytest_plugins = ["tests.ranks.plugin"]``."""

import gc
import warnings
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import pytest
from _pytest.unittest import TestCaseFunction

from . import (
    collected,
    companions,
    examples,
    groups,
    output,
    post_mortem,
    shares,
    shutdown,
    verdict,
)
from .meeting import RunEnds
from .mpi import MPI, launch_problem
from .run import Run
from .sharing import Sharing

pytest_plugins = [f"{__package__}.fixtures"]

IN_ORDER = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED)
"""Exit codes of runs that have come to their end, after which pytest shows what has failed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ranks")
    group.addoption(
        "--share",
        action="store_true",
        help="run tests that need one rank side by side, each on one of the ranks, except tests "
        "with the mark alone",
    )
    group.addoption(
        "--deadline",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="time that setup, call and teardown of a test may each take (default: 60); "
        "the mark deadline(seconds) overrides it for a test",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "workers(n, ...): how many ranks a test runs on, each number in turn"
    )
    config.addinivalue_line(
        "markers", "ranks(n): run the test on n ranks, if there are so many, not on its workers"
    )
    config.addinivalue_line("markers", "deadline(seconds): time for each phase of a test")
    config.addinivalue_line("markers", "alone: with --share, no other test runs beside this one")
    if problem := launch_problem():
        raise pytest.UsageError(problem)
    if MPI.COMM_WORLD.size > 1:
        companions.refuse_workers(config)
        companions.separate_coverage(config, MPI.COMM_WORLD.rank)
    if MPI.COMM_WORLD.rank > 0:
        output.clear_saving_options(config)
    examples.load_profile()
    run = Run(float(config.getoption("--deadline")))
    several = len(run.control.alive) > 1
    post_mortem.record_exits(run.watchdog, by_signal=several and run.control.tolerant)
    sharing = Sharing(run)
    config.pluginmanager.register(run, "ranks")
    config.pluginmanager.register(RankAware(run, sharing), "ranks-hooks")
    if config.getoption("--share") and several:
        config.pluginmanager.register(sharing, "ranks-sharing")


@pytest.hookimpl(trylast=True, specname="pytest_configure")
def pytest_configure_terminal(config: pytest.Config) -> None:
    if MPI.COMM_WORLD.rank > 0:
        output.silence_terminal(config)


def call_at_once(item: TestCaseFunction, on_failure: Callable[[], None]) -> None:
    """Call a function as soon as a unittest.TestCase has failed, before its `tearDown`.

    `tearDown` runs in the same phase, and may free communicators or wait for other ranks.
    """

    def first(report: Callable[..., None], *error: Any) -> None:
        on_failure()
        report(*error)

    for name in ("addError", "addFailure"):
        setattr(item, name, partial(first, getattr(item, name)))


class RankAware:
    """The hooks that make one session of all ranks: the same tests in step, the same verdicts."""

    def __init__(self, run: Run, sharing: Sharing) -> None:
        self.run = run
        self.sharing = sharing
        self.leave_reason = ""  # why this rank ends before the others, if it does
        self.collect_errors: list[str] = []
        self.not_run: list[str] = []

    def pytest_report_header(self) -> str:
        size = len(self.run.control.alive)
        tolerance = "fault-tolerant" if self.run.control.tolerant else "not fault-tolerant"
        return f"ranks: {size} ({tolerance})"

    def pytest_sessionstart(self) -> None:
        # After pytest's own faulthandler plugin, which would print without saying which rank.
        if len(self.run.control.alive) > 1:
            post_mortem.record_crashes(self.run.watchdog)

    # Collection

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        groups.parametrize(metafunc, MPI.COMM_WORLD.size)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.collect_errors.append(f"{report.nodeid}: {report.longreprtext}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, Any, Any]:
        gc.disable()  # hardly anything that is imported and collected is garbage
        with self.run.watchdog.phase(self.run.deadline):
            return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.run.watchdog.disarm()
        message = {"nodeids": [i.nodeid for i in session.items], "errors": self.collect_errors}
        messages = self.run.exchange("collection", message, self.run.deadline)
        nodeids = {rank: m["nodeids"] for rank, m in messages.items()}
        errors = {rank: m["errors"] for rank, m in messages.items()}
        if self.run.meeting.dead:
            self.run.exit("a rank died during collection")
        if difference := collected.difference(nodeids, errors):
            self.run.exit("the ranks have not collected the same tests", difference)
        gc.freeze()  # later collections need not look at what has been imported
        gc.enable()

    # The phases of a test

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        # Not in a wrapper: a skip raised before a wrapper's yield leaves other plugins half set up.
        self._tear_down_broken_fixtures(item.session)
        if shares.block_of(item):
            return
        left = len(self.run.control.alive)
        need = groups.workers_of(item, left)
        if need > left and self.run.meeting.dead:
            self.not_run.append(item.nodeid)
            pytest.skip(f"not run: needs {need} ranks, {left} are left")
        if need > left:
            pytest.skip(f"needs {need} ranks, this run has {left}")
        item.stash[groups.GROUP] = groups.form_group(self.run.control, need)

    def _tear_down_broken_fixtures(self, session: pytest.Session) -> None:
        """After a fault, have fixtures of all scopes set up again: they may hold communicators.

        Their teardown may use those communicators, which are revoked, and fail.
        """
        if not self.run.fixtures_broken:
            return
        self.run.fixtures_broken = False
        try:
            session._setupstate.teardown_exact(None)
        except MPI.Exception:
            pass
        except Exception as error:
            warnings.warn(
                f"after the fault in {self.run.latest_fault}, the teardown of fixtures failed: "
                f"{error!r}",
                stacklevel=1,
            )

    @pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_runtest_setup")
    def pytest_runtest_setup_in_time(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self.run.watchdog.phase(self.run.deadline_of(item)):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        if isinstance(item, TestCaseFunction) and not shares.block_of(item):
            call_at_once(item, self.run.watchdog.failed)
        with self.run.watchdog.phase(self.run.deadline_of(item)):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self.run.watchdog.phase(self.run.deadline_of(item)):
            return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> bool | None:
        group = pyfuncitem.stash[groups.GROUP]
        if not group.active:
            return True
        examples.agree_on_each(pyfuncitem, group)
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Any:
        """On an idle rank, give COMM_NULL in place of every fixture that uses ``comm``."""
        if fixturedef.scope != "function":
            return None
        group = request.node.stash.get(groups.GROUP, None)
        if group is None or group.active or not groups.uses_comm(fixturedef, request):
            return None
        fixturedef.cached_result = (group.comm, getattr(request, "param", None), None)
        return group.comm

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        run, topic = self.run, f"{item.nodeid} {call.when}"
        fault_before = run.latest_fault
        run.watchdog.disarm()
        group = item.stash.get(groups.GROUP, None)
        idle = group is not None and not group.active
        own = verdict.own_report(report, call, run.watchdog.overrun, idle)
        if block := shares.block_of(item):
            reports, dead = {run.control.rank: own}, dict[int, str]()
            self.sharing.record(block, item, own, report)
        else:
            reports, dead = run.agree(topic, own, run.deadline_of(item))
        verdict.apply(verdict.agree(reports, dead, item.location[0], fault_before), report)
        if 0 in dead:
            run.exit_without_rank_0(f"{topic}\n{report.longrepr}")
        if call.when == "teardown":
            run.finish_test(group)
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            self.run.watchdog.table.note_failure(report.nodeid, getattr(crash, "message", ""))

    # The end

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.leave_reason = excinfo.exconly()

    def pytest_internalerror(self, excrepr: object) -> None:
        self.leave_reason = f"internal error\n{excrepr}"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, Any, Any]:
        run, sharing = self.run, self.sharing
        run.watchdog.disarm()
        if not run.meeting.over:
            if self.leave_reason:
                run.watchdog.table.leaving.touch()
            try:
                session.exitstatus = run.meeting.leave(
                    self.leave_reason, exitstatus, sharing.patience(), sharing.message()
                )
            except RunEnds as end:
                run.end_reason = run.end_reason or str(end)
        sharing.report_unfinished()
        if run.meeting.dead and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if run.control.rank > 0:
            output.stop_caching(session.config)
        # pytest now tears down the fixtures that are left.
        with run.watchdog.phase(run.deadline):
            self._tear_down_broken_fixtures(session)
            result = yield
        run.code = int(session.exitstatus)
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for rank, text in self.run.meeting.dead.items():
            terminalreporter.section(f"rank {rank} died")
            terminalreporter.line(text)
        if self.not_run:
            terminalreporter.section("not run, because ranks have died")
            for nodeid in self.not_run:
                terminalreporter.line(nodeid)
        if self.run.end_reason:
            terminalreporter.section("the run ended early")
            terminalreporter.line(self.run.end_reason)

        if self.run.control.rank == 0 and not self.run.watchdog.terminated:
            self.run.watchdog.table.take_failures()  # pytest shows them

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        if self.run.control.rank == self.run.control.leader and self.run.code not in IN_ORDER:
            self.run.watchdog.print_failures()
        shutdown.shut_down(self.run.control, self.run.watchdog, self.run.code)
