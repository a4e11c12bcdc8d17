"""Let the ranks wait for each other and exchange messages, though some may be stuck or dead."""

import time
from typing import Any

from . import post_mortem
from .control import Control
from .mpi import MPI
from .watchdog import Watchdog

LEAVING = "leaving"
"""The topic of the last exchange, when a rank ends its session."""

# A rank waits this much longer than the deadline for another rank; by then the guard has acted.
_PATIENCE = 12.0
# MPI reports a death within this time, or not at all: after an exit in C, or an abort.
_DEATH_REPORTED = 2.0
# Without fault tolerance: the time the other ranks have to print where they are.
_PRINT_TIME = 2.0


class RunEnds(Exception):
    """The ranks cannot go on together. The message says why."""


class Meeting:
    """Exchanges between ranks that may be stuck, dead, or about to leave."""

    def __init__(self, control: Control, watchdog: Watchdog) -> None:
        self.control = control
        self.watchdog = watchdog
        self.over = False  # true once the ranks exchange nothing any more
        self.dead: dict[int, str] = {}  # by rank, what is known about its end
        # By rank, the messages of the latest exchange; empty if it failed.
        self.latest: dict[int, dict[str, Any]] = {}

    def exchange(
        self, topic: str, message: dict[str, Any], deadline: float, grace: float | None = None
    ) -> dict[int, dict[str, Any]]:
        """Return all survivors' messages about ``topic``, by rank.

        Args:
            topic: where this rank is in the session; it has to be the same on all ranks.
            message: JSON values by name.
            deadline: seconds that another rank may take to come.
            grace: seconds after which ranks that have not come are torn out of the communication
                in which they are stuck; None: never.

        Raises:
            RunEnds: a rank is lost, leaves the session, or is at another topic.
        """
        before, self.latest = list(self.control.alive), {}
        waiting = _Waiting(self, topic, message, deadline, grace)
        self.watchdog.kill_in(deadline + _PATIENCE + 5.0)
        try:
            messages = self.latest = self.control.exchange({"topic": topic, **message}, waiting)
        except RanksLost as lost:
            self._record_deaths(lost.ranks)
            self.control.alive = [r for r in before if r not in lost.ranks]
            self.control.can_finalize = False
            self.over = True
            raise RunEnds(f"{lost} during {topic}, which MPI cannot survive") from None
        except MPI.Exception as error:  # only without fault tolerance
            self.watchdog.print_now(f"{topic}: {error}\n{_failure(message)}")
            time.sleep(_PRINT_TIME)
            self.watchdog.abort()
        finally:
            self.watchdog.kill_in(None)
        self._record_deaths([r for r in before if r not in self.control.alive])
        self._check_topics(topic, messages)
        return messages

    def leave(
        self, reason: str, code: int, deadline: float, message: dict[str, Any] | None = None
    ) -> int:
        """Agree to end the session, and return the exit code for all ranks.

        Args:
            reason: why this rank ends early; empty if it does not.
            code: the exit code of this rank.
            deadline: seconds that another rank may take to come.
            message: anything else for the other ranks.
        """
        grace = 0.05 if reason else None
        message = {**(message or {}), "reason": reason, "code": code}
        messages = self.exchange(LEAVING, message, deadline, grace)
        self.over = True
        return max(answer.get("code", 0) for answer in messages.values())

    def _check_topics(self, topic: str, messages: dict[int, dict[str, Any]]) -> None:
        if topic == LEAVING:
            return
        leaving = {r: m["reason"] for r, m in messages.items() if m["topic"] == LEAVING}
        if leaving:
            self.over = True
            reasons = [
                f"rank {r} left the session: {why or 'no reason'}" for r, why in leaving.items()
            ]
            raise RunEnds("; ".join(reasons))
        if len({m["topic"] for m in messages.values()}) > 1:
            self.over = True
            places = "; ".join(f"rank {r} is at {m['topic']}" for r, m in messages.items())
            raise RunEnds(f"the ranks are at different points: {places}")

    def _record_deaths(self, ranks: list[int]) -> None:
        for rank in ranks:
            self.control.can_finalize = False
            self.dead[rank] = post_mortem.describe(self.watchdog, rank)


def _failure(message: dict[str, Any]) -> str:
    """Return the traceback in a message, if any: it is printed if the exchange fails."""
    return str(message.get("report", {}).get("text", ""))


class RanksLost(Exception):
    """Ranks have ended, and MPI does not report it."""

    def __init__(self, ranks: list[int], tolerant: bool) -> None:
        names = ", ".join(map(str, ranks))
        how = "ended in C code, by _exit or MPI_Abort," if tolerant else "died"
        super().__init__(f"rank {names} {how}")
        self.ranks = ranks


class _Waiting:
    """What a rank does while it waits for the others."""

    def __init__(
        self,
        meeting: Meeting,
        topic: str,
        message: dict[str, Any],
        deadline: float,
        grace: float | None,
    ) -> None:
        self._control = meeting.control
        self._watchdog = meeting.watchdog
        self._topic = topic
        self._failure = _failure(message)
        self._grace = grace
        self._limit = deadline + _PATIENCE

    def __call__(self, waited: float) -> None:
        if self._grace is not None and waited > self._grace:
            self._grace = None
            self._control.unblock()
        gone = self._watchdog.table.gone(_DEATH_REPORTED)
        if lost := [rank for rank in gone if rank in self._control.alive]:
            self._control.unblock()
            raise RanksLost(lost, self._control.tolerant)
        if not self._control.tolerant and self._failure and self._overdue():
            # The ranks that are stuck print where they are at this moment, then abort the launch.
            self._watchdog.print_now(f"{self._topic} failed here:\n{self._failure}")
            self._failure = ""
        if waited > self._limit:
            self._watchdog.print_now(
                f"{self._topic}: another rank does not answer; the run is aborted"
            )
            self._watchdog.abort()

    def _overdue(self) -> bool:
        return time.monotonic() > self._watchdog.deadline
