"""Hold what a rank knows about the run, and end the run when the ranks cannot go on together."""

import faulthandler
from dataclasses import asdict
from typing import Any, NoReturn

import pytest

from .control import Control
from .groups import Group
from .meeting import Meeting, RunEnds
from .verdict import PhaseReport
from .watchdog import GRACE, Watchdog

# Seconds until all ranks are there for the first time: a rank may have failed before it got here.
_START_TIME = 60.0


class Run:
    """The run, as this rank sees it.

    Other plugins get it by ``config.pluginmanager.get_plugin("ranks")``.

    Attributes:
        deadline: seconds that a phase may take, unless the test's mark says otherwise.
        control: who is alive.
        watchdog: ends a phase that takes too long: ``with run.watchdog.phase(seconds):``.
        meeting: exchanges messages with the other ranks.
        communicators_broken: whether the communicators of the current test are revoked or have
            lost ranks; then they must not be freed.
        fixtures_broken: whether there may be fixtures that hold communicators of before a fault.
        latest_fault: the phase in which communicators were last revoked or lost ranks.
        end_reason: what is shown at the end if the ranks could not go on together.
        code: the exit code.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        faulthandler.dump_traceback_later(_START_TIME, exit=True)
        self.control = Control()
        self.watchdog = Watchdog(self.control)
        faulthandler.cancel_dump_traceback_later()
        self.meeting = Meeting(self.control, self.watchdog)
        self.communicators_broken = False
        self.fixtures_broken = False
        self.latest_fault = ""
        self.end_reason = ""
        self.code = int(pytest.ExitCode.INTERNAL_ERROR)  # until the session says another

    def deadline_of(self, item: pytest.Item) -> float:
        """Return the seconds that each phase of a test may take."""
        mark = item.get_closest_marker("deadline")
        return float(mark.args[0]) if mark else self.deadline

    def agree(
        self, topic: str, own: PhaseReport, deadline: float
    ) -> tuple[dict[int, PhaseReport], dict[int, str]]:
        """Exchange reports of a phase.

        Returns:
            By rank, the reports of the survivors, and what is known about the end of each rank
            that has died since the last exchange.
        """
        message = {"report": asdict(own)}
        messages, dead = self.exchange_and_bury(topic, message, deadline, GRACE.get(own.outcome))
        return {rank: PhaseReport(**m["report"]) for rank, m in messages.items()}, dead

    def exchange_and_bury(
        self, topic: str, message: dict[str, Any], deadline: float, grace: float | None = None
    ) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
        """Exchange messages, also return the new deaths, and renew COMM_WORLD if it is broken."""
        known = set(self.meeting.dead)
        messages = self.exchange(topic, message, deadline, grace)
        dead = {rank: text for rank, text in self.meeting.dead.items() if rank not in known}
        if self.control.broken:
            self.control.renew_world()
            self.latest_fault = topic
            self.communicators_broken = self.fixtures_broken = True
        return messages, dead

    def exchange(
        self, topic: str, message: dict[str, Any], deadline: float, grace: float | None = None
    ) -> dict[int, dict[str, Any]]:
        """Exchange messages as ``Meeting.exchange`` does, and exit if the run cannot go on."""
        try:
            return self.meeting.exchange(topic, message, deadline, grace)
        except RunEnds as end:
            self.exit(str(end))

    def finish_test(self, group: Group | None = None) -> None:
        """Free the communicators of a test that is over, unless they are broken."""
        if group is not None and not (self.communicators_broken or self.control.revoked):
            group.free()
        self.communicators_broken = False

    def exit_without_rank_0(self, details: str) -> NoReturn:
        """End the session, because the rank that prints and saves has died."""
        self.exit("rank 0 died, and only rank 0 prints and saves", details)

    def exit(self, reason: str, details: str = "") -> NoReturn:
        """End the session on this rank without another exchange."""
        self.end_reason = f"{reason}\n{details}".strip()
        self.meeting.over = True
        if self.control.leader != 0 and self.control.rank == self.control.leader:
            self.watchdog.print_now(self.end_reason)  # rank 0, which prints, is dead
        pytest.exit(reason, returncode=pytest.ExitCode.INTERRUPTED)
