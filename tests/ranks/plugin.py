"""The pytest hooks. A conftest loads this by ``pytest_plugins = ["tests.ranks.plugin"]``."""

import faulthandler
import gc
import time
from collections.abc import Generator
from dataclasses import asdict
from typing import Any, NoReturn

import pytest
from _pytest import runner
from _pytest.warnings import catch_warnings_for_item

from tests.ranks import clashes, deaths, ending, examples, groups, quiet, shares, verdict
from tests.ranks.control import Control
from tests.ranks.meeting import Meeting, RunEnds
from tests.ranks.mpi import MPI, launch_problem
from tests.ranks.watchdog import Watchdog

pytest_plugins = ["tests.ranks.fixtures"]

# How long a rank that failed waits for the others before it revokes their communicators. A skip
# waits longer: on all ranks it is a skip, after a revocation it would be a failure.
_GRACE = {"failed": 0.25, "xfailed": 0.25, "skipped": 1.0}
# Until all ranks are there for the first time: a rank may have failed before it loaded this.
_START_TIME = 60.0


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ranks")
    group.addoption(
        "--share",
        action="store_true",
        help="share out the tests that need one rank: the ranks run them side by side, but for "
        "those with the mark alone, as all measurements have it",
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
    config.addinivalue_line("markers", "deadline(seconds): time for each phase of a test")
    config.addinivalue_line("markers", "alone: with --share, no other test runs beside this one")
    if problem := launch_problem():
        raise pytest.UsageError(problem)
    if MPI.COMM_WORLD.rank > 0:
        quiet.clear_saving_options(config)
    examples.load_profile()
    config.pluginmanager.register(RankAware(config), "ranks")


@pytest.hookimpl(trylast=True, specname="pytest_configure")
def pytest_configure_terminal(config: pytest.Config) -> None:
    if MPI.COMM_WORLD.rank > 0:
        quiet.silence_terminal(config)


class RankAware:
    """One session on all ranks: the same tests at the same time, and the same verdicts."""

    def __init__(self, config: pytest.Config) -> None:
        self.deadline = float(config.getoption("--deadline"))
        self.share = bool(config.getoption("--share"))
        faulthandler.dump_traceback_later(_START_TIME, exit=True)
        self.control = Control()
        self.watchdog = Watchdog(self.control)
        faulthandler.cancel_dump_traceback_later()
        self.meeting = Meeting(self.control, self.watchdog)
        self.torn = False  # whether the current test's communicators are revoked or have lost ranks
        self.farewell = ""  # why this rank ends before the others, if it does
        self.collect_errors: list[str] = []
        self.not_run: list[str] = []
        self.stretch: shares.Stretch | None = None  # that is being run
        self.closing = ""  # what is shown at the end, if the ranks could not go on together
        self.code = 0

    def pytest_report_header(self) -> str:
        size = len(self.control.alive)
        tolerance = "fault-tolerant" if self.control.tolerant else "not fault-tolerant"
        return f"ranks: {size} ({tolerance})"

    def pytest_sessionstart(self) -> None:
        # After pytest's own faulthandler plugin, which would print without saying which rank.
        if len(self.control.alive) > 1:
            deaths.leave_traces(self.watchdog, self.control.tolerant)

    # Collection

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        groups.parametrize(metafunc, MPI.COMM_WORLD.size)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.collect_errors.append(f"{report.nodeid}: {report.longreprtext}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection(self) -> Generator[None, Any, Any]:
        gc.disable()  # hardly anything that is imported and collected is garbage
        with self.watchdog.phase(self.deadline):
            return (yield)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.watchdog.disarm()
        message = {"nodeids": [i.nodeid for i in session.items], "errors": self.collect_errors}
        answers = self._exchange("collection", message, self.deadline)
        nodeids = {rank: answer["nodeids"] for rank, answer in answers.items()}
        errors = {rank: answer["errors"] for rank, answer in answers.items()}
        if self.meeting.dead:
            self._exit("a rank died during collection", "")
        if difference := clashes.collections(nodeids, errors):
            self._exit("the ranks have not collected the same tests", difference)
        if self.share and len(self.control.alive) > 1:
            session.items = shares.arrange(session.items)
        gc.freeze()  # no later gc.collect() walks through it
        gc.enable()

    # Tests that are shared out

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        if stretch := shares.of(item):
            if item is stretch.items[0]:
                self._run(stretch)
            return True
        if coming := shares.of(nextitem):
            coming.deal(range(len(coming.items)), self.control.alive)
            return runner.pytest_runtest_protocol(item, coming.following(None, self.control.rank))
        return None

    def _run(self, stretch: shares.Stretch) -> None:
        """Run a stretch of tests, each on one rank, and report them."""
        session, self.stretch = stretch.items[0].session, stretch
        stretch.deal(range(len(stretch.items)), self.control.alive)
        while stretch.owners and not (session.shouldfail or session.shouldstop):
            self._run_own(stretch)
            self._meet(stretch)
        self.stretch = None

    def _run_own(self, stretch: shares.Stretch) -> None:
        end = time.monotonic() + shares.TURN
        for item in stretch.own(self.control.rank):
            self.watchdog.begin_notes(shares.running(item))
            following = stretch.following(item, self.control.rank)
            # pytest has set up those of the first test of the stretch.
            with catch_warnings_for_item(item.config, item.ihook, "runtest", item):
                runner.runtestprotocol(item, log=False, nextitem=following)
            if stretch.interrupted:
                stretch.forget(item)
            leaving = self.watchdog.table.leaving.exists()
            if stretch.interrupted or leaving or time.monotonic() > end:
                break
        self.watchdog.begin_notes(shares.WAITING)

    def _meet(self, stretch: shares.Stretch) -> None:
        """Hear of the tests that have been run, and report them; after a death, deal again."""
        left = [stretch.items[k] for k in stretch.owners]
        topic = f"shares of {len(left)} tests from {left[0].nodeid}"
        answers, dead = self._hear(topic, stretch.tell(), self._patience())
        stretch.clear()
        self.watchdog.begin_notes("")
        self.torn = self.control.revoked = False  # of tests that are over
        if 0 in dead:
            failures = [answer["word"]["text"] for answer in answers.values()]
            self._exit_without_leader("\n".join([topic, dead[0], *failures]))
        self._show(stretch, answers, dead)
        if dead:
            stretch.deal(stretch.owners, self.control.alive)

    def _show(
        self, stretch: shares.Stretch, answers: dict[int, dict[str, Any]], dead: dict[int, str]
    ) -> None:
        for item, reports in stretch.reports(answers, dead):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)

    # The phases of a test

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        # Not in a wrapper: a skip raised before a wrapper's yield leaves other plugins half set up.
        if self.share:  # another test was to follow the last one, if a rank has died
            item.session._setupstate.teardown_exact(item)
        if shares.of(item):
            item.stash[groups.GROUP] = groups.alone()
            return
        left = len(self.control.alive)
        need = groups.workers_of(item, left)
        if need > left and self.meeting.dead:
            self.not_run.append(item.nodeid)
            pytest.skip(f"not run: needs {need} ranks, {left} are left")
        if need > left:
            pytest.skip(f"needs {need} ranks, this run has {left}")
        item.stash[groups.GROUP] = groups.form(self.control, need)

    @pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_runtest_setup")
    def pytest_runtest_setup_in_time(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self.watchdog.phase(self._deadline_of(item)):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self.watchdog.phase(self._deadline_of(item)):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self.watchdog.phase(self._deadline_of(item)):
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
        """Idle ranks do not run the fixtures that use ``comm``; its absence stands for them all."""
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
        self.watchdog.disarm()
        group = item.stash.get(groups.GROUP, None)
        idle = group is not None and not group.active
        mine = verdict.word(report, call, self.watchdog.overrun, idle)
        if stretch := shares.of(item):
            words, dead = {self.control.rank: mine}, dict[int, str]()
            self._keep(stretch, item, mine, report)
        else:
            words, dead = self._agree(f"{item.nodeid} {call.when}", mine, self._deadline_of(item))
        verdict.apply(verdict.agreed(words, dead, item.location[0]), report)
        if 0 in dead:
            self._exit_without_leader(f"{item.nodeid} {call.when}\n{report.longrepr}")
        if call.when == "teardown":
            self._free(group)
        return report

    def _agree(
        self, topic: str, mine: verdict.Word, deadline: float
    ) -> tuple[dict[int, verdict.Word], dict[int, str]]:
        """What the survivors have to say of a phase, and the last words of the others."""
        message = {"word": asdict(mine), "revoked": self.control.revoked}
        answers, dead = self._hear(topic, message, deadline, _GRACE.get(mine.outcome))
        words = {rank: verdict.Word(**answer["word"]) for rank, answer in answers.items()}
        return words, dead

    def _keep(
        self,
        stretch: shares.Stretch,
        item: pytest.Item,
        mine: verdict.Word,
        report: pytest.TestReport,
    ) -> None:
        """Keep what this rank has to say of a phase of a test of its own."""
        stretch.keep(item, mine, report)
        if self.watchdog.overrun and self.watchdog.overrun.forced:
            stretch.interrupted = True
        if self.control.revoked:
            self.torn = stretch.revoked = True
            self.control.whole = False

    def _free(self, group: groups.Group | None) -> None:
        if group is not None and not self.torn:
            group.free()
        self.torn = self.control.revoked = False

    # The end

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.farewell = excinfo.exconly()

    def pytest_internalerror(self, excrepr: object) -> None:
        self.farewell = f"internal error\n{excrepr}"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(
        self, session: pytest.Session, exitstatus: int
    ) -> Generator[None, Any, Any]:
        self.watchdog.disarm()
        if not self.meeting.over:
            if self.farewell:
                self.watchdog.table.leaving.touch()
            told = self.stretch.tell() if self.stretch else {}
            try:
                session.exitstatus = self.meeting.leave(
                    self.farewell, exitstatus, self._patience(), told
                )
            except RunEnds as end:
                self.closing = self.closing or str(end)
        if self.stretch:  # the run ends in the midst of it
            told = self.stretch.tell()
            if not self.meeting.heard and self.control.rank > 0:
                self.watchdog.say(told["word"]["text"])
            self._show(self.stretch, self.meeting.heard or {self.control.rank: told}, {})
        if self.meeting.dead and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.control.rank > 0:
            quiet.stop_caching(session.config)
        # Fixtures that were left over are torn down now.
        with self.watchdog.phase(self.deadline):
            result = yield
        self.code = int(session.exitstatus)
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for rank, text in self.meeting.dead.items():
            terminalreporter.section(f"rank {rank} died")
            terminalreporter.line(text)
        if self.not_run:
            terminalreporter.section("not run, because ranks have died")
            for nodeid in self.not_run:
                terminalreporter.line(nodeid)
        if self.closing:
            terminalreporter.section("the run ended early")
            terminalreporter.line(self.closing)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self) -> None:
        ending.end(self.control, self.watchdog, self.code)

    # Help

    def _deadline_of(self, item: pytest.Item) -> float:
        mark = item.get_closest_marker("deadline")
        return float(mark.args[0]) if mark else self.deadline

    def _patience(self) -> float:
        """How long another rank may take to come to a meeting."""
        if self.stretch is None:
            return self.deadline
        return shares.TURN + 3 * max(map(self._deadline_of, self.stretch.items))

    def _hear(
        self, topic: str, message: dict[str, Any], deadline: float, grace: float | None = None
    ) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
        """The survivors' messages, and the last words of the ranks that have died since."""
        known = set(self.meeting.dead)
        answers = self._exchange(topic, message, deadline, grace)
        dead = {rank: text for rank, text in self.meeting.dead.items() if rank not in known}
        if dead or any(answer["revoked"] for answer in answers.values()):
            self.torn, self.control.whole = True, False
        return answers, dead

    def _exchange(
        self, topic: str, message: dict[str, Any], deadline: float, grace: float | None = None
    ) -> dict[int, dict[str, Any]]:
        try:
            return self.meeting.exchange(topic, message, deadline, grace)
        except RunEnds as end:
            self._exit(str(end), "")

    def _exit_without_leader(self, details: str) -> NoReturn:
        self._exit("rank 0 died, which prints and saves", details)

    def _exit(self, reason: str, details: str) -> NoReturn:
        self.closing = f"{reason}\n{details}".strip()
        self.meeting.over = True
        if self.control.leader != 0 and self.control.rank == self.control.leader:
            self.watchdog.say(self.closing)  # the rank that prints has gone
        pytest.exit(reason, returncode=pytest.ExitCode.INTERRUPTED)
