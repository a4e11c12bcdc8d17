"""The pytest hooks. A conftest loads this by ``pytest_plugins = ["tests.ranks.plugin"]``."""

from collections.abc import Generator
from typing import Any

import pytest

from tests.ranks import ending, examples, groups, quiet, verdict
from tests.ranks.control import Control, Patience
from tests.ranks.mpi import MPI, launch_problem
from tests.ranks.watchdog import Watchdog

pytest_plugins = ["tests.ranks.fixtures"]

# How long a rank that failed waits for the others before it revokes their communicators. A skip
# waits longer: on all ranks it is a skip, after a revocation it would be a failure.
_GRACE = {"failed": 0.25, "xfailed": 0.25, "skipped": 1.0}
# A rank waits this much longer than the deadline for another one; by then the guard has acted.
_LAST_RESORT = 12.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("ranks").addoption(
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
        self.config = config
        self.control = Control()
        self.watchdog = Watchdog(self.control)
        self.over = False  # whether the ranks have agreed to end
        self.farewell = ""  # why this rank ends before the others, if it does
        self.crashed: dict[int, str] = {}  # the dead, and what is known of their end
        self.torn = False  # whether communicators of the current test were revoked, or ranks died
        self.not_run: list[str] = []

    def pytest_report_header(self) -> str:
        size = len(self.control.alive)
        tolerance = "fault-tolerant" if self.control.tolerant else "not fault-tolerant"
        return f"ranks: {size} ({tolerance})"

    # Collection

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        groups.parametrize(metafunc, MPI.COMM_WORLD.size)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        nodeids = [item.nodeid for item in session.items]
        self._exchange("collection", {"nodeids": nodeids}, None, self._default_deadline)

    # The phases of a test

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        # Not in a wrapper: a skip raised before a wrapper's yield leaves other plugins half set up.
        need, left = groups.workers_of(item, len(self.control.alive)), len(self.control.alive)
        if need > left:
            if self.crashed:
                self.not_run.append(item.nodeid)
            pytest.skip(
                f"needs {need} ranks, "
                + (f"{left} are left" if self.crashed else f"this run has {left}")
            )
        item.stash[groups.GROUP] = groups.form(self.control, need)

    @pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_runtest_setup")
    def pytest_runtest_setup_in_time(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self.watchdog.phase(self._deadline(item), f"{item.nodeid} setup"):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self.watchdog.phase(self._deadline(item), f"{item.nodeid} call"):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        with self.watchdog.phase(self._deadline(item), f"{item.nodeid} teardown"):
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
        group = (
            request.node.stash.get(groups.GROUP, None) if fixturedef.scope == "function" else None
        )
        if group is None or group.active or not _uses_comm(fixturedef, request):
            return None
        fixturedef.cached_result = (group.comm, fixturedef.cache_key(request), None)
        return group.comm

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        self.watchdog.disarm()
        group = item.stash.get(groups.GROUP, None)
        idle = group is not None and not group.active
        mine = verdict.word(report, call, self.watchdog.stack, idle)
        before = list(self.control.alive)
        answers = self._exchange(
            f"{item.nodeid} {call.when}",
            {"word": verdict.to_json(mine), "revoked": self.control.revoked},
            _GRACE.get(mine.outcome),
            self._deadline(item),
        )
        dead = {r: self._last_words(r) for r in before if r not in self.control.alive}
        self.crashed |= dead
        if dead or any(answer["revoked"] for answer in answers.values()):
            self.torn, self.control.whole = True, False
        words = {rank: verdict.Word(**answer["word"]) for rank, answer in answers.items()}
        verdict.apply(verdict.agreed(words, dead, item.location[0]), report)
        if call.when == "teardown" and group is not None:
            if self.torn:
                self.torn = self.control.revoked = False
            else:
                group.free()
        return report

    # The end

    def pytest_keyboard_interrupt(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        self.farewell = excinfo.exconly()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None, Any, Any]:
        self.watchdog.disarm()
        if not self.over:
            self._exchange(
                "bye",
                {"bye": self.farewell},
                0.25 if self.farewell else None,
                self._default_deadline,
            )
        if self.control.rank > 0:
            quiet.stop_caching(session.config)
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.not_run:
            terminalreporter.section("not run, because ranks have died")
            for nodeid in self.not_run:
                terminalreporter.line(nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        ending.finish(self.control, 1)

    # Help

    @property
    def _default_deadline(self) -> float:
        return float(self.config.getoption("--deadline"))

    def _deadline(self, item: pytest.Item) -> float:
        mark = item.get_closest_marker("deadline")
        return float(mark.args[0]) if mark else self._default_deadline

    def _exchange(
        self, topic: str, message: dict[str, Any], grace: float | None, deadline: float
    ) -> dict[int, dict[str, Any]]:
        """All survivors' messages; ends the session when the ranks are not at the same point."""
        patience: Patience = []
        if self.control.tolerant and grace is not None:
            patience.append((grace, self.control.unblock))
        patience.append((deadline + _LAST_RESORT, lambda: self._give_up(topic)))
        answers = self.control.exchange({"topic": topic, **message}, patience)
        leaving = {r: a["bye"] for r, a in answers.items() if "bye" in a}
        if len(leaving) == len(answers):
            self.over = True
        elif leaving:
            self.over = True
            if topic != "bye":
                reasons = "; ".join(
                    f"rank {r} left the session: {why}" for r, why in leaving.items()
                )
                pytest.exit(reasons, returncode=pytest.ExitCode.INTERRUPTED)
        return answers

    def _give_up(self, topic: str) -> None:
        self.watchdog.say(f"{topic}: another rank did not answer; the run is aborted")
        self.watchdog.abort()

    def _last_words(self, rank: int) -> str:
        notes = self.watchdog.table.notes(rank)
        text = notes.read_text() if notes.exists() else ""
        return text or "It left no trace: killed by a signal, or by the system for lack of memory."


def _uses_comm(fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest) -> bool:
    """Whether a fixture is built, directly or not, on ``comm``."""
    if fixturedef.argname == "comm":
        return False  # it is the absence of a communicator itself
    seen, names = set(), list(fixturedef.argnames)
    while names:
        name = names.pop()
        if name == "comm":
            return True
        if name not in seen:
            seen.add(name)
            for definition in request._fixturemanager.getfixturedefs(name, request.node) or ():
                names.extend(definition.argnames)
    return False
